// Package scenario is the fault lab's table: what is done to a Fairlead that works, and
// what each party must say of it in the end. The truth here comes from who injects the
// fault, and never from a log of the program; the words and what is expected of them are
// therefore written down a second time and not taken from package disconnect.
//
// It is data and its printing. It injects nothing and judges nothing.
package scenario

import (
	"slices"
	"time"
)

// Party is who does something or says something.
type Party string

// Parties. Network does, but says nothing.
const (
	Client  Party = "client"
	Agent   Party = "agent"
	Server  Party = "server"
	Relay   Party = "relay"
	Network Party = "network"
	Log     Party = "log" // the connection log: what all said, joined
)

// Witnesses are those that are scored, in the order of the tables.
var Witnesses = []Party{Client, Agent, Server, Log}

// Leg is the layer that ends.
type Leg string

// Legs.
const (
	AC Leg = "agent_to_client"
	SA Leg = "server_to_agent"
	CS Leg = "client_to_server"
)

// Kind is what happened to the connection that is spoken of.
type Kind string

// Kinds.
const (
	Ending       Kind = "ending"
	Interruption Kind = "interruption" // it went on
	Attempt      Kind = "attempt"      // it never was
)

// Words are what is judged of an ending.
type Words struct {
	Reason   string `json:"reason"`
	By       Party  `json:"initiator"`
	Expected bool   `json:"expected"`
}

// Say is one thing that a party must finally say.
type Say struct {
	Kind Kind `json:"kind"`
	Leg  Leg  `json:"leg"`
	Words
	// Or are words that are as true.
	Or []Words `json:"or,omitempty"`
	// May: it is also true to say nothing, for the fault need not reach this leg.
	May bool `json:"may,omitempty"`
}

// Fate is what becomes of the session.
type Fate string

// Fates.
const (
	Ends   Fate = ""
	Lives  Fate = "lives" // it goes on, and can be used afterwards
	Either Fate = "either"
)

// Truth is what whoever injects the fault knows.
type Truth struct {
	Fate   Fate // "": it ends
	Client []Say
	Agent  []Say
	Server []Say
	Log    []Say // none: as Server
}

// Of is what party w must say; none: nothing of its own has ended.
func (t Truth) Of(w Party) []Say {
	switch {
	case w == Client:
		return t.Client
	case w == Agent:
		return t.Agent
	case w == Log && len(t.Log) > 0:
		return t.Log
	}
	return t.Server
}

// Path is how the session's packets go when the fault comes.
type Path string

// Paths.
const (
	Direct  Path = "direct"
	Relayed Path = "relay"
)

// Form is how long an outage lasts beside the outage limit.
type Form string

// Forms.
const (
	Once  Form = ""      // it is no outage
	Short Form = "short" // the session survives
	Long  Form = "long"  // the limit is over before the outage is
)

// Session is what the client runs.
type Session string

// Sessions. All but Dialling have begun and work when the fault comes.
const (
	Shell    Session = ""         // fairlead ssh on a terminal
	Attached Session = "attached" // fairlead attach on a terminal
	Stock    Session = "stock"    // stock ssh on a terminal, over fairlead ssh --stdio
	Named    Session = "named"    // fairlead ssh --name on a terminal
	Dialling Session = "dialling" // none: the client comes after the fault
)

// Variant is a program that differs from the real one in what no input can make that do.
type Variant string

// Variants.
const (
	Panics Variant = "panics" // at SIGUSR2, in the work of each session
	Older  Variant = "older"  // it speaks an older protocol with the server
)

// World is what differs from the usual site.
type World struct {
	Limit    time.Duration // outage limit of both ends; 0: the usual of the form
	OwnRelay bool          // a relay process on a host of its own, beside the server's
	OneRelay bool          // with OwnRelay: the server relays nothing
	TLS      bool          // the server has a certificate of the lab's own authority
	Named    bool          // the server is known by a name, from a resolver on its host
	Proxied  bool          // agent and client reach the server through a proxy on its host
	Token    time.Duration // the client's login is valid so long; 0: for ever
	Memory   bool          // the agent and its sessions live in a memory cgroup each
	SmallFS  Party         // the state of this party is on a file system of its own, of 8 MB
	Args     map[Party][]string
	Variants map[Party]Variant // what the agent is, or each client that comes after the fault
	Before   []Act             // done before the session begins
}

// Step is done so long after the session works.
type Step struct {
	At time.Duration
	Act
}

// Scenario is one run of the lab.
type Scenario struct {
	Name  string
	Row   int    // of the matrix; 0: it is none of it
	Story string // one sentence
	Path  Path
	Form  Form
	Session
	World
	Steps     []Step
	Truth     Truth
	Simulated bool   // the fault is one that only resembles the real one
	Cannot    string // why it cannot be injected; such a scenario is listed, and fails
	// Provisional and Final are how soon after the fault, and after the last step, words
	// are due.
	Provisional, Final time.Duration
	CI                 bool // part of the subset that every change has to pass
	Control            bool // nothing ends and nothing is to be said
}

// Ends is when the last step is done.
func (s Scenario) Ends() (last time.Duration) {
	for _, step := range s.Steps {
		last = max(last, step.At)
	}
	return last
}

// Due is how long after the fault party w must have said the first and the last word of
// say. Whoever cannot speak before the last step has until then more, and so has what is
// only known when it is over.
func (s Scenario) Due(w Party, say Say) (provisional, final time.Duration) {
	provisional, final = s.Provisional, s.Ends()+s.Final
	if say.Kind == Interruption || s.mutes(w) {
		provisional = final
	}
	return provisional, final
}

// Alone reports whether nothing else may run meanwhile: the kernel counts whom it kills for
// want of memory for the whole machine.
func (s Scenario) Alone() bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool { return step.Verb == Starves })
}

// mutes reports whether the steps take w's speech away, until the last of them.
func (s Scenario) mutes(w Party) bool {
	if w == Log {
		w = Server // which keeps it
	}
	return slices.ContainsFunc(s.Steps, func(step Step) bool {
		switch step.Verb {
		case Signals, Freezes, Suspends, PowersOff, Starves:
			return step.On == w
		}
		return false
	})
}

// ByName returns the scenario of that name.
func ByName(name string) (Scenario, bool) {
	all := All()
	i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return Scenario{}, false
	}
	return all[i], true
}
