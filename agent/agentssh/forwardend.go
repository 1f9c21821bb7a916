package agentssh

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// forwardEvent is the end of one direction of a forward.
type forwardEvent struct {
	from  disconnect.Initiator // who sent: Client, or Agent for the target
	err   error                // nil: the sender has ended what it sends
	write bool                 // err is of writing to the target
	late  bool                 // the channel is closed, which has its own signal
}

// toTarget passes what the client sends.
func (f *forward) toTarget(ch ssh.Channel, peer net.Conn) forwardEvent {
	buf := make([]byte, copyBuffer)
	for {
		n, err := ch.Read(buf)
		if n > 0 {
			f.bytes.received.Add(uint64(n))
			f.c.bytes.received.Add(uint64(n))
			if _, werr := peer.Write(buf[:n]); werr != nil {
				return forwardEvent{from: disconnect.Client, err: werr, write: true}
			}
		}
		if err != nil { // the end of the input, of the channel or of the transport
			if f.c.nc.delivered.Load() {
				return forwardEvent{from: disconnect.Client, late: true}
			}
			f.ends(disconnect.Client)
			if half, ok := peer.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
			return forwardEvent{from: disconnect.Client}
		}
	}
}

// toClient passes what the target sends.
func (f *forward) toClient(ch ssh.Channel, peer net.Conn) forwardEvent {
	buf := make([]byte, copyBuffer)
	for {
		n, err := peer.Read(buf)
		if n > 0 {
			if _, werr := ch.Write(buf[:n]); werr != nil {
				return forwardEvent{from: disconnect.Agent, late: true}
			}
			f.bytes.sent.Add(uint64(n))
			f.c.bytes.sent.Add(uint64(n))
		}
		if errors.Is(err, io.EOF) {
			f.ends(disconnect.Agent)
			_ = ch.CloseWrite()
			return forwardEvent{from: disconnect.Agent}
		}
		if err != nil {
			return forwardEvent{from: disconnect.Agent, err: err}
		}
	}
}

// ends notes who has ended what it sends, before the other side can hear and follow.
func (f *forward) ends(who disconnect.Initiator) {
	f.first.CompareAndSwap(uint32(disconnect.InitiatorUnknown), uint32(who))
}

// firstEnd is who was first to end what it sends, if anybody has.
func (f *forward) firstEnd() disconnect.Initiator { return disconnect.Initiator(f.first.Load()) }

// await returns why the forward is over, when it is.
func (f *forward) await(events <-chan forwardEvent) disconnect.Attribution {
	var clientEnded time.Time
	for open := 2; open > 0; {
		select {
		case e := <-events:
			switch {
			case e.late: // gone says why
				continue
			case e.err != nil:
				return f.judgeTarget(e, events)
			}
			if open--; e.from == disconnect.Client {
				clientEnded = time.Now()
			}
		case <-f.gone:
			return f.cause()
		case <-f.stopped:
			return f.cause()
		case <-f.c.stopped:
			return f.cause()
		}
	}
	// The end of the client's input may be the end of its channel, or of its transport.
	t := time.NewTimer(time.Until(clientEnded.Add(inputSettle)))
	defer t.Stop()
	select {
	case <-f.gone:
		return f.cause()
	case <-t.C:
	}
	if f.c.nc.delivered.Load() {
		return f.cause()
	}
	f.settled.Store(true)
	return f.normalClose()
}

// judgeTarget says what the failure of the target means when it came first; events has
// what the other direction saw.
func (f *forward) judgeTarget(e forwardEvent, events <-chan forwardEvent) disconnect.Attribution {
	if f.lost() {
		return f.cause() // the target may have failed of that
	}
	first := f.firstEnd()
	if e.write && first == disconnect.InitiatorUnknown && !errors.Is(e.err, syscall.ECONNRESET) {
		// The reader gets the better error, or what the target closed with.
		t := time.NewTimer(settleTime)
		defer t.Stop()
		select {
		case other := <-events:
			if other.err != nil {
				e = other
			}
			first = f.firstEnd()
		case <-t.C:
		}
	}
	if e.write && first == disconnect.Agent {
		return f.normalClose() // it had ended before: writing to it had to fail
	}
	return f.targetFailed(e.err)
}

// targetFailed is the ending that an error of the target means. Between it and the agent
// there is no network when both are on one host.
func (f *forward) targetFailed(err error) disconnect.Attribution {
	a := disconnect.Judge(err, disconnect.AgentToClient, disconnect.Agent)
	if f.local && a.Initiator == disconnect.Network {
		a.Initiator = disconnect.Agent
	}
	return a
}

// onThisHost reports whether the other end of c is on the host of this one.
func onThisHost(c net.Conn) bool {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return true // a unix socket
	}
	local, ok := c.LocalAddr().(*net.TCPAddr)
	return remote.IP.IsLoopback() || (ok && remote.IP.Equal(local.IP))
}

// judgeDial says why there is no connection to the target.
func (f *forward) judgeDial(err error) disconnect.Attribution {
	if a, ok := f.end.Get(); ok {
		return a
	}
	if f.c.isStopped() || f.c.nc.Err() != nil || errors.Is(err, context.Canceled) {
		return f.connEnd()
	}
	if exhausted(err) {
		return attribute(disconnect.ResourceExhausted, disconnect.Agent, err.Error())
	}
	return attribute(disconnect.ConnectionRefused, disconnect.Agent, err.Error())
}

// cause returns why the forward was ended by something else than its two sides.
func (f *forward) cause() disconnect.Attribution {
	if a, ok := f.end.Get(); ok {
		return a
	}
	if !f.lost() && f.c.isStopped() {
		if a, ok := f.c.end.Get(); ok {
			return a
		}
	}
	<-f.gone
	if !f.goneAlone {
		return f.connEnd()
	}
	// Either the client closed the channel, or the connection is just ending: by a word
	// of the client or by bytes that are not SSH.
	t := time.NewTimer(settleTime)
	defer t.Stop()
	select {
	case <-f.c.done:
		if a, ok := f.c.end.Get(); ok && f.c.declared.Load() {
			return a
		}
	case <-t.C:
	}
	f.ends(disconnect.Client)
	return f.normalClose()
}

// connEnd returns how the connection ended, which it has or is about to.
func (f *forward) connEnd() disconnect.Attribution {
	if a, ok := f.c.end.Get(); ok {
		return a
	}
	<-f.c.done
	a, _ := f.c.end.Get()
	return a
}

// normalClose is the end of a forward that both sides have ended.
func (f *forward) normalClose() disconnect.Attribution {
	return attribute(disconnect.Graceful, f.firstEnd(), "normal close")
}
