package verdict

import (
	"time"

	d "fairlead.dev/fairlead/disconnect"
)

// noon is when the trouble of all tests begins.
var noon = time.Date(2026, 11, 23, 14, 2, 0, 0, time.UTC)

const (
	ac = d.AgentToClient
	sa = d.ServerToAgent
	cs = d.ClientToServer
)

// at is a moment, in seconds from noon, by a clock that is right.
func at(s float64) Moment { return Moment{Wall: noon.Add(time.Duration(s * float64(time.Second)))} }

func attr(r d.Reason, i d.Initiator, detail string) d.Attribution {
	return d.Attribution{Reason: r, Initiator: i, Detail: detail}
}

// says makes a testimony of a party about the connection that is judged: what it noticed
// between two seconds, and which facts it brings.
func says(who d.Initiator, leg d.ConnectType, good, noticed float64, facts ...Fact) Testimony {
	t := Testimony{
		Observer: who, Instance: who.String() + "-1", ConnectionID: "c1", ConnectType: leg, Kind: Ending, Phase: PhaseOpen,
		LastGood: at(good), FirstNoticed: at(noticed), Facts: facts, Principal: principals[who], Received: noon.Add(2 * time.Hour),
	}
	if who != server {
		t.Clock = Clock{Bound: 20_000}
	}
	return t
}

var principals = map[d.Initiator]string{client: "ada", agent: "dev"}

// remarks makes it the word of somebody who does not know whether the connection ended.
func remarks(t Testimony) Testimony { t.Kind = Remark; return t }

func interrupted(t Testimony) Testimony { t.Kind = Interruption; return t }

func phase(p string, t Testimony) Testimony { t.Phase = p; return t }

// judged adds what the observer made of it by itself.
func judged(t Testimony, r d.Reason, i d.Initiator, e d.Evidence, detail string) Testimony {
	t.Account, t.Evidence = attr(r, i, detail), e
	return t
}

func heard(t Testimony, r d.Reason, i d.Initiator) Testimony {
	return judged(t, r, i, d.EvidenceInferred, "")
}

func goodbyeFrom(who d.Initiator, s float64, r d.Reason, i d.Initiator, detail string) Fact {
	return Fact{Kind: GoodbyeReceived, About: who, At: at(s), Cause: attr(r, i, detail)}
}

func ownCause(s float64, r d.Reason, i d.Initiator, detail string) Fact {
	return Fact{Kind: OwnCause, At: at(s), Cause: attr(r, i, detail)}
}

func saidGoodbye(s float64, r d.Reason, i d.Initiator, detail string) Fact {
	return Fact{Kind: GoodbyeSent, At: at(s), Cause: attr(r, i, detail)}
}

func order(kind FactKind, s float64, r d.Reason, ref, detail string) Fact {
	return Fact{Kind: kind, At: at(s), Cause: attr(r, server, detail), Ref: ref}
}

func silence(about d.Initiator, from, until float64) Fact {
	f := Fact{Kind: HeartbeatSilence, About: about, At: at(from)}
	if until != 0 {
		f.Until = at(until)
	}
	return f
}

func about(kind FactKind, who d.Initiator, s float64) Fact {
	return Fact{Kind: kind, About: who, At: at(s)}
}

func on(leg d.ConnectType, f Fact) Fact { f.Leg = leg; return f }

func during(kind FactKind, from, until float64) Fact {
	return Fact{Kind: kind, At: at(from), Until: at(until)}
}

func fact(kind FactKind, s float64) Fact { return Fact{Kind: kind, At: at(s)} }

func exited(s float64, code int32) Fact { return Fact{Kind: ProcessExit, At: at(s), ExitCode: &code} }

func signalled(s float64, signal string, by Sender) Fact {
	return Fact{Kind: ProcessExit, At: at(s), Signal: signal, SentBy: by}
}

func journal(o Outcome, lastSign, nextStart float64) Fact {
	return Fact{Kind: Obituary, Outcome: o, At: at(lastSign), Until: at(nextStart)}
}

func alive(leg d.ConnectType, from, until float64) Fact {
	return Fact{Kind: LegAlive, Leg: leg, At: at(from), Until: at(until)}
}

// ctxOf is what the server knows of the connection.
func ctxOf(leg d.ConnectType) Context {
	return Context{
		ConnectionID: "c1", ConnectType: leg, Opened: noon.Add(-time.Hour), Now: noon.Add(2 * time.Hour),
		Principals: principals, RelayOwner: server,
	}
}
