package companion

import (
	"fmt"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// serverGrace is how long a watch that met another life of the agent waits for the
// server to say how the old one ended.
const serverGrace = 2 * time.Second

// presence is what the server said last of one life of the agent.
type presence struct {
	online  bool
	goodbye bool // declared by the agent
	ending  disconnect.Attribution
	at      time.Duration // when it was told first, by the boot clock
}

// declared reports whether the agent told the server that this life stops. The
// server's own stop closes the same link and says nothing about the agent.
func (p presence) declared() bool {
	return !p.online && p.goodbye && !p.ending.IsZero() &&
		!(p.ending.Reason == disconnect.ServerShutdown && p.ending.Initiator == disconnect.Server)
}

// crashed reports whether the agent's kernel closed its control socket without a
// goodbye. A link that the server gave up as silent is no such proof: the agent may
// be alive behind a dead path.
func (p presence) crashed() bool {
	if p.online || p.goodbye {
		return false
	}
	return p.ending.Reason == disconnect.NetworkError || p.ending.Reason == disconnect.ConnectionReset ||
		p.ending.Reason == disconnect.PeerCrashed
}

// closed is crashed, told by the kernel's orderly close. A reset may be of something that
// lies between and forgot the connection of an agent that lives.
func (p presence) closed() bool {
	return p.crashed() && p.ending.Reason != disconnect.ConnectionReset
}

// evidence is what a watch knows about the agent's life it began with.
type evidence struct {
	limit     time.Duration          // the outage limit
	stale     time.Duration          // silence from which the server's word outweighs hope
	heardAt   time.Time              // last frame of the agent, or the start
	replaced  time.Time              // when another life of the agent answered; zero if none
	successor bool                   // the server says that another life is online
	known     bool                   // the agent has said hello once
	mourned   disconnect.Attribution // how a connection that we thought open ended, by the agent's record
	server    presence               // zero when the server has said nothing
	refused   time.Duration          // how long its machine has been saying that it is gone
}

// judge says how the session ended, or when to look again.
//
// The agent is gone when another life of it answers; or when the server says that
// it stopped, or crashed and was replaced, and it is silent too; or when the server says
// that it crashed and its own machine that it is gone; or when it was
// silent for the outage limit. An agent that answers is alive, whatever the server
// says.
func (e evidence) judge(now time.Time) (a disconnect.Attribution, over bool, next time.Time) {
	silence := now.Sub(e.heardAt)
	switch {
	case !e.replaced.IsZero() && !e.mourned.IsZero():
		return e.mourned, true, time.Time{} // the former life was there to see it
	case !e.replaced.IsZero():
		if a, ok := e.obituary(newProcess); ok {
			return a, true, time.Time{}
		}
		if left := e.replaced.Add(serverGrace); now.Before(left) {
			return a, false, left
		}
		return e.unexplained(), true, time.Time{}
	case silence >= e.limit:
		if a, ok := e.obituary(fmt.Sprintf("it was silent for %v", e.limit)); ok {
			return a, true, time.Time{}
		}
		return e.timeout(), true, time.Time{}
	case e.server.declared() || (e.successor && e.server.crashed()):
		if silence >= e.stale {
			a, _ := e.obituary(newProcess)
			return a, true, time.Time{}
		}
		return a, false, e.heardAt.Add(e.stale)
	case e.server.closed() && e.refused >= goneAfter:
		a, _ := e.obituary("its machine says that nothing listens where it was")
		return a, true, time.Time{}
	}
	return a, false, e.heardAt.Add(e.limit)
}

// suspicion is what the evidence says now, for who has no time to wait for more and knows
// that a connection to the agent has broken.
func (e evidence) suspicion() (disconnect.Attribution, bool) {
	if !e.replaced.IsZero() && !e.mourned.IsZero() {
		return e.mourned, true
	}
	if a, ok := e.obituary("the connection to it broke"); ok || e.replaced.IsZero() {
		return a, ok
	}
	return e.unexplained(), true
}

// newProcess is the second sign of a crash: the first proves nothing alone.
const newProcess = "a new agent process took its place"

// obituary is the server's account of how the agent's life ended, if it proves one.
// second is what speaks for a crash besides.
func (e evidence) obituary(second string) (disconnect.Attribution, bool) {
	switch {
	case e.server.declared():
		return e.server.ending.On(disconnect.AgentToClient), true
	case e.server.crashed():
		if !e.replaced.IsZero() || e.successor {
			second = newProcess
		}
		return disconnect.Attribution{
			ConnectType: disconnect.AgentToClient,
			Reason:      disconnect.PeerCrashed,
			Initiator:   disconnect.Agent,
			Detail:      "the agent's control connection closed without a goodbye and " + second,
		}, true
	}
	return disconnect.Attribution{}, false
}

// unexplained is the ending when another life of the agent answers and nobody says
// how the old one ended. It may have crashed, or stopped in order while its goodbye
// could not reach us: without a witness it is not accused.
func (e evidence) unexplained() disconnect.Attribution {
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.NetworkError,
		Initiator:   disconnect.Network,
		Detail:      "a new agent process took the old one's place and the server has not said how that ended",
	}
	if !e.server.online && e.server.ending.Reason == disconnect.NetworkTimeout {
		a.Reason = disconnect.NetworkTimeout
		a.Detail = "the server lost touch with the agent, then a new agent process took its place"
	}
	return a
}

func (e evidence) timeout() disconnect.Attribution {
	detail := fmt.Sprintf("nothing heard from the agent for %v", e.limit)
	if !e.known {
		detail = fmt.Sprintf("the agent did not answer for %v", e.limit)
	}
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.NetworkTimeout,
		Initiator:   disconnect.Network,
		Detail:      detail,
	}
}
