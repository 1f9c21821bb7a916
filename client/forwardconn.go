package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// serve leads one connection to this machine into the workspace, until it ends.
func (f *Forwards) serve(ctx context.Context, forward Forward, nc net.Conn) {
	defer nc.Close()
	e := ForwardEvent{
		Type: ForwardRefused, Forward: forward, Connection: f.number(),
		From: disconnect.Scrub(nc.RemoteAddr().String()), Target: forward.Target.String(),
	}
	hangUp := context.AfterFunc(ctx, func() { reset(nc) })
	defer hangUp()
	target, say := forward.Target, func(bool) error { return nil }
	if forward.dynamic() {
		var err error
		_ = nc.SetDeadline(time.Now().Add(socksTimeout)) // an error shows at Read
		if target, say, err = socksRequest(nc); err != nil {
			if e.Attribution = badSOCKS(err); errors.Is(err, os.ErrDeadlineExceeded) {
				e.Attribution = badSOCKS(nil)
			}
			f.refused(e)
			return
		}
		_ = nc.SetDeadline(time.Time{})
		e.Target = target.String()
	}
	link, away := f.current()
	if link == nil || !link.begin() {
		if away.IsZero() {
			_, away = f.current()
		}
		e.Attribution = away
		_ = say(false)
		reset(nc)
		f.refused(e)
		return
	}
	defer link.tasks.Done()
	channel, requests, err := link.open(ctx, target, nc.RemoteAddr())
	if err != nil {
		e.Attribution = link.notOpened(err)
		_ = say(false)
		reset(nc)
		f.refused(e)
		return
	}
	hangUp()
	if err := say(true); err != nil {
		e.Attribution = localGone(err)
		_ = channel.Close()
		f.refused(e)
		ssh.DiscardRequests(requests) // until the agent has closed it too, or the link ends
		return
	}
	link.carry(e, nc, channel, requests)
}

// begin makes room for one more task, unless the link has ended. The caller calls
// tasks.Done.
func (l *forwardLink) begin() bool {
	l.forwards.mu.Lock()
	defer l.forwards.mu.Unlock()
	if l.forwards.link != l {
		return false
	}
	l.tasks.Add(1)
	return true
}

func (f *Forwards) refused(e ForwardEvent) {
	f.logEnd("forwarded connection refused", e)
	f.tell(e)
}

// forwarded is one connection that is under way: nc on this machine, channel to the
// agent.
type forwarded struct {
	link    *forwardLink
	nc      net.Conn
	channel ssh.Channel

	cause  disconnect.Latch // why it ended, if not by both ends in order
	first  disconnect.Latch // who was done first
	upDone atomic.Bool      // this machine's end was

	closed         chan struct{}      // closed when the agent has closed the channel
	catchUp        chan chan struct{} // asks for one to be closed when all words of the agent so far are heard
	sent, received atomic.Uint64
}

// carry copies both ways until both ends are done, one breaks, or the link ends; then
// it tells how that was.
func (l *forwardLink) carry(e ForwardEvent, nc net.Conn, channel ssh.Channel, requests <-chan *ssh.Request) {
	c := &forwarded{link: l, nc: nc, channel: channel, closed: make(chan struct{}), catchUp: make(chan chan struct{})}
	began := time.Now()
	e.Type = ForwardOpened
	l.forwards.tell(e)

	var tasks sync.WaitGroup
	done, received := make(chan struct{}), make(chan struct{})
	tasks.Go(func() {
		defer close(c.closed)
		c.serveRequests(requests)
	})
	tasks.Go(func() {
		select {
		case <-l.over:
			a, _ := l.ended.Get()
			c.fail(a)
		case <-c.closed:
			<-received
			c.remoteClosed()
		case <-done:
		}
	})
	tasks.Go(func() { defer close(received); c.down() })
	c.up()
	<-received
	_ = channel.Close()
	_ = nc.Close()
	close(done)
	defer tasks.Wait()

	e.Type = ForwardClosed
	e.Sent, e.Received, e.Lasted = c.sent.Load(), c.received.Load(), time.Since(began)
	e.Attribution = c.ending()
	l.forwards.logEnd("forwarded connection closed", e)
	l.forwards.tell(e)
}

// up copies what this machine's end says.
func (c *forwarded) up() {
	readErr, writeErr := transfer(&counted{c.channel, &c.sent}, c.nc)
	switch {
	case writeErr != nil: // the channel is closed, and its other direction tells why
	case readErr != nil:
		c.fail(localGone(readErr))
	default:
		c.upDone.Store(true)
		c.first.Set(c.done(disconnect.Client))
		_ = c.channel.CloseWrite()
	}
}

// down copies what the workspace's end says. Of a link that breaks, no end of stream
// may reach this machine: it would look like the whole.
func (c *forwarded) down() {
	_, writeErr := transfer(&counted{c.nc, &c.received}, c.channel)
	switch {
	case writeErr != nil:
		c.fail(localGone(writeErr))
	case c.link.dying():
		<-c.link.over
	case c.broken():
		reset(c.nc)
	default:
		c.first.Set(c.done(disconnect.Agent))
		closeWrite(c.nc)
	}
}

// serveRequests takes the agent's word of why it ends this connection, until it has.
func (c *forwarded) serveRequests(requests <-chan *ssh.Request) {
	for {
		select {
		case req, ok := <-requests:
			if !ok {
				return
			}
			c.hear(req)
		case caughtUp := <-c.catchUp:
			for len(requests) > 0 {
				if req, ok := <-requests; ok {
					c.hear(req)
				}
			}
			close(caughtUp)
		}
	}
}

func (c *forwarded) hear(req *ssh.Request) {
	if a, ok := parseDisconnect(req); ok {
		c.cause.Set(a)
	}
	if req.WantReply {
		_ = req.Reply(false, nil)
	}
}

// broken reports whether the agent has said by now that something else ended the connection than its two sides.
func (c *forwarded) broken() bool {
	caughtUp := make(chan struct{})
	select {
	case c.catchUp <- caughtUp:
		<-caughtUp
	case <-c.closed:
	}
	a, ok := c.cause.Get()
	return ok && a.Reason != disconnect.Graceful
}

// remoteClosed ends what the agent has closed, and not the link's end with it.
func (c *forwarded) remoteClosed() {
	if c.link.dying() {
		<-c.link.over
		a, _ := c.link.ended.Get()
		c.fail(a)
		return
	}
	if !c.upDone.Load() {
		c.cause.Set(disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: disconnect.Agent,
			Detail: "the end in the workspace was done, and takes no more",
		})
	}
	if c.broken() {
		reset(c.nc)
	}
	_ = c.nc.Close()
}

// fail records why the connection ends, and ends it.
func (c *forwarded) fail(a disconnect.Attribution) {
	c.cause.Set(a)
	reset(c.nc)
	_ = c.channel.Close()
}

// localGone is how a connection ends whose end on this machine does not take or give more.
func localGone(err error) disconnect.Attribution {
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.ClientClosed, Initiator: disconnect.Client,
		Detail: "the end on this machine was closed: " + disconnect.Scrub(err.Error()),
	}
	if errors.Is(err, syscall.ECONNRESET) {
		a.Reason, a.Detail = disconnect.ConnectionReset, "the end on this machine was reset"
	}
	return a
}

// done is an end that both sides agree on, begun by the one that was done first.
func (c *forwarded) done(first disconnect.Initiator) disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: first, Detail: "both ends were done",
	}
}

func (c *forwarded) ending() disconnect.Attribution {
	if a, ok := c.cause.Get(); ok {
		return a
	}
	a, _ := c.first.Get()
	return a
}

// logEnd logs one connection's end.
func (f *Forwards) logEnd(msg string, e ForwardEvent) {
	e.Attribution.Log(context.Background(), f.logger, msg,
		slog.String("listen", e.Forward.Listen.String()), slog.String("from", e.From), slog.String("target", e.Target),
		slog.Uint64("bytes_sent", e.Sent), slog.Uint64("bytes_received", e.Received),
		slog.Duration("lasted", e.Lasted))
}

// counted counts what is written.
type counted struct {
	io.Writer
	n *atomic.Uint64
}

// Write implements [io.Writer].
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(uint64(n))
	return n, err
}

// reset closes nc so that the other end sees a failure, where the transport can.
func reset(nc net.Conn) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = nc.Close()
}

// closeWrite ends the stream to nc's other end; the one from there goes on.
func closeWrite(nc net.Conn) {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
