package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// Viewer is who reads, and what the reader can do.
type Viewer struct {
	// Mine: the session is the reader's own, so the client is "you". Otherwise User names
	// whose it is.
	Mine bool
	User string
	// Workspace is the name by which the reader reaches it.
	Workspace string
	// Device is what the client's host is called; empty: computer.
	Device string
	// Terminal is set if the session was a terminal that is still there to attach to.
	Terminal bool
	// Program is how the reader calls the command line; empty: fairlead.
	Program string
	// Zone is in which times are told; nil: UTC.
	Zone *time.Location
}

// Sentence is an explanation in plain language, in parts that are whole sentences or
// empty.
type Sentence struct {
	What   string `json:"what"`   // what happened, when and where
	Normal string `json:"normal"` // whether that is normal
	Who    string `json:"who"`    // who began it: client, agent, server, network, relay or nobody known, in words
	Sure   string `json:"sure"`   // how sure that is; empty if it is certain
	Next   string `json:"next"`   // one next step; empty if there is none
}

// String is the whole in one paragraph.
func (s Sentence) String() string {
	parts := slices.DeleteFunc([]string{s.What, s.Normal, s.Sure, s.Next}, func(p string) bool { return p == "" })
	return strings.Join(parts, " ")
}

// Explain says what a verdict means to a reader at now. It is a pure function. All text
// that came from elsewhere is scrubbed.
func Explain(v verdict.Verdict, viewer Viewer, now time.Time) Sentence {
	s := story{v: &v, viewer: viewer, now: now}
	what := s.happened()
	if then := s.then(); then != "" {
		what += "; " + then
	}
	return Sentence{
		What:   sentence(what),
		Normal: s.normal(),
		Who:    s.began(),
		Sure:   s.sure(),
		Next:   sentence(s.next()),
	}
}

// sentence makes a clause begin and end like a sentence.
func sentence(clause string) string {
	clause = disconnect.ScrubTo(clause, 1024)
	if clause == "" {
		return ""
	}
	clause = strings.ToUpper(clause[:1]) + clause[1:]
	if strings.HasSuffix(clause, ".") {
		return clause
	}
	return clause + "."
}

// story is what the clauses of one explanation are made of.
type story struct {
	v      *verdict.Verdict
	viewer Viewer
	now    time.Time
}

func (s *story) workspace() string {
	return disconnect.Scrub(cmp.Or(s.viewer.Workspace, "the workspace"))
}

// argument is the workspace as a command takes it.
func (s *story) argument() string { return disconnect.Scrub(cmp.Or(s.viewer.Workspace, "WORKSPACE")) }

// theWorkspace begins a sentence: a name keeps its small letters.
func (s *story) theWorkspace() string {
	if s.viewer.Workspace == "" {
		return "the workspace"
	}
	return "the workspace " + s.workspace()
}

func (s *story) program() string { return cmp.Or(s.viewer.Program, "fairlead") }

// you is the person at the client.
func (s *story) you() string {
	switch {
	case s.viewer.Mine:
		return "you"
	case s.viewer.User == "":
		return "the user"
	}
	return "the user " + disconnect.Scrub(s.viewer.User)
}

// your is whose something is.
func (s *story) your(thing string) string {
	switch {
	case s.viewer.Mine:
		return "your " + thing
	case s.viewer.User == "":
		return "the user's " + thing
	}
	return "the " + thing + " of " + disconnect.Scrub(s.viewer.User)
}

func (s *story) device() string { return s.your(cmp.Or(s.viewer.Device, "computer")) }

// party names one of the parties as a thing that can stop, die or sleep.
func (s *story) party(i disconnect.Initiator) string {
	switch i {
	case disconnect.Client:
		return s.device()
	case disconnect.Agent:
		return "the agent of " + s.workspace()
	case disconnect.Server:
		return "the Fairlead server"
	case disconnect.Relay:
		return "the relay"
	}
	return "the network"
}

// program of a party, for what a program does.
func (s *story) process(i disconnect.Initiator) string {
	if i == disconnect.Client {
		return "Fairlead on " + s.device()
	}
	return s.party(i)
}

// began is who began it: a program of the session is nobody's tool.
func (s *story) began() string {
	switch {
	case s.v.Reason == disconnect.ProcessExited, s.v.Reason == disconnect.Graceful && s.v.Rule == verdict.R1:
		return "the program on " + s.workspace()
	case s.v.Reason == disconnect.ProcessSignaled:
		return "whoever sent the signal on " + s.workspace()
	case s.v.Reason == disconnect.AdminTerminated:
		return "an operator"
	case s.v.Reason == disconnect.WorkspaceStopped:
		return "whoever stopped the workspace"
	case s.v.Reason == disconnect.AuthRevoked:
		return "whoever withdrew the right"
	case s.v.Reason == disconnect.IdleTimeout, s.v.Reason == disconnect.SessionLimit, s.v.Reason == disconnect.AuthExpired:
		return "nobody: a rule did, which " + s.party(s.v.Initiator) + " keeps"
	}
	return s.who(s.v.Initiator)
}

func (s *story) who(i disconnect.Initiator) string {
	switch i {
	case disconnect.Client:
		return s.you()
	case disconnect.InitiatorUnknown:
		return "nobody knows"
	}
	return s.party(i)
}

// link names what was lost.
func (s *story) link() string {
	switch s.v.ConnectType {
	case disconnect.ServerToAgent:
		return "the link between " + s.party(disconnect.Agent) + " and the server"
	case disconnect.ClientToServer:
		return "the link between " + s.device() + " and the server"
	case disconnect.RelayToServer:
		return "the link between the relay and the server"
	}
	return s.your("session") + " on " + s.workspace()
}

// between names its two ends.
func (s *story) between() string {
	switch s.v.ConnectType {
	case disconnect.ServerToAgent:
		return s.party(disconnect.Agent) + " and the server"
	case disconnect.ClientToServer:
		return s.device() + " and the server"
	case disconnect.RelayToServer:
		return "the relay and the server"
	}
	return s.device() + " and " + s.workspace()
}

// clock tells a time, with the day if it is not today.
func (s *story) clock(t time.Time) string {
	zone := cmp.Or(s.viewer.Zone, time.UTC)
	t, now := t.In(zone), s.now.In(zone)
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// when is " at 14:02", or empty if nobody knows.
func (s *story) when() string {
	if t := s.moment(); !t.IsZero() {
		return " at " + s.clock(t)
	}
	return ""
}

// elsewhen are kinds of facts whose time is not that of the ending.
var elsewhen = []verdict.FactKind{verdict.PlatformNotice, verdict.StopOrder, verdict.LegAlive, verdict.Obituary, verdict.HeartbeatSilence}

// moment is the best known time of what decided.
func (s *story) moment() time.Time {
	for i := range s.v.Used {
		if item := &s.v.Used[i]; !item.At.IsZero() && !slices.Contains(elsewhen, item.Fact.Kind) {
			return item.At
		}
	}
	if s.v.Noticed.IsZero() {
		return s.v.Began
	}
	return s.v.Noticed
}

// span is " from 14:02 to 14:31", or since when if it is not over, of facts of these kinds.
func (s *story) span(kinds ...verdict.FactKind) string {
	for i := range s.v.Used {
		item := &s.v.Used[i]
		if !slices.Contains(kinds, item.Fact.Kind) || item.At.IsZero() {
			continue
		}
		until := item.Until
		if until.IsZero() {
			until = s.v.Over
		}
		return s.fromTo(item.At, until)
	}
	return s.fromTo(s.v.Began, s.v.Over)
}

func (s *story) fromTo(from, to time.Time) string {
	switch {
	case from.IsZero():
		return ""
	case to.IsZero() || !to.After(from):
		return " from " + s.clock(from) + " on"
	case s.clock(from) == s.clock(to):
		return fmt.Sprintf(" for %v at %s", to.Sub(from).Round(time.Second), s.clock(from))
	}
	return " from " + s.clock(from) + " to " + s.clock(to)
}

// because is the detail in brackets, if there is one that says more.
func (s *story) because() string {
	switch s.v.Detail {
	case "", "the agent is stopping", "the server is stopping", "normal exit":
		return ""
	}
	return " (" + strings.TrimSuffix(disconnect.Scrub(s.v.Detail), ".") + ")"
}

func (s *story) normal() string {
	switch {
	case s.v.Expected():
		return "This is normal."
	case s.v.Kind == verdict.Interruption:
		return "This is not normal, but nothing was lost."
	}
	return "This is not normal."
}

// sure says how far the verdict can be trusted, and whose word is missing.
func (s *story) sure() string {
	text := ""
	switch s.v.Confidence {
	case disconnect.ConfidenceHigh:
		if s.v.Evidence == disconnect.EvidenceCorrelated {
			text = "This is nearly certain: " + s.agreed()
		}
	case disconnect.ConfidenceLow:
		text = "This is only what it looked like from one side"
		if s.v.Evidence == disconnect.EvidenceCorrelated {
			text = "This is likely, but not proved"
		}
	case 0:
		return ""
	}
	if s.v.Final || len(s.v.Waiting) == 0 {
		return sentence(text)
	}
	if text != "" {
		text += ", and"
	} else {
		text = "It is what is known so far:"
	}
	return sentence(text + " " + s.missing() + " may still say more")
}
