package tailnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"fairlead.dev/fairlead/tailnet/proto"
)

// conn is one TCP flow with a peer. Unlike the stack's own, its errors answer
// errors.Is for the usual errnos, os.ErrDeadlineExceeded and net.ErrClosed, and our
// own Close is never taken for an EOF from the peer.
type conn struct {
	tcp           *gonet.TCPConn
	ep            tcpip.Endpoint
	stack         *netstack
	peer          proto.NodeKey
	local, remote net.Addr

	ended    atomic.Pointer[error] // set once, before the flow is closed by this side
	endOnce  sync.Once
	readDone atomic.Bool
}

var _ net.Conn = (*conn)(nil)

// adopt makes a connected endpoint a conn of peer at remote, or closes it. The endpoint
// itself has no address any more once it was reset, be it before it was accepted.
func (n *netstack) adopt(wq *waiter.Queue, ep tcpip.Endpoint, peer proto.NodeKey, remote netip.AddrPort) (*conn, error) {
	raw := gonet.NewTCPConn(wq, ep)
	c := &conn{tcp: raw, ep: ep, stack: n, peer: peer, local: raw.LocalAddr(), remote: net.TCPAddrFromAddrPort(remote)}
	if !n.track(c) {
		ep.Abort()
		return nil, net.ErrClosed
	}
	return c, nil
}

// dial opens a flow to an address of peer.
func (n *netstack) dial(ctx context.Context, to netip.AddrPort, peer proto.NodeKey) (*conn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	if ctx.Err() != nil {
		return nil, fail(context.Cause(ctx))
	}
	wq := new(waiter.Queue)
	ep, tcpErr := n.stack.NewEndpoint(tcp.ProtocolNumber, header.IPv6ProtocolNumber, wq)
	if tcpErr != nil {
		return nil, fail(stackError(tcpErr.String()))
	}
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	tcpErr = ep.Connect(fullAddress(to))
	if _, started := tcpErr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			return nil, fail(context.Cause(ctx))
		case <-writable:
		}
		tcpErr = ep.LastError()
	}
	if tcpErr != nil {
		ep.Close()
		return nil, fail(stackError(tcpErr.String()))
	}
	c, err := n.adopt(wq, ep, peer, to)
	if err != nil {
		return nil, fail(err)
	}
	return c, nil
}

func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom16(ap.Addr().As16()), Port: ap.Port()}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.tcp.Read(b)
	if errors.Is(err, io.EOF) && c.readDone.Load() {
		return n, io.EOF // we closed our reading half ourselves
	}
	return n, c.judge("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.tcp.Write(b)
	return n, c.judge("write", err)
}

// judge makes the stack's errors usual ones. After our own end everything is its consequence.
func (c *conn) judge(op string, err error) error {
	if err == nil {
		return nil
	}
	if ended := c.ended.Load(); ended != nil {
		return c.opError(op, *ended)
	}
	var opErr *net.OpError
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &opErr) && opErr.Timeout():
		return c.opError(op, os.ErrDeadlineExceeded)
	case errors.As(err, &opErr) && opErr.Err != nil:
		return c.opError(op, stackError(opErr.Err.Error()))
	default:
		return c.opError(op, err)
	}
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// end records why this side ends the flow, once, and reports whether it was the first.
func (c *conn) end(why error) (first bool) {
	c.endOnce.Do(func() {
		c.ended.Store(&why)
		first = true
	})
	return first
}

// Close ends the flow in order. Bytes already written are still delivered, for at
// most five minutes.
func (c *conn) Close() error {
	if !c.end(net.ErrClosed) {
		return nil
	}
	timeout := tcpip.TCPUserTimeoutOption(orphanTimeout)
	_ = c.ep.SetSockOpt(&timeout)
	err := c.tcp.Close()
	c.stack.untrack(c)
	return err
}

// abort ends the flow at once with a reset; reads and writes give why.
func (c *conn) abort(why error) {
	if !c.end(&cutError{why: why}) {
		return
	}
	c.ep.Abort()
	c.stack.untrack(c)
}

// CloseWrite tells the peer that no more bytes will come; reading goes on.
func (c *conn) CloseWrite() error {
	if err := c.tcp.CloseWrite(); err != nil {
		return c.judge("close", err)
	}
	return nil
}

// CloseRead discards what still comes; writing goes on.
func (c *conn) CloseRead() error {
	c.readDone.Store(true)
	if err := c.tcp.CloseRead(); err != nil {
		return c.judge("close", err)
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return c.remote }
func (c *conn) SetDeadline(t time.Time) error      { return c.tcp.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.tcp.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.tcp.SetWriteDeadline(t) }

// cutError is what a conn gives after this node cut it. It answers errors.Is for
// net.ErrClosed, as after any local close.
type cutError struct{ why error }

func (e *cutError) Error() string   { return "connection was cut: " + e.why.Error() }
func (e *cutError) Unwrap() []error { return []error{e.why, net.ErrClosed} }
