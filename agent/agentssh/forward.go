package agentssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
)

const (
	// maxForwards bounds the forwards of one connection, those included that only wait
	// for the client to confirm their end. Each may hold 2 MiB that the target does not
	// take.
	maxForwards = 256
	// dialTimeout bounds how long a forward's target may take to answer.
	dialTimeout = 30 * time.Second
)

var tooManyForwards = disconnect.LimitExceeded.String() + ": this connection has " + strconv.Itoa(maxForwards) + " forwards already"

// Channel types of forwards that the client opens.
const (
	directTCP  = "direct-tcpip"
	directUnix = "direct-streamlocal@openssh.com"
)

// target is where a forward leads.
type target struct{ network, address string }

// parseTarget reads what a channel of one of the types above is opened with.
func parseTarget(channelType string, payload []byte) (target, error) {
	if channelType == directUnix {
		var m struct {
			Path, Reserved string
			Unused         uint32
		}
		if err := ssh.Unmarshal(payload, &m); err != nil {
			return target{}, errors.New("malformed request")
		}
		if !path.IsAbs(m.Path) {
			return target{}, errors.New("the path of a socket must be absolute")
		}
		return target{"unix", m.Path}, nil
	}
	var m struct {
		Host       string
		Port       uint32
		Originator string
		FromPort   uint32
	}
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return target{}, errors.New("malformed request")
	}
	if m.Host == "" || m.Port == 0 || m.Port > 0xffff {
		return target{}, errors.New("there is no such address")
	}
	return target{"tcp", net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))}, nil
}

// forward is one channel that leads to a port or a unix socket. Its first terminal cause
// is in end: both sides ended what they send, the target failed, the client closed the
// channel or the transport broke (gone is closed, cause judges), or it was stopped.
type forward struct {
	c      *conn
	target target
	row    row  // what it is reported as
	local  bool // set by run: the target is on this host

	bytes     meter
	end       disconnect.Latch
	first     atomic.Uint32 // the [disconnect.Initiator] that was first to end what it sends
	settled   atomic.Bool   // both sides have ended: only a peer that left may have come first
	gone      chan struct{} // closed when the channel is closed from the other side
	goneAlone bool          // set before gone: the transport had not ended then
	stopOnce  sync.Once
	stopped   chan struct{} // closed when this forward alone was ended
	over      chan struct{} // closed when it has ended and was reported
}

// openForward begins what the channel asks for, and does not wait for it.
func (c *conn) openForward(nch ssh.NewChannel) {
	to, err := parseTarget(nch.ChannelType(), nch.ExtraData())
	if err != nil {
		_ = nch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	if text, no := c.srv.refusal(); no {
		_ = nch.Reject(ssh.Prohibited, text)
		return
	}
	if c.forwarded.Add(1) > maxForwards {
		c.forwarded.Add(-1)
		c.warnForwards.Do(func() { c.srv.logger.Warn("port forwards refused", "limit", maxForwards) })
		_ = nch.Reject(ssh.ResourceShortage, tooManyForwards)
		return
	}
	f := &forward{
		c: c, target: to, gone: make(chan struct{}), stopped: make(chan struct{}), over: make(chan struct{}),
	}
	if !c.registerForward(f) {
		c.forwarded.Add(-1)
		_ = nch.Reject(ssh.ConnectionFailed, "connection is closing")
		return
	}
	c.goroutines.Go(func() {
		defer c.forwarded.Add(-1)
		f.run(nch)
	})
}

// registerForward is register for forwards.
func (c *conn) registerForward(f *forward) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, refused := c.srv.refusal(); refused || c.isStopped() {
		return false
	}
	c.forwards[f] = struct{}{}
	c.live.Add(1)
	return true
}

func (c *conn) forgetForward(f *forward) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.forwards, f)
	c.live.Done()
}

// run sees a forward to its end: one ending, reported once. It returns when nothing of it
// is left, for which the client must have confirmed the end of the channel.
func (f *forward) run(nch ssh.NewChannel) {
	f.see(func(parts *sync.WaitGroup, report func(disconnect.Attribution)) { f.lead(nch, parts, report) })
}

// see calls do, which ends the forward by report; what panics is an end too. It returns
// when parts have.
func (f *forward) see(do func(parts *sync.WaitGroup, report func(disconnect.Attribution))) {
	var parts sync.WaitGroup
	defer parts.Wait()
	reported := false
	report := func(a disconnect.Attribution) {
		f.end.Set(a)
		if !reported {
			reported = true
			f.report()
			f.c.forgetForward(f)
			close(f.over)
		}
	}
	defer func() {
		if r := recover(); r != nil {
			f.logPanic(r)
			report(panicked(r))
		}
	}()
	do(&parts, report)
}

// lead connects the channel that the client asked for with its target.
func (f *forward) lead(nch ssh.NewChannel, parts *sync.WaitGroup, report func(disconnect.Attribution)) {
	if f.c.srv.forbids(localForwarding) {
		f.begin(nil)
		report(denied(localForwarding))
		_ = nch.Reject(ssh.Prohibited, deniedText(localForwarding))
		return
	}
	peer, err := f.dial()
	f.begin(peer)
	if err != nil {
		report(f.judgeDial(err))
		a, _ := f.end.Get()
		_ = nch.Reject(ssh.ConnectionFailed, a.Detail)
		return
	}
	defer peer.Close()
	f.local = onThisHost(peer)
	ch, requests, err := nch.Accept()
	if err != nil { // the transport is gone
		report(f.connEnd())
		return
	}
	f.join(ch, requests, peer, parts, report)
}

// join passes bytes between channel and peer until the forward is over, and closes the
// channel.
func (f *forward) join(ch ssh.Channel, requests <-chan *ssh.Request, peer net.Conn, parts *sync.WaitGroup, report func(disconnect.Attribution)) {
	defer ch.Close()
	parts.Go(func() {
		ssh.DiscardRequests(requests)
		f.goneAlone = !f.c.nc.delivered.Load()
		close(f.gone)
	})
	report(f.carry(parts, ch, peer))
	f.explain(ch)
}

// explain tells our own client why the forward ended, if not by its two sides: the end of
// a channel shows that to nobody.
func (f *forward) explain(ch ssh.Channel) {
	if a, _ := f.end.Get(); a.Reason != disconnect.Graceful && f.c.tellsItsUser() {
		_, _ = ch.SendRequest(sshend.Request, false, causePayload(a))
	}
}

// dial connects to the target, unless the forward is ended first.
func (f *forward) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	f.c.goroutines.Go(func() {
		defer cancel()
		select {
		case <-f.stopped:
		case <-f.c.stopped:
		case <-f.c.done:
		case <-ctx.Done():
		}
	})
	return new(net.Dialer).DialContext(ctx, f.target.network, f.target.address)
}

// carry passes bytes both ways until the forward is over, and returns why that is.
func (f *forward) carry(parts *sync.WaitGroup, ch ssh.Channel, peer net.Conn) disconnect.Attribution {
	events := make(chan forwardEvent, 2) // one of each direction
	part := func(do func() forwardEvent) {
		parts.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					f.logPanic(r)
					f.stop(panicked(r))
				}
			}()
			events <- do()
		})
	}
	part(func() forwardEvent { return f.toTarget(ch, peer) })
	part(func() forwardEvent { return f.toClient(ch, peer) })
	parts.Go(func() {
		now := time.Now()
		k := clock{began: now, active: now, seen: f.c.traffic()}
		k.run(f.c.srv.currentPolicy, f.c.traffic, func(string) {}, f.stop, f.over)
	})
	return f.await(events)
}

// stop ends this forward alone for cause a, unless another came first.
func (f *forward) stop(a disconnect.Attribution) {
	f.stopOnce.Do(func() {
		f.claim(a.On(disconnect.AgentToClient))
		close(f.stopped)
	})
}

// claim records a as the end, unless another cause came first, even one that is still to
// be judged.
func (f *forward) claim(a disconnect.Attribution) {
	if !f.lost() && !f.settled.Load() {
		f.end.Set(a)
	}
}

// lost reports whether the client closed the channel, or its transport broke, already.
func (f *forward) lost() bool {
	select {
	case <-f.gone:
		return true
	default:
		return f.c.nc.Err() != nil
	}
}

func (f *forward) logPanic(r any) {
	f.c.srv.logger.Error("panic in port forward", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
}
