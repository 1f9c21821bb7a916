package agentssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// Requests to listen here for a client, their revocations, and the channels on which the
// connections reach it (RFC 4254 section 7, and OpenSSH's PROTOCOL section 2.4).
const (
	backTCP     = "tcpip-forward"
	backUnix    = "streamlocal-forward@openssh.com"
	cancelTCP   = "cancel-tcpip-forward"
	cancelUnix  = "cancel-streamlocal-forward@openssh.com"
	arrivedTCP  = "forwarded-tcpip"
	arrivedUnix = "forwarded-streamlocal@openssh.com"
)

const (
	// maxBack bounds the ports and sockets that one connection has the agent listen on.
	maxBack = 64
	// maxSocketPath is what the address of a unix socket takes, in bytes.
	maxSocketPath = 107
	// listenTimeout bounds the look-up of a bind address that is a name.
	listenTimeout = 5 * time.Second
)

// back is what one connection has the agent listen on.
type back struct {
	mu        sync.Mutex // guards below
	closed    bool
	listeners map[target][]net.Listener // one or, for localhost, two
}

// parseBack reads where to listen. Port 0 lets the agent choose.
func parseBack(kind string, payload []byte) (at target, port uint32, err error) {
	if kind == backUnix || kind == cancelUnix {
		var m textPayload
		if ssh.Unmarshal(payload, &m) != nil {
			return target{}, 0, errors.New("malformed request")
		}
		return target{"unix", m.Text}, 0, nil
	}
	var m struct {
		Host string
		Port uint32
	}
	if ssh.Unmarshal(payload, &m) != nil || m.Port > 0xffff {
		return target{}, 0, errors.New("malformed request")
	}
	return target{"tcp", net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))}, m.Port, nil
}

// listenBack begins to listen for the client. The answer has the port that was chosen; an
// error is the reason's word and one sentence.
func (c *conn) listenBack(kind string, payload []byte) (answer []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			answer, err = nil, errors.New(panicked(r).Detail)
		}
	}()
	at, port, err := parseBack(kind, payload)
	if err != nil {
		return nil, refusedBack(disconnect.ProtocolError, err.Error())
	}
	if text, no := c.srv.refusal(); no {
		return nil, errors.New(text)
	}
	if c.srv.forbids(remoteForwarding) {
		a := denied(remoteForwarding)
		c.srv.logger.Warn("ssh request refused", "request", kind, "refusal", a.Reason.String(), "rule", a.Detail)
		c.tellLater(remoteForwarding)
		return nil, errors.New(deniedText(remoteForwarding))
	}
	if !c.back.room(at) {
		return nil, refusedBack(disconnect.LimitExceeded, "this connection listens on this already, or on "+strconv.Itoa(maxBack)+" others")
	}
	listeners, at, err := listenAt(at)
	if err != nil {
		return nil, err
	}
	if !c.back.add(at, listeners) {
		closeListeners(listeners)
		return nil, refusedBack(disconnect.ServerShutdown, "connection is closing")
	}
	for _, l := range listeners {
		c.goroutines.Go(func() { c.acceptBack(at, l) })
	}
	if kind == backTCP && port == 0 {
		return ssh.Marshal(struct{ Port uint32 }{portOf(at)}), nil
	}
	return nil, nil
}

func refusedBack(r disconnect.Reason, text string) error {
	return errors.New(r.String() + ": " + disconnect.Scrub(text))
}

// room reports whether at is free and there is room for one more.
func (b *back) room(at target) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, taken := b.listeners[at]
	return !taken && len(b.listeners) < maxBack
}

// add keeps listeners, unless the connection is about to end.
func (b *back) add(at target, listeners []net.Listener) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.listeners) >= maxBack {
		return false
	}
	if b.listeners == nil {
		b.listeners = make(map[target][]net.Listener)
	}
	b.listeners[at] = listeners
	return true
}

// closeBack ends all listening, for good. Calling it twice is as good as once.
func (c *conn) closeBack() {
	c.back.mu.Lock()
	defer c.back.mu.Unlock()
	c.back.closed = true
	for at, listeners := range c.back.listeners {
		closeListeners(listeners)
		delete(c.back.listeners, at)
	}
}

// cancelBack ends the listening that such a request began.
func (c *conn) cancelBack(kind string, payload []byte) bool {
	at, _, err := parseBack(kind, payload)
	if err != nil {
		return false
	}
	c.back.mu.Lock()
	defer c.back.mu.Unlock()
	listeners, ok := c.back.listeners[at]
	closeListeners(listeners)
	delete(c.back.listeners, at)
	return ok
}

func closeListeners(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// listenAt listens at the place that the client asked for, and returns it with its port.
// localhost is both of its addresses, as with sshd; no host is all of the host's.
func listenAt(at target) ([]net.Listener, target, error) {
	ctx, cancel := context.WithTimeout(context.Background(), listenTimeout)
	defer cancel()
	if at.network == "unix" {
		l, err := listenSocket(ctx, at.address)
		return []net.Listener{l}, at, err
	}
	host, port, err := net.SplitHostPort(at.address)
	if err != nil {
		return nil, at, refusedBack(disconnect.ProtocolError, err.Error())
	}
	addresses := []string{host}
	switch host {
	case "localhost":
		addresses = []string{"127.0.0.1", "::1"}
	case "*":
		addresses = []string{""}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(addresses[0], port))
	if err != nil {
		return nil, at, listenRefused(err)
	}
	all := []net.Listener{l}
	port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if len(addresses) > 1 {
		if second, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(addresses[1], port)); err == nil {
			all = append(all, second) // else this host has no IPv6, or somebody else is there
		}
	}
	return all, target{"tcp", net.JoinHostPort(host, port)}, nil
}

// listenSocket listens on a path that only the agent's user may connect to.
func listenSocket(ctx context.Context, name string) (net.Listener, error) {
	switch {
	case !path.IsAbs(name):
		return nil, refusedBack(disconnect.ProtocolError, "the path of a socket must be absolute")
	case len(name) > maxSocketPath:
		return nil, refusedBack(disconnect.ProtocolError, fmt.Sprintf("the path of a socket has at most %d bytes, and this one has %d", maxSocketPath, len(name)))
	}
	removeDead(ctx, name)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name)
	if err != nil {
		return nil, listenRefused(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		_ = l.Close()
		return nil, listenRefused(err)
	}
	return l, nil
}

// removeDead removes a socket on which nobody listens any more, nor ever can.
func removeDead(ctx context.Context, name string) {
	if info, err := os.Lstat(name); err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", name)
	if err == nil {
		_ = conn.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(name)
	}
}

// listenRefused says why the agent cannot listen.
func listenRefused(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return refusedBack(disconnect.ResourceExhausted, "the port or the socket's path is in use there")
	case exhausted(err):
		return refusedBack(disconnect.ResourceExhausted, err.Error())
	}
	return refusedBack(disconnect.ConnectionRefused, err.Error())
}

func portOf(at target) uint32 {
	_, port, _ := net.SplitHostPort(at.address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint32(n)
}

// acceptBack takes the connections that arrive, until the listener is closed.
func (c *conn) acceptBack(at target, l net.Listener) {
	for {
		peer, err := l.Accept()
		switch {
		case err == nil:
			c.arrived(at, peer)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, mostly
			c.srv.logger.Warn("accept for a port forward failed", "error", err)
			timer := time.NewTimer(acceptRetry)
			select {
			case <-timer.C:
			case <-c.stopped:
			case <-c.done:
			}
			timer.Stop()
		}
	}
}

// arrived leads one connection to the client, unless there are too many or sessions are
// refused: then it is closed at once.
func (c *conn) arrived(at target, peer net.Conn) {
	f := &forward{
		c: c, target: at, gone: make(chan struct{}), stopped: make(chan struct{}), over: make(chan struct{}),
	}
	if c.forwarded.Add(1) > maxForwards {
		c.forwarded.Add(-1)
		c.warnForwards.Do(func() { c.srv.logger.Warn("port forwards refused", "limit", maxForwards) })
		cut(peer)
		return
	}
	if !c.registerForward(f) {
		c.forwarded.Add(-1)
		cut(peer)
		return
	}
	c.goroutines.Go(func() {
		defer c.forwarded.Add(-1)
		f.see(func(parts *sync.WaitGroup, report func(disconnect.Attribution)) { f.leadBack(peer, parts, report) })
	})
}

// leadBack asks the client for a channel to what it leads to.
func (f *forward) leadBack(peer net.Conn, parts *sync.WaitGroup, report func(disconnect.Attribution)) {
	defer peer.Close()
	f.beginRow()
	if f.c.srv.forbids(remoteForwarding) { // by now
		report(denied(remoteForwarding))
		cut(peer)
		return
	}
	f.local = onThisHost(peer)
	o := f.openBack(peer, parts)
	if o.err != nil {
		report(f.judgeOpen(o.err))
		cut(peer)
		return
	}
	f.join(o.ch, o.requests, peer, parts, report)
	if a, _ := f.end.Get(); a.Reason != disconnect.Graceful {
		cut(peer)
	}
}

// opened is what asking the client for a channel gave.
type opened struct {
	ch       ssh.Channel
	requests <-chan *ssh.Request
	err      error
}

// errEnded says that the forward was ended while it waited for the client.
var errEnded = errors.New("ended")

// openBack asks the client for a channel, and waits for its answer no longer than the
// forward lives; what comes later is closed.
func (f *forward) openBack(peer net.Conn, parts *sync.WaitGroup) opened {
	kind, payload := f.arrival(peer)
	answer := make(chan opened, 1)
	// x/crypto never answers what is opened in the very moment in which the connection
	// ends: this is left behind then, and holds nothing but itself.
	go func() {
		var o opened
		o.ch, o.requests, o.err = f.c.sc.OpenChannel(kind, payload)
		answer <- o
	}()
	select {
	case o := <-answer:
		return o
	case <-f.stopped:
	case <-f.c.stopped:
	case <-f.c.done:
	}
	parts.Go(func() { f.discard(answer) })
	return opened{err: errEnded}
}

// discard closes the channel that the client still opens, until the connection is over.
func (f *forward) discard(answer <-chan opened) {
	var o opened
	select {
	case o = <-answer:
	case <-f.c.done:
		t := time.NewTimer(settleTime)
		defer t.Stop()
		select {
		case o = <-answer:
		case <-t.C:
			return
		}
	}
	if o.err == nil {
		_ = o.ch.Close()
		ssh.DiscardRequests(o.requests)
	}
}

// arrival is what the client is told of a connection: where it arrived, in the client's
// own words, and who opened it.
func (f *forward) arrival(peer net.Conn) (kind string, payload []byte) {
	if f.target == (target{"unix", agentAddress}) {
		return agentArrived, nil
	}
	if f.target.network == "unix" {
		return arrivedUnix, ssh.Marshal(struct{ Path, Reserved string }{f.target.address, ""})
	}
	from, _ := addrPort(peer.RemoteAddr())
	if f.target.network == "x11" {
		return x11Arrived, ssh.Marshal(struct {
			From     string
			FromPort uint32
		}{from.Addr().Unmap().String(), uint32(from.Port())})
	}
	host, _, _ := net.SplitHostPort(f.target.address)
	return arrivedTCP, ssh.Marshal(struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}{host, portOf(f.target), from.Addr().Unmap().String(), uint32(from.Port())})
}

// judgeOpen says why the client did not take a connection: in its own words if it knows
// ours.
func (f *forward) judgeOpen(err error) disconnect.Attribution {
	var refused *ssh.OpenChannelError
	if a, ok := f.end.Get(); ok {
		return a
	}
	switch {
	case !errors.As(err, &refused):
		return f.connEnd()
	case refused.Reason == ssh.ResourceShortage:
		return attribute(disconnect.LimitExceeded, disconnect.Client, refused.Message)
	default:
		return attribute(disconnect.ConnectionRefused, disconnect.Client, refused.Message)
	}
}

// cut closes a connection so that its other end sees a failure, where the transport can.
func cut(peer net.Conn) {
	if tcp, ok := peer.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = peer.Close()
}
