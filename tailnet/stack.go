package tailnet

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"fairlead.dev/fairlead/tailnet/proto"
)

// How long TCP tries. Only the companion's clock ends a session: a flow has no user
// time-out and no keepalive, and retransmits for longer than any session may be
// interrupted (a peer's grant lapses after 24 h).
const (
	// maxRTO is the longest pause between two retransmissions, so that a flow speaks
	// again within a second of its path's return. On a path whose round trip is longer
	// than that everything is sent twice, and still arrives.
	maxRTO = time.Second
	// longestOutage is how long a flow must outlive silence.
	longestOutage = 25 * time.Hour
	// maxRetries counts retransmissions and unanswered zero-window probes: that is
	// what the stack bounds, not time. Twice what fits, because early ones come faster.
	maxRetries = uint64(2 * longestOutage / maxRTO)
	// orphanTimeout is how long a closed flow still tries to deliver its last bytes.
	orphanTimeout = 5 * time.Minute
)

// Sizes of TCP's buffers in bytes. They are bounds: nothing is taken before it is used.
const (
	minTCPBuffer     = 4 << 10
	defaultTCPBuffer = 1 << 20
	maxTCPBuffer     = 4 << 20
)

const nicID tcpip.NICID = 1

// netstack is the node's own TCP: one address, no loopback, no way to the host's
// network. It hands out conns and listeners and can cut all conns of one peer.
type netstack struct {
	stack *stack.Stack
	addr  netip.Addr

	mu     sync.Mutex // guards conns, listeners, closed
	conns  map[*conn]struct{}
	lns    map[*listener]struct{}
	closed bool
}

func newNetstack(link stack.LinkEndpoint, addr netip.Addr) (*netstack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	n := &netstack{stack: s, addr: addr, conns: make(map[*conn]struct{}), lns: make(map[*listener]struct{})}
	if err := n.configure(link); err != nil {
		s.Destroy()
		return nil, fmt.Errorf("configure tcp stack: %w", err)
	}
	return n, nil
}

func (n *netstack) configure(link stack.LinkEndpoint) error {
	sack, recovery := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0)
	// Cubic overflows in this version (google/gvisor#11632); RACK acknowledges too
	// late and so retransmits what was not lost (tailscale/tailscale#9707).
	congestion := tcpip.CongestionControlOption("reno")
	rto, retries := tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(maxRetries)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minTCPBuffer, Default: defaultTCPBuffer, Max: maxTCPBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minTCPBuffer, Default: defaultTCPBuffer, Max: maxTCPBuffer}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &congestion, &rto, &retries, &receive, &send} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("set %T: %s", opt, err)
		}
	}
	if err := n.stack.CreateNIC(nicID, link); err != nil {
		return fmt.Errorf("create nic: %s", err)
	}
	address := tcpip.ProtocolAddress{
		Protocol:          header.IPv6ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFrom16(n.addr.As16()).WithPrefix(),
	}
	if err := n.stack.AddProtocolAddress(nicID, address, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("add address: %s", err)
	}
	prefix := proto.Prefix.Addr().As16()
	n.stack.SetRouteTable([]tcpip.Route{{
		Destination: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom16(prefix), PrefixLen: proto.Prefix.Bits()}.Subnet(),
		NIC:         nicID,
	}})
	return nil
}

// cut ends every conn of the peer at once; both its users get why.
func (n *netstack) cut(peer proto.NodeKey, why error) {
	n.mu.Lock()
	var victims []*conn
	for c := range n.conns {
		if c.peer == peer {
			victims = append(victims, c)
		}
	}
	n.mu.Unlock()
	for _, c := range victims {
		c.abort(why)
	}
}

var errNodeClosed = errors.New("the node is closed")

// close ends every listener and conn, then the stack and its goroutines.
func (n *netstack) close() {
	n.mu.Lock()
	n.closed = true
	lns, conns := n.lns, n.conns
	n.lns, n.conns = nil, nil
	n.mu.Unlock()
	for l := range lns {
		_ = l.Close()
	}
	for c := range conns {
		c.abort(errNodeClosed)
	}
	n.stack.Destroy()
}

// track keeps c for cut and close. It reports false when the stack is closed.
func (n *netstack) track(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.conns[c] = struct{}{}
	return true
}

func (n *netstack) untrack(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}
