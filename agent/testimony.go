package agent

import (
	"encoding/json"
	"time"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/journal"
)

// testimonyOf is what the agent saw of the end of a session, at a time of its clock.
func testimonyOf(e agentssh.Ended, at time.Time) *verdict.Testimony {
	now := verdict.Moment{Wall: at}
	t := &verdict.Testimony{
		ID: "ended", Observer: disconnect.Agent, ConnectType: disconnect.AgentToClient, Kind: verdict.Ending, Phase: verdict.PhaseOpen,
		Account: e.Attribution, Evidence: evidenceOf(e.Attribution), FirstNoticed: now,
	}
	fact := verdict.Fact{At: now}
	switch {
	case e.Reason == disconnect.Unknown:
		return nil // without a reason there is nothing to say
	case e.Exited:
		t.Account, t.Evidence = disconnect.Attribution{}, 0 // the fact says it, and that nobody decided it
		fact.Kind, fact.Signal, fact.Text = verdict.ProcessExit, e.Signal, e.Detail
		if code := int32(e.ExitCode); e.Signal == "" {
			fact.ExitCode = &code
		}
	case e.Initiator == disconnect.Server:
		fact.Kind, fact.Cause = verdict.StopOrder, e.Attribution
	case e.Initiator == disconnect.Agent && t.Evidence == disconnect.EvidenceLocal:
		fact.Kind, fact.Cause = verdict.OwnCause, e.Attribution
	case e.Reason == disconnect.NetworkTimeout:
		fact.Kind, fact.About = verdict.HeartbeatSilence, disconnect.Client
		fact.At = verdict.Moment{} // since when is not known here
	default:
		return t
	}
	t.Facts = append(t.Facts, fact)
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

// obituaryOf is what the journal of a former life says of a connection that it had open.
func obituaryOf(left journal.Recovered, died disconnect.Attribution, now time.Time) *verdict.Testimony {
	fact := verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: left.LastSign}, Until: verdict.Moment{Wall: now}, Text: died.Detail}
	switch {
	case left.Clean:
		fact.Outcome, fact.Cause = verdict.Clean, died
	case !left.SameBoot:
		fact.Outcome = verdict.Rebooted
	}
	noticed := left.LastSign.Add(journal.SignInterval + signEvery) // it lived on for no longer without another sign
	if now.Before(noticed) {
		noticed = now
	}
	return &verdict.Testimony{
		ID: "obituary", Observer: disconnect.Agent, ConnectType: disconnect.AgentToClient, Kind: verdict.Ending, Phase: verdict.PhaseOpen,
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
