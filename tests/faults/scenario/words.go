package scenario

import (
	"fmt"
	"strings"
)

// normal says of each reason whether its ending is normal operation.
var normal = map[string]bool{
	"graceful": true, "client_closed": true, "process_exited": true, "session_replaced": true,
	"path_migrated": true, "suspended": true,

	"server_shutdown": true, "workspace_stopped": true, "admin_terminated": true, "idle_timeout": true,
	"session_limit": true, "auth_revoked": true, "auth_expired": true,

	"auth_failed": false, "limit_exceeded": false, "version_mismatch": false, "duplicate_agent": false,
	"connection_refused": false,

	"process_signaled": false, "oom_killed": false, "workspace_evicted": false, "peer_crashed": false,
	"peer_unresponsive": false, "slow_peer": false, "resource_exhausted": false, "internal_error": false,
	"host_paused": false,

	"network_error": false, "network_timeout": false, "connection_reset": false, "network_unreachable": false,
	"dns_failure": false, "tls_failure": false, "relay_lost": false,

	"protocol_error": false,
}

// declared are the reasons of which somebody says, or decides by itself, that it is so:
// nobody has to infer them.
var declared = map[string]bool{
	"graceful": true, "client_closed": true, "process_exited": true, "session_replaced": true,

	"server_shutdown": true, "workspace_stopped": true, "admin_terminated": true, "idle_timeout": true,
	"session_limit": true, "auth_revoked": true, "auth_expired": true,

	"auth_failed": true, "limit_exceeded": true, "version_mismatch": true, "duplicate_agent": true,
	"process_signaled": true, "slow_peer": true, "internal_error": true, "protocol_error": true,
}

// Declared reports whether somebody declares what is to be said.
func (w Words) Declared() bool { return declared[w.Reason] }

// words makes the whole of a reason and who began it. It panics at a word that is none.
func words(reason string, by Party) Words {
	expected, ok := normal[reason]
	if !ok {
		panic(fmt.Sprintf("scenario: %q is no reason", reason))
	}
	return Words{Reason: reason, By: by, Expected: expected}
}

// What the tables are written with: the leg, the reason, and who began it.
func ac(reason string, by Party) Say { return Say{Kind: Ending, Leg: AC, Words: words(reason, by)} }
func sa(reason string, by Party) Say { return Say{Kind: Ending, Leg: SA, Words: words(reason, by)} }
func cs(reason string, by Party) Say { return Say{Kind: Ending, Leg: CS, Words: words(reason, by)} }

// or adds words that are as true.
func (s Say) or(reason string, by Party) Say {
	s.Or = append(s.Or[:len(s.Or):len(s.Or)], words(reason, by))
	return s
}

// may makes silence as true.
func (s Say) may() Say {
	s.May = true
	return s
}

// passing makes it an interruption, which the connection survives.
func (s Say) passing() Say {
	s.Kind = Interruption
	return s
}

// tried makes it a connection that never was.
func (s Say) tried() Say {
	s.Kind = Attempt
	return s
}

// all has every party say the same of a session that ended.
func all(says ...Say) Truth { return Truth{Client: says, Agent: says, Server: says} }

// nothing ends, and nobody has anything to say.
var nothing = Truth{Fate: Lives}

// Accepts reports whether w is as true as what must be said.
func (s Say) Accepts(w Words) bool {
	if w == s.Words {
		return true
	}
	for _, other := range s.Or {
		if w == other {
			return true
		}
	}
	return false
}

// String is "ac peer_crashed/agent", with what is special of it before and behind.
func (s Say) String() string {
	text := s.Leg.Short() + " " + s.Words.String()
	for _, other := range s.Or {
		text += " or " + other.String()
	}
	if s.Kind != Ending {
		text += ", " + string(s.Kind)
	}
	if s.May {
		text = "(" + text + ")"
	}
	return text
}

// String is "reason/initiator".
func (w Words) String() string { return w.Reason + "/" + string(w.By) }

// Short is the leg's two letters.
func (l Leg) Short() string {
	switch l {
	case AC:
		return "AC"
	case SA:
		return "SA"
	case CS:
		return "CS"
	}
	return strings.ToUpper(string(l))
}
