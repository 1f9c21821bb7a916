package disconnect

import (
	"strconv"
	"strings"
)

// closeCodeBase is added to a reason's number to make a WebSocket close code.
// 4000-4999 is for private use (RFC 6455 section 7.4.2): libraries and middleboxes
// never send it, so such a code is proof that the peer itself closed.
const closeCodeBase = 4000

// maxCloseText is the room for text in a WebSocket close frame (RFC 6455 section
// 5.5: 125 bytes of control payload less 2 for the code).
const maxCloseText = 123

// Goodbye is what whoever closes deliberately says last.
type Goodbye struct {
	Reason    Reason
	Initiator Initiator
	Detail    string
}

// On makes the goodbye an attribution of layer t.
func (g Goodbye) On(t ConnectType) Attribution {
	return Attribution{ConnectType: t, Reason: g.Reason, Initiator: g.Initiator, Detail: g.Detail}
}

// From returns g as its receiver may believe it of sender (Client, Agent, Relay or Server):
// who says goodbye confesses and accuses nobody. So the sender is the closer, unless
// it may name another: the server may name anyone, who enforces a rule may name the
// offender, anyone may say that it lost the network, and anyone may pass on what only
// the server decides.
func (g Goodbye) From(sender Initiator) Goodbye {
	switch {
	case g.Reason == Unknown:
	case g.Initiator == InitiatorUnknown:
		g.Initiator = sender
	case sender == Server, g.Initiator == Network:
	case g.Initiator == Server && serverDecides(g.Reason):
	case g.Initiator == Client && g.Reason == SessionReplaced: // another client's doing, and no blame
	case g.Reason == LimitExceeded, g.Reason == SlowPeer, g.Reason == ProtocolError:
	default:
		g.Initiator = sender
	}
	return g
}

// serverDecides reports whether nobody but the server ends something for this reason.
func serverDecides(r Reason) bool {
	switch r {
	case AuthRevoked, AuthExpired, DuplicateAgent, WorkspaceStopped, AdminTerminated, WorkspaceEvicted:
		return true
	}
	return false
}

// Goodbye returns what to tell the other end about a.
func (a Attribution) Goodbye() Goodbye {
	return Goodbye{Reason: a.Reason, Initiator: a.Initiator, Detail: a.Detail}
}

// HeaderReason is the header of an HTTP answer that carries the number of a [Reason].
const HeaderReason = "X-Disconnect-Reason"

// CloseCode returns the WebSocket close code and text that carry g:
// 4000 + reason, and "i=<initiator>;d=<detail>" of at most 123 bytes.
func (g Goodbye) CloseCode() (code int, text string) {
	text = "i=" + strconv.Itoa(int(g.Initiator)) + ";d=" + Scrub(g.Detail)
	return closeCodeBase + int(g.Reason), truncate(text, maxCloseText)
}

// ParseCloseCode is the inverse of [Goodbye.CloseCode]. It reports false for a code
// that does not carry a reason of the set. The initiator is InitiatorUnknown if the
// text names none that is known; the caller then has only the sender to name.
// Fields that this version does not know are skipped.
func ParseCloseCode(code int, text string) (Goodbye, bool) {
	n := code - closeCodeBase
	if n < 0 || n > 255 || !Reason(n).Valid() {
		return Goodbye{}, false
	}
	g := Goodbye{Reason: Reason(n)}
	for text != "" {
		if detail, ok := strings.CutPrefix(text, "d="); ok { // the last field: it may hold semicolons
			g.Detail = Scrub(detail)
			break
		}
		var field string
		field, text, _ = strings.Cut(text, ";")
		if num, ok := strings.CutPrefix(field, "i="); ok {
			if i, err := strconv.ParseUint(num, 10, 8); err == nil && Initiator(i).Valid() {
				g.Initiator = Initiator(i)
			}
		}
	}
	return g, true
}
