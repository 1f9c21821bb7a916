package agentssh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
)

// conn is one SSH connection. It ends in one of two ways: we stop it (end is set,
// then stopped is closed, and tearDown takes it down), or the transport or the peer
// ends it (end is set, then done is closed).
type conn struct {
	srv     *Server
	nc      *settlingConn
	sc      *ssh.ServerConn
	refused bool // serve none of it: its peer has enough

	end      disconnect.Latch
	declared atomic.Bool      // end is what the peer said, or proof of what it did
	evidence disconnect.Latch // what EndPeer knew, even if the transport broke first

	stopped chan struct{} // closed, under mu, when we ended the connection
	done    chan struct{} // closed when no more packets arrive; end is set by then

	goroutines sync.WaitGroup // everything serve started
	live       sync.WaitGroup // the members of sessions and of forwards
	channels   atomic.Int64   // session channels that are open or still being cleaned up
	forwarded  atomic.Int64   // forwards, the same way
	bytes      meter          // of all forwards

	warnForwards sync.Once // forwards were refused
	back         back

	mu            sync.Mutex            // guards all below
	sessions      map[*session]struct{} // those that run something
	forwards      map[*forward]struct{} // those that have not ended
	app           App                   // zero: nothing is known
	apps          map[target]string     // where forwards have found an app
	reportedUntil time.Time             // the rate of rows for forwards is used up until then
	shared        sharedRow
	untold        string // what the policy refused, and no session has said
}

// stop ends the connection for cause a, unless it ended before, and returns at once.
func (c *conn) stop(a disconnect.Attribution) {
	// A transport that has failed already is judged as that; it only still has to
	// get through to the SSH layer.
	if c.nc.Err() == nil {
		c.end.Set(a)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, ok := c.end.Get(); ok {
		for s := range c.sessions {
			s.claim(first)
		}
		for f := range c.forwards {
			f.claim(first)
		}
	}
	if !c.isStopped() {
		close(c.stopped)
	}
}

func (c *conn) isStopped() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return false
	}
}

func (c *conn) serve() {
	defer c.goroutines.Wait()
	defer c.nc.Close()
	channels, requests, err := c.handshake()
	if err != nil {
		return
	}
	c.goroutines.Go(func() { c.serveRequests(requests) })
	c.goroutines.Go(func() {
		select {
		case <-c.stopped:
			c.closeBack()
			c.tearDown()
		case <-c.done:
		}
	})
	for ch := range channels {
		c.open(ch)
	}
	c.finish(c.sc.Wait())
	c.live.Wait()
	c.endShared()
}

// traffic changes with each byte that passes through the connection.
func (c *conn) traffic() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.bytes.total()
	for s := range c.sessions {
		n += s.bytes.total()
	}
	return n
}

func (c *conn) handshake() (<-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	timeout := c.srv.cfg.HandshakeTimeout
	timer := time.AfterFunc(timeout, func() {
		c.end.Set(attribute(disconnect.SlowPeer, disconnect.Client, "ssh handshake took longer than "+timeout.String()))
		_ = c.nc.Close()
	})
	over := make(chan struct{})
	defer close(over)
	c.goroutines.Go(func() {
		select {
		case <-c.stopped:
			select {
			case <-over:
			default:
				_ = c.nc.Close()
			}
		case <-over:
		}
	})
	sc, channels, requests, err := ssh.NewServerConn(c.nc, c.srv.ssh)
	if err == nil && !timer.Stop() {
		// The timer closes the connection: it must not be served half dead.
		_ = sc.Close()
		err = errors.New("handshake was late")
		c.drain(sc, channels, requests)
	}
	timer.Stop()
	if err != nil {
		c.handshakeFailed(err)
		return nil, nil, err
	}
	c.sc = sc
	c.nc.armed.Store(true)
	return channels, requests, nil
}

// drain lets a connection that nobody will serve come to its end.
func (c *conn) drain(sc *ssh.ServerConn, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	c.goroutines.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		_ = ch.Reject(ssh.ConnectionFailed, "connection is closing")
	}
	_ = sc.Wait()
}

// handshakeFailed logs only for debugging: there was no session that could end.
func (c *conn) handshakeFailed(err error) {
	if raw := c.nc.Err(); raw != nil {
		c.end.Set(c.srv.cfg.Judge(raw))
	}
	c.end.Set(attribute(disconnect.ProtocolError, disconnect.Client, err.Error()))
	a, _ := c.end.Get()
	c.srv.logger.LogAttrs(context.Background(), slog.LevelDebug, "ssh handshake failed", a.Attr())
}

// serveRequests answers global requests; keepalives of all kinds only need an answer.
func (c *conn) serveRequests(requests <-chan *ssh.Request) {
	defer c.closeBack()
	for req := range requests {
		switch req.Type {
		case "keepalive@openssh.com":
			_ = req.Reply(true, nil)
		case backTCP, backUnix:
			answer, err := c.listenBack(req.Type, req.Payload)
			if err != nil { // its text is for our own client: others show none
				answer = []byte(err.Error())
			}
			_ = req.Reply(err == nil, answer)
		case cancelTCP, cancelUnix:
			_ = req.Reply(c.cancelBack(req.Type, req.Payload), nil)
		default:
			_ = req.Reply(false, nil)
		}
	}
}

func (c *conn) open(ch ssh.NewChannel) {
	defer func() {
		if r := recover(); r != nil {
			c.srv.logger.Error("panic in ssh connection", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			c.stop(panicked(r))
		}
	}()
	switch ch.ChannelType() {
	case "session":
		c.openSession(ch)
	case directTCP, directUnix:
		c.openForward(ch)
	default:
		_ = ch.Reject(ssh.UnknownChannelType, "unsupported channel type: "+disconnect.Scrub(ch.ChannelType()))
	}
}

func (c *conn) openSession(nch ssh.NewChannel) {
	if text, no := c.srv.refusal(); no {
		_ = nch.Reject(ssh.Prohibited, text)
		return
	}
	if c.channels.Add(1) > maxChannels {
		c.channels.Add(-1)
		_ = nch.Reject(ssh.ResourceShortage, tooManyChannels)
		return
	}
	ch, requests, err := nch.Accept()
	if err != nil {
		c.channels.Add(-1)
		return // the transport is gone
	}
	s := newSession(c, ch)
	c.goroutines.Go(func() {
		defer c.channels.Add(-1)
		s.serveRequests(requests)
		if s.kind != "" {
			<-s.over
		}
	})
}

// register is called before s starts to run something; it reports false when the
// connection is about to end, or sessions are refused by now.
func (c *conn) register(s *session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, refused := c.srv.refusal(); refused || c.isStopped() {
		return false
	}
	c.sessions[s] = struct{}{}
	c.live.Add(1)
	return true
}

// forget is called when a registered session ended and was cleaned up.
func (c *conn) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, s)
	c.live.Done()
}

// finish judges the end of the transport, of which err is what the SSH layer says.
func (c *conn) finish(err error) {
	defer close(c.done)
	defer func() {
		if r := recover(); r != nil {
			c.srv.logger.Error("panic in ssh connection", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			c.end.Set(panicked(r))
		}
	}()
	if _, ok := c.end.Get(); ok {
		return // we ended it
	}
	a, declared := c.judge(err)
	if c.end.Set(a) {
		c.declared.Store(declared)
	}
}

// judge returns what the transport's end means, and whether that is the peer's own
// word, our decision about it or proof rather than an inference.
func (c *conn) judge(err error) (_ disconnect.Attribution, declared bool) {
	if code, text, ok := sshend.FromError(err); ok {
		return code.Judge(text, disconnect.Client, disconnect.Agent), true
	}
	if a, ok := c.evidence.Get(); ok {
		return a, true
	}
	if c.srv.cfg.PeerEnding != nil {
		if a, ok := c.srv.cfg.PeerEnding(c.nc.RemoteAddr()); ok {
			return a.On(disconnect.AgentToClient), true
		}
	}
	if raw := c.nc.Err(); raw != nil {
		return c.srv.cfg.Judge(raw), false
	}
	// The transport lives, so what arrived on it was not SSH.
	return attribute(disconnect.ProtocolError, disconnect.Client, err.Error()), true
}

// tearDown takes a connection down that we ended. Nothing here waits for the peer
// without a bound: closing the transport releases whatever is stuck in it.
func (c *conn) tearDown() {
	a, ok := c.end.Get()
	if !ok || a.Initiator == disconnect.Client || a.Initiator == disconnect.Network {
		_ = c.nc.Close()
		return
	}
	limit := time.AfterFunc(2*tellTimeout+c.srv.cfg.KillGrace, func() { _ = c.nc.Close() })
	defer limit.Stop()
	told := c.tell(a)
	c.live.Wait()
	t := time.NewTimer(tellTimeout)
	defer t.Stop()
	select {
	case <-told:
	case <-t.C:
	}
	_ = c.sc.Close()
}

// ownClient begins the version of our own client.
const ownClient = "SSH-2.0-Fairlead"

// tellsItsUser reports whether the client itself says to its user what tell sends, so
// that a line of ours would say it twice.
func (c *conn) tellsItsUser() bool {
	return strings.HasPrefix(string(c.sc.ClientVersion()), ownClient)
}

// tell sends the cause as a global request; the channel that it returns is closed
// when the peer answered or cannot any more.
func (c *conn) tell(a disconnect.Attribution) <-chan struct{} {
	told := make(chan struct{})
	c.goroutines.Go(func() {
		defer close(told)
		_, _, _ = c.sc.SendRequest(sshend.Request, true, causePayload(a))
	})
	return told
}

func causePayload(a disconnect.Attribution) []byte {
	return ssh.Marshal(sshend.Cause{
		Reason: uint32(a.Reason), Initiator: uint32(a.Initiator), Detail: disconnect.Scrub(a.Detail),
	})
}
