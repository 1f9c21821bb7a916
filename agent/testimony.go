package agent

import (
	"encoding/json"
	"net/netip"
	"time"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/hostwatch"
	"fairlead.dev/fairlead/journal"
)

// toldAfter is the silence from which an end testifies of it: a person is told then.
const toldAfter = 4 * time.Second

// sight is what the agent can see from where it stands when something ends.
type sight struct {
	now time.Time
	// heard is when the other end was last heard, zero if that is not known; missing is
	// when it could be noticed that nothing followed, zero if something did.
	heard, missing time.Time
	said           disconnect.Attribution // the other end's goodbye, if it said one
	facts          []verdict.Fact         // of the own host
	clock          verdict.Clock
}

// sightOf is what the agent sees of a client now.
func (a *agent) sightOf(client netip.Addr) sight {
	var s sight
	if a.companion != nil {
		s.heard, s.missing, _ = a.companion.LastHeard(client)
		if ending, ended := a.companion.Ending(client); ended && ending.Initiator == disconnect.Client {
			s.said = ending
		}
	}
	s = a.witness(s)
	if a.companion != nil {
		if f, gone := a.companion.RelayGone(client); gone {
			s.facts = append(s.facts, f)
		}
	}
	return s
}

// witness adds what the agent knows of its own host, and was told by the platform.
func (a *agent) witness(s sight) sight {
	s.now, s.clock = clock.Now(), hostwatch.Clock()
	since := s.now
	if !s.heard.IsZero() {
		since = s.heard
	}
	s.facts = a.host.Facts(since.Add(-hostwatch.Before))
	if n := a.notice.Load(); n != nil && n.goodbye.Reason != disconnect.Unknown {
		s.facts = append(s.facts, verdict.Fact{
			Kind: verdict.PlatformNotice, Cause: n.goodbye.On(disconnect.AgentToClient), Ref: disconnect.ScrubTo(n.kind, 64),
			At: verdict.Moment{Wall: n.heard.Round(0)}, Until: verdict.Moment{Wall: n.until.Round(0)},
		})
	}
	return s
}

// add completes a testimony with what was seen beside its own facts. Silence is none of the
// end of a program, which needs nobody to hear it.
func (s sight) add(t *verdict.Testimony, about disconnect.Initiator, silent bool) {
	t.Clock, t.FirstNoticed = s.clock, verdict.Moment{Wall: s.now}
	if !s.heard.IsZero() {
		t.LastGood.Wall = s.heard
	}
	if silent && !s.missing.IsZero() {
		if s.missing.Before(s.now) {
			t.FirstNoticed.Wall = s.missing
		}
		if s.now.Sub(s.heard) >= toldAfter {
			t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.HeartbeatSilence, About: about, At: t.LastGood})
		}
	}
	t.Facts = append(t.Facts, s.facts...)
}

// testimonyOf is what the agent saw of the end of a session.
func testimonyOf(e agentssh.Ended, s sight) *verdict.Testimony {
	t := &verdict.Testimony{
		ID: "ended", Observer: disconnect.Agent, ConnectType: disconnect.AgentToClient, Kind: verdict.Ending, Phase: verdict.PhaseOpen,
		Account: e.Attribution, Evidence: evidenceOf(e.Attribution),
	}
	now := verdict.Moment{Wall: s.now}
	switch {
	case e.Reason == disconnect.Unknown:
		return nil // without a reason there is nothing to say
	case e.Exited:
		t.Account, t.Evidence = disconnect.Attribution{}, 0 // the fact says it, and that nobody decided it
		exit := verdict.Fact{Kind: verdict.ProcessExit, At: now, Signal: e.Signal, Text: e.Detail}
		if code := int32(e.ExitCode); e.Signal == "" {
			exit.ExitCode = &code
		}
		t.Facts = append(t.Facts, exit)
		if e.OutOfMemory {
			t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.OOMKill, At: now})
		}
	case e.Initiator == disconnect.Server:
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.StopOrder, At: now, Cause: e.Attribution})
	case e.Initiator == disconnect.Agent && t.Evidence == disconnect.EvidenceLocal:
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.OwnCause, At: now, Cause: e.Attribution})
	case e.Initiator == disconnect.Client && s.said.Reason == e.Reason:
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.GoodbyeReceived, At: now, About: disconnect.Client, Cause: s.said})
	}
	s.add(t, disconnect.Client, !e.Exited)
	return t
}

// evidenceOf is what the agent's own judgement of an end rests on.
func evidenceOf(a disconnect.Attribution) disconnect.Evidence {
	switch {
	case a.Initiator == disconnect.Network, a.Reason == disconnect.PeerCrashed, a.Reason == disconnect.PeerUnresponsive:
		return disconnect.EvidenceInferred
	case a.Initiator == disconnect.Agent:
		return disconnect.EvidenceLocal
	}
	return disconnect.EvidenceDeclared
}

// linkMissing is how long after it was last heard it can be noticed that the server is not:
// after a heartbeat, and a moment.
const linkMissing = 5 * time.Second

// explained is how a control link ended, if nobody has declared it and this host itself was
// the reason: a machine without a link, or a process that was stopped, finds only silence
// or a link that the other end has given up. Otherwise attr stays.
func (a *agent) explained(link *control.Link, attr disconnect.Attribution) disconnect.Attribution {
	switch attr.Reason {
	case disconnect.NetworkTimeout, disconnect.NetworkError, disconnect.ConnectionReset, disconnect.NetworkUnreachable,
		disconnect.PeerUnresponsive:
	default:
		return attr
	}
	heard := link.LastHeard()
	if own, known := a.host.Explain(disconnect.Agent, disconnect.ServerToAgent, heard, heard.Add(linkMissing), control.Patience(attr)); known {
		return own
	}
	return attr
}

// linkTestimony is what the agent saw of the end of a control link, which it calls attr;
// nil: nothing that the server does not know.
func (a *agent) linkTestimony(link *control.Link, attr disconnect.Attribution) *verdict.Testimony {
	ending := link.Ending()
	if ending.Goodbye && ending.Attribution == attr || attr.Reason == disconnect.Unknown {
		return nil // both ends know why
	}
	s := sight{heard: link.LastHeard()}
	s.missing = s.heard.Add(linkMissing)
	if clock.Now().Before(s.missing) {
		s.missing = time.Time{}
	}
	t := &verdict.Testimony{
		ID: "ended", Observer: disconnect.Agent, Instance: a.instance, ConnectType: disconnect.ServerToAgent, Kind: verdict.Ending,
		Phase: verdict.PhaseOpen, Account: attr, Evidence: evidenceOf(attr),
	}
	about := verdict.Fact{About: disconnect.Server, At: verdict.Moment{Wall: clock.Now()}}
	switch attr.Reason {
	case disconnect.NetworkError:
		about.Kind = verdict.SocketClosed
		t.Facts = append(t.Facts, about)
	case disconnect.ConnectionReset:
		about.Kind = verdict.SocketReset
		t.Facts = append(t.Facts, about)
	case disconnect.PeerUnresponsive:
		about.Kind = verdict.ProbeAnswered
		t.Facts = append(t.Facts, about)
	}
	a.witness(s).add(t, disconnect.Server, true)
	return t
}

// obituaryOf is what the journal of a former life says of a connection that it had open.
func obituaryOf(leg disconnect.ConnectType, left journal.Recovered, died disconnect.Attribution, now time.Time) *verdict.Testimony {
	fact := verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: left.LastSign}, Until: verdict.Moment{Wall: now}, Text: died.Detail}
	switch {
	case left.Clean:
		fact.Outcome, fact.Cause = verdict.Clean, died
	case !left.SameBoot:
		fact.Outcome = verdict.Rebooted
	case died.Reason == disconnect.OOMKilled:
		fact.Outcome = verdict.OOMKilled
	}
	noticed := left.LastSign.Add(journal.SignInterval + signEvery) // it lived on for no longer without another sign
	if now.Before(noticed) {
		noticed = now
	}
	return &verdict.Testimony{
		ID: "obituary", Observer: disconnect.Agent, ConnectType: leg, Kind: verdict.Ending, Phase: verdict.PhaseOpen,
		LastGood: verdict.Moment{Wall: left.LastSign}, FirstNoticed: verdict.Moment{Wall: noticed}, Facts: []verdict.Fact{fact},
	}
}

// encode returns the testimony as the server takes it; nil: there is none.
func encode(t *verdict.Testimony) []byte {
	if t == nil || t.Validate() != nil {
		return nil
	}
	data, err := json.Marshal(t)
	if err != nil {
		return nil // only a time beyond the year 9999 does this
	}
	return data
}
