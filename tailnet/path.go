package tailnet

import (
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

// PathKind says how packets reach a peer.
type PathKind uint8

// Kinds of path.
const (
	// PathNone: no packet has a way, or nothing has been sent for a while.
	PathNone PathKind = iota
	// PathDirect: UDP between the two nodes.
	PathDirect
	// PathRelay: through a relay.
	PathRelay
)

// String returns the kind's word.
func (k PathKind) String() string {
	switch k {
	case PathDirect:
		return "direct"
	case PathRelay:
		return "relay"
	default:
		return "none"
	}
}

// Path is how packets reach a peer at one moment. It is a plain value, safe to compare.
type Path struct {
	Kind PathKind
	// Endpoint is the peer's UDP address (direct only).
	Endpoint string
	// Relay is the code of the peer's home relay (relay only).
	Relay string
}

// PathEvent is a change of the path to one peer.
type PathEvent struct {
	Peer proto.NodeKey
	Old  Path
	New  Path
	// At is when the change was noticed, by this host's clock.
	At time.Time
}
