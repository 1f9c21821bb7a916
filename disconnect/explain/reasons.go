package explain

import (
	"strconv"

	d "fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// happened is the clause of what happened.
func (s *story) happened() string {
	for _, tell := range [...]func(*story) string{(*story).work, (*story).purpose, (*story).refusal, (*story).failure, (*story).network} {
		if clause := tell(s); clause != "" {
			return clause
		}
	}
	return "nobody saw why " + s.link() + " ended" + s.when() + ", which is a fault of Fairlead"
}

// work tells of endings by the session's own work, or by who used it.
func (s *story) work() string {
	program := "the program on " + s.workspace()
	switch s.v.Reason {
	case d.Graceful:
		if s.v.Rule == verdict.R1 {
			return program + " finished" + s.when() + " without an error"
		}
		return s.who(s.v.Initiator) + " closed " + s.link() + " in order" + s.when()
	case d.ProcessExited:
		switch {
		case s.v.ExitCode != nil:
			return program + " ended" + s.when() + " with status " + strconv.Itoa(int(*s.v.ExitCode))
		case s.v.ExitSignal != "":
			return program + " ended" + s.when() + " by signal " + d.Scrub(s.v.ExitSignal) + ", which came from the session itself"
		}
		return program + " ended" + s.when() + s.because()
	case d.ProcessSignaled:
		if s.v.ExitSignal != "" {
			return "signal " + d.Scrub(s.v.ExitSignal) + ", which Fairlead did not send, killed " + program + s.when()
		}
		return "a signal that Fairlead did not send killed " + program + s.when() + s.because()
	case d.ClientClosed:
		return s.who(d.Client) + " left " + s.link() + s.when() + s.because()
	case d.SessionReplaced:
		return "another session of " + s.sameUser() + " took the place of " + s.link() + s.when() + s.because()
	}
	return ""
}

func (s *story) sameUser() string {
	if s.viewer.Mine {
		return "yours"
	}
	return s.you()
}

// purpose tells of what a service ended on purpose.
func (s *story) purpose() string {
	switch s.v.Reason {
	case d.ServerShutdown:
		return s.party(s.v.Initiator) + " was stopped or restarted" + s.when() + s.because()
	case d.WorkspaceStopped:
		if s.v.Detail == "delete" {
			return s.theWorkspace() + " was deleted" + s.when()
		}
		return s.theWorkspace() + " was stopped" + s.when() + s.because()
	case d.AdminTerminated:
		return "an operator ended " + s.link() + s.when() + s.because()
	case d.IdleTimeout:
		return "nothing had passed through " + s.link() + " for as long as its policy allows, so it ended" + s.when() + s.because()
	case d.SessionLimit:
		return s.link() + " had lasted for as long as its policy allows, so it ended" + s.when() + s.because()
	case d.AuthRevoked:
		return "the right behind " + s.link() + " was withdrawn" + s.when() + s.because()
	case d.AuthExpired:
		return "the login behind " + s.link() + " reached its end" + s.when() + s.because()
	case d.WorkspaceEvicted:
		return "the platform took the host of " + s.workspace() + " away" + s.when() + s.because()
	}
	return ""
}

// refusal tells of what was not accepted.
func (s *story) refusal() string {
	switch s.v.Reason {
	case d.AuthFailed:
		return s.party(s.v.Initiator) + " did not accept who asked for " + s.link() + s.when() + s.because()
	case d.LimitExceeded:
		return s.link() + " exceeded a limit" + s.when() + s.because()
	case d.VersionMismatch:
		return "the two ends of " + s.link() + " have no version in common" + s.because()
	case d.DuplicateAgent:
		return "a second agent with the identity of " + s.workspace() + " came" + s.when() + ", and the older one was told to stop" + s.because()
	case d.ConnectionRefused:
		return "nothing was listening where " + s.link() + " should begin" + s.when() + s.because()
	case d.PolicyDenied:
		return "the policy of " + s.workspace() + " does not allow what " + s.link() + " was for" + s.because()
	case d.ProtocolError:
		return s.process(s.v.Initiator) + " sent what is not valid" + s.when() + s.because()
	case d.SlowPeer:
		if s.v.Phase == verdict.PhaseHandshake {
			return s.process(s.v.Initiator) + " did not finish its handshake in the time allowed" + s.because()
		}
		return s.process(s.v.Initiator) + " did not read what it was sent in the time allowed" + s.when() + s.because()
	}
	return ""
}

// failure tells of a party that failed.
func (s *story) failure() string {
	who := s.v.Initiator
	switch s.v.Reason {
	case d.OOMKilled:
		if s.v.Rule == verdict.R3 {
			return "the host of " + s.workspace() + " ran out of memory" + s.when() + ", and its kernel killed the agent"
		}
		return s.theWorkspace() + " ran out of memory" + s.when() + ", and its kernel killed the program in the session"
	case d.PeerCrashed:
		if s.v.Detail == "host_restart" {
			return "the host of " + s.party(who) + " restarted or lost power" + s.when()
		}
		return s.process(who) + " was killed or crashed" + s.when()
	case d.PeerUnresponsive:
		return s.process(who) + " hung: its host answered" + s.span(verdict.HeartbeatSilence) + ", its program did not"
	case d.ResourceExhausted:
		return "a resource ran out on the host of " + s.process(who) + s.when() + s.because()
	case d.InternalError:
		return s.process(who) + " failed because of a fault in it" + s.when() + s.because()
	case d.HostPaused:
		return s.party(who) + " was stopped, or its host was," + s.span(verdict.Slept, verdict.TimerLate) + " and then went on"
	case d.Suspended:
		for i := range s.v.Used {
			if s.v.Used[i].Fact.Kind == verdict.TimerLate {
				return s.process(who) + " was stopped" + s.span(verdict.TimerLate)
			}
		}
		if who == d.Client {
			return s.party(who) + " slept" + s.span(verdict.Slept)
		}
		return "the host of " + s.party(who) + " slept, as it had announced," + s.span(verdict.Slept)
	}
	return ""
}

// network tells of what lies between.
func (s *story) network() string {
	switch s.v.Reason {
	case d.NetworkUnreachable:
		return s.net() + " was down" + s.span(verdict.LinkDown)
	case d.PathMigrated:
		return s.link() + " moved to another path" + s.when() + s.because()
	case d.RelayLost:
		return "the relay between " + s.between() + " was lost" + s.when() + ", and there was no other path"
	case d.DNSFailure:
		return "the server's name did not resolve on " + s.asker() + s.when() + s.because()
	case d.TLSFailure:
		if s.v.Initiator == d.Server {
			return "the server's certificate was not valid" + s.when() + s.because()
		}
		return "somebody between " + s.between() + " answered with another certificate" + s.when() + s.because()
	case d.ConnectionReset:
		if s.v.Locus == "path" {
			return "a box between " + s.between() + " reset the connection" + s.when() + "; neither of them did"
		}
		return "a reset ended " + s.link() + s.when() + ", by one of its ends or by a box between"
	case d.NetworkTimeout, d.NetworkError:
		return s.silence()
	}
	return ""
}

// net is whose network it was.
func (s *story) net() string {
	switch s.v.Locus {
	case "client_net":
		return "the network of " + s.device()
	case "agent_net":
		return "the network of the host of " + s.workspace()
	case "server":
		return "the network of the Fairlead server"
	}
	return "the network between " + s.between()
}

// asker is who needed the name.
func (s *story) asker() string {
	if s.v.ConnectType == d.ServerToAgent {
		return "the host of " + s.workspace()
	}
	return s.device()
}

// silence tells as much as is known of where the fault was.
func (s *story) silence() string {
	switch s.v.Locus {
	case "path":
		return "nothing passed between " + s.between() + s.span(verdict.HeartbeatSilence) + ", though both were in reach of others"
	case "agent", "server", "client":
		who, _ := d.ParseInitiator(s.v.Locus)
		return s.party(who) + " was out of reach for all" + s.span(verdict.HeartbeatSilence)
	}
	if s.v.Reason == d.NetworkTimeout {
		return "nothing passed between " + s.between() + s.span(verdict.HeartbeatSilence) + ", and it is not known where that was stopped"
	}
	return "the network connection between " + s.between() + " broke" + s.when() + ", and it is not known why"
}

// then is what became of the session.
func (s *story) then() string {
	if s.v.ConnectType != d.AgentToClient && s.v.Kind == verdict.Ending {
		return s.sessionsGoOn()
	}
	if s.v.Kind == verdict.Interruption {
		if s.v.Reason == d.PathMigrated {
			return "it went on without a break that matters"
		}
		return s.link() + " went on afterwards"
	}
	if s.v.Kind == verdict.Attempt {
		return "no connection was made"
	}
	if word := s.meanwhile(); word != "" {
		return word
	}
	if s.viewer.Terminal && s.terminalLives() {
		return "the terminal on " + s.workspace() + " is still there"
	}
	return ""
}

// sessionsGoOn comforts where only a control link was lost: not where the agent or the
// client itself went, or a right ended.
func (s *story) sessionsGoOn() string {
	switch s.v.Reason {
	case d.ServerShutdown, d.PeerCrashed, d.PeerUnresponsive, d.HostPaused, d.InternalError, d.LimitExceeded:
		if s.v.Initiator != d.Server {
			return ""
		}
	case d.NetworkError, d.NetworkTimeout, d.ConnectionReset, d.TLSFailure:
	case d.NetworkUnreachable:
		if s.v.Locus != "server" {
			return ""
		}
	default:
		return ""
	}
	return "open sessions do not need this link"
}

// meanwhile tells of what was decided during the silence: the session cannot come back.
func (s *story) meanwhile() string {
	if s.v.Rule <= verdict.R2 {
		return ""
	}
	for i := range s.v.Kept {
		item := &s.v.Kept[i]
		if item.Role != verdict.Consequence {
			continue
		}
		switch item.Fact.Cause.Reason {
		case d.WorkspaceStopped:
			return "meanwhile the workspace was stopped"
		case d.AdminTerminated:
			return "meanwhile an operator ended the session"
		case d.AuthRevoked, d.AuthExpired:
			return "meanwhile the right to reach it ended"
		case d.IdleTimeout, d.SessionLimit:
			return "meanwhile the session's policy ended it"
		case d.ServerShutdown:
			if item.Fact.Cause.Initiator == d.Agent {
				return "meanwhile the agent was stopped"
			}
		}
	}
	return ""
}

// terminalLives reports whether what ended the session left its terminal alone.
func (s *story) terminalLives() bool {
	switch s.v.Reason {
	case d.Graceful, d.ProcessExited, d.ProcessSignaled, d.WorkspaceStopped, d.WorkspaceEvicted, d.OOMKilled,
		d.AuthRevoked, d.AuthExpired:
		return false
	}
	return s.v.Initiator != d.Agent || s.v.Reason == d.HostPaused || s.v.Reason == d.PeerUnresponsive || s.v.Reason == d.Suspended
}

// next is the one step that helps most.
func (s *story) next() string {
	program, name := s.program(), s.argument()
	ssh := "connect again: " + program + " ssh " + name
	if s.v.Kind == verdict.Interruption {
		return ""
	}
	switch s.v.Reason {
	case d.WorkspaceStopped:
		if s.v.Detail == "delete" {
			return ""
		}
		return "start it again: " + program + " workspace start " + name
	case d.AuthRevoked, d.AuthExpired, d.AuthFailed:
		return s.renew()
	case d.VersionMismatch:
		return "install the server's version of " + program + " on " + s.asker()
	case d.DuplicateAgent:
		return "stop one of the two agents, or give one a token of its own: " + program + " workspace create"
	case d.TLSFailure, d.ConnectionRefused, d.LimitExceeded:
		return "look at the server from there: " + program + " server check"
	case d.DNSFailure:
		return "look at the network from there: " + program + " netcheck"
	case d.InternalError, d.ProtocolError, d.Unknown:
		return "tell an operator, with what `" + program + " why` shows"
	case d.ResourceExhausted, d.OOMKilled:
		return "make room on the host of " + s.process(s.v.Initiator) + ", then " + ssh
	}
	if s.v.ConnectType != d.AgentToClient {
		return s.nextOfLink()
	}
	switch {
	case s.meanwhile() == "" && s.viewer.Terminal && s.terminalLives():
		return "attach to it: " + program + " attach " + name
	case s.v.Reason == d.NetworkUnreachable && s.v.Locus == "client_net":
		return "when the network is back, " + ssh
	case s.v.Locus == "path" || s.v.Reason == d.NetworkTimeout || s.v.Reason == d.NetworkError || s.v.Reason == d.RelayLost:
		return "see how it is now: " + program + " ping " + name
	case s.v.Reason == d.Graceful, s.v.Reason == d.ProcessExited, s.v.Reason == d.ClientClosed:
		return ""
	}
	return ssh
}

// renew is for a right that ended.
func (s *story) renew() string {
	if s.v.ConnectType == d.ServerToAgent {
		return "give the agent a new token: " + s.program() + " workspace rotate-token " + s.argument()
	}
	if s.viewer.Mine {
		return "log in again: " + s.program() + " login"
	}
	return "if that was not meant, " + s.you() + " needs a new login"
}

// nextOfLink is for a control link, which its owner dials again by itself.
func (s *story) nextOfLink() string {
	switch {
	case s.v.Expected():
		return ""
	case s.v.ConnectType == d.ServerToAgent:
		return "see whether it is back: " + s.program() + " ls"
	}
	return "look at the network from there: " + s.program() + " netcheck"
}
