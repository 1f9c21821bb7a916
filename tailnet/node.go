package tailnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"fairlead.dev/fairlead/tailnet/proto"
)

// RelayDialFunc opens one connection to the relay of a region, ready to carry the
// relay protocol's bytes. The caller owns and closes the connection. It is called
// again for every reconnect, and must honour ctx.
type RelayDialFunc func(ctx context.Context, region *proto.DERPRegion) (net.Conn, error)

// Options say what a node is. The zero value of every field but PrivateKey is usable.
type Options struct {
	// PrivateKey is the node's identity; required.
	PrivateKey PrivateKey
	// Logger receives the node's log lines; nil discards them.
	Logger *slog.Logger
	// DialRelay reaches relays; nil: the node has none, and only direct paths work.
	DialRelay RelayDialFunc
	// ForceRelay sends and receives no UDP: every packet goes through a relay.
	ForceRelay bool
	// ListenPort is the UDP port for direct paths; 0 lets the system choose.
	ListenPort uint16
	// AllowInbound lists the TCP ports that peers may open on this node; empty: none.
	AllowInbound []uint16
	// DisablePortMapping keeps the node from asking the local gateway for a port
	// (NAT-PMP, PCP, UPnP).
	DisablePortMapping bool
}

// Node is one member of a tailnet. All methods are safe for concurrent use.
type Node struct{}

var errNotBuilt = errors.New("tailnet: not built yet")

// NewNode starts a node. The caller must Close it.
func NewNode(opts Options) (*Node, error) { return nil, errNotBuilt }

// Key returns the node's name.
func (n *Node) Key() proto.NodeKey { return proto.NodeKey{} }

// Addr returns the node's tailnet address.
func (n *Node) Addr() netip.Addr { return n.Key().Address() }

// Self returns what peers must know of this node now. The caller owns the message.
func (n *Node) Self() *proto.Node { return nil }

// SetSelfCallback makes f receive every change of [Node.Self], and its present
// value at once. Calls are made one at a time from a goroutine of the node; each
// message belongs to f. nil removes the callback.
func (n *Node) SetSelfCallback(f func(*proto.Node)) {}

// SetDERPMap replaces the relays to use. stunHost is the host of the access URL, for
// regions that name no STUN host of their own. nil: no relays.
func (n *Node) SetDERPMap(m *proto.DERPMap, stunHost string) {}

// UpsertPeer installs a peer or replaces what is known of it. The peer is in the
// packet engine when it returns.
func (n *Node) UpsertPeer(peer *proto.Node) error { return errNotBuilt }

// RemovePeer forgets a peer: no packet goes to it or comes from it any more when it
// returns. An unknown peer is no error.
func (n *Node) RemovePeer(key proto.NodeKey) {}

// Listen accepts connections from peers on a TCP port of the node's tailnet address.
// The port must be in Options.AllowInbound for a peer to reach it.
func (n *Node) Listen(port uint16) (net.Listener, error) { return nil, errNotBuilt }

// DialTCP connects to a port of an installed peer.
func (n *Node) DialTCP(ctx context.Context, peer proto.NodeKey, port uint16) (net.Conn, error) {
	return nil, errNotBuilt
}

// PeerByAddr returns the installed peer that has the tailnet address addr.
func (n *Node) PeerByAddr(addr netip.Addr) (proto.NodeKey, bool) { return proto.NodeKey{}, false }

// Path returns how packets reach a peer now.
func (n *Node) Path(peer proto.NodeKey) Path { return Path{} }

// WatchPaths makes f receive every change of a peer's path until stop is called.
func (n *Node) WatchPaths(f func(PathEvent)) (stop func()) { return func() {} }

// SetCoordinated tells the node whether its server is reachable.
func (n *Node) SetCoordinated(up bool) {}

// Kick makes the node look for a path to a peer at once.
func (n *Node) Kick(peer proto.NodeKey) {}

// Close stops the node and everything that it started.
func (n *Node) Close() error { return nil }
