package tailnet

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"fairlead.dev/fairlead/tailnet/proto"
)

// listenBacklog is how many flows may wait for Accept.
const listenBacklog = 128

// listener accepts flows from installed peers on one port.
type listener struct {
	stack  *netstack
	ep     tcpip.Endpoint
	wq     *waiter.Queue
	addr   net.Addr
	peerOf func(netip.Addr) (proto.NodeKey, bool)

	done      chan struct{} // closed by Close
	closeOnce sync.Once
}

var _ net.Listener = (*listener)(nil)

func (n *netstack) listen(port uint16, peerOf func(netip.Addr) (proto.NodeKey, bool)) (*listener, error) {
	at := netip.AddrPortFrom(n.addr, port)
	fail := func(err error) error {
		return &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(at), Err: err}
	}
	wq := new(waiter.Queue)
	ep, tcpErr := n.stack.NewEndpoint(tcp.ProtocolNumber, header.IPv6ProtocolNumber, wq)
	if tcpErr != nil {
		return nil, fail(stackError(tcpErr.String()))
	}
	// Flows that an earlier listener accepted may live on.
	ep.SocketOptions().SetReuseAddress(true)
	if tcpErr = ep.Bind(fullAddress(at)); tcpErr == nil {
		tcpErr = ep.Listen(listenBacklog)
	}
	if tcpErr != nil {
		ep.Close()
		return nil, fail(stackError(tcpErr.String()))
	}
	l := &listener{stack: n, ep: ep, wq: wq, addr: net.TCPAddrFromAddrPort(at), peerOf: peerOf, done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		ep.Close()
		return nil, fail(net.ErrClosed)
	}
	n.lns[l] = struct{}{}
	return l, nil
}

// Accept waits for the next flow of a peer. After Close it gives net.ErrClosed.
func (l *listener) Accept() (net.Conn, error) {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		var from tcpip.FullAddress
		ep, wq, tcpErr := l.ep.Accept(&from)
		switch tcpErr.(type) {
		case nil:
			if c := l.adopt(ep, wq, from); c != nil {
				return c, nil
			}
			continue
		case *tcpip.ErrWouldBlock:
		default:
			if l.isClosed() {
				return nil, l.opError(net.ErrClosed)
			}
			return nil, l.opError(stackError(tcpErr.String()))
		}
		select {
		case <-l.done:
			return nil, l.opError(net.ErrClosed)
		case <-readable:
		}
	}
}

// adopt makes an accepted endpoint a conn, unless its peer was removed meanwhile.
func (l *listener) adopt(ep tcpip.Endpoint, wq *waiter.Queue, from tcpip.FullAddress) net.Conn {
	addr, _ := netip.AddrFromSlice(from.Addr.AsSlice())
	peer, ok := l.peerOf(addr)
	if !ok {
		ep.Abort()
		return nil
	}
	c, err := l.stack.adopt(wq, ep, peer, netip.AddrPortFrom(addr, from.Port))
	if err != nil {
		return nil
	}
	if _, still := l.peerOf(addr); !still {
		c.abort(errPeerRemoved) // removed between the two looks: cut may have missed it
		return nil
	}
	return c
}

func (l *listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
}

func (l *listener) isClosed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *listener) Addr() net.Addr { return l.addr }

// Close stops accepting. Flows that were accepted live on; those that wait are reset.
func (l *listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.done)
		l.ep.Close()
		l.stack.mu.Lock()
		delete(l.stack.lns, l)
		l.stack.mu.Unlock()
	})
	return nil
}
