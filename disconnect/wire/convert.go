// Package wire is the protobuf form of the values in package disconnect, and the
// conversion between the two. It decides nothing; numbers that this version does
// not know become the set's Unknown with the number kept in the detail.
package wire

import (
	"strconv"

	"fairlead.dev/fairlead/disconnect"
)

// FromAttribution returns a's wire form.
func FromAttribution(a disconnect.Attribution) *Attribution {
	return &Attribution{
		ConnectType: uint32(a.ConnectType),
		Reason:      uint32(a.Reason),
		Initiator:   uint32(a.Initiator),
		Detail:      disconnect.Scrub(a.Detail),
	}
}

// ToAttribution returns the attribution of a wire message, nil included (the zero
// attribution). Text is scrubbed: it came from another process.
func ToAttribution(m *Attribution) disconnect.Attribution {
	if m == nil {
		return disconnect.Attribution{}
	}
	g := goodbye(m.GetReason(), m.GetInitiator(), m.GetDetail())
	t := disconnect.ConnectType(0)
	if n := m.GetConnectType(); n <= 255 && disconnect.ConnectType(n).Valid() {
		t = disconnect.ConnectType(n)
	}
	return g.On(t)
}

// FromGoodbye returns g's wire form.
func FromGoodbye(g disconnect.Goodbye) *Goodbye {
	return &Goodbye{
		Reason:    uint32(g.Reason),
		Initiator: uint32(g.Initiator),
		Detail:    disconnect.Scrub(g.Detail),
	}
}

// ToGoodbye returns the goodbye of a wire message.
func ToGoodbye(m *Goodbye) disconnect.Goodbye {
	return goodbye(m.GetReason(), m.GetInitiator(), m.GetDetail())
}

func goodbye(reason, initiator uint32, detail string) disconnect.Goodbye {
	g := disconnect.Goodbye{Detail: disconnect.Scrub(detail)}
	if reason <= 255 && disconnect.Reason(reason).Valid() {
		g.Reason = disconnect.Reason(reason)
	} else {
		g.Detail = disconnect.Scrub("reason " + strconv.FormatUint(uint64(reason), 10) + " of a newer version: " + detail)
	}
	if initiator <= 255 && disconnect.Initiator(initiator).Valid() {
		g.Initiator = disconnect.Initiator(initiator)
	}
	return g
}
