package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// forwardLink is one SSH connection to the workspace, and the forwarded connections
// that run on it. It ends once, for all of them.
type forwardLink struct {
	forwards  *Forwards
	workspace *Workspace
	conn      *sshConn
	ended     disconnect.Latch
	over      chan struct{}  // closed when ended is set
	tasks     sync.WaitGroup // forwarded connections, and what waits for those of the agent
	fromAgent atomic.Int64   // connections that the agent's side opened and that are here

	listening []Forward // what the agent listens on; forwards.mu guards it
}

func newForwardLink(f *Forwards, w *Workspace, conn *sshConn) *forwardLink {
	l := &forwardLink{forwards: f, workspace: w, conn: conn, over: make(chan struct{})}
	for _, kind := range []string{"forwarded-tcpip", "forwarded-streamlocal@openssh.com"} {
		channels := conn.client.HandleChannelOpen(kind)
		l.tasks.Go(func() { l.serveRemotes(channels) })
	}
	return l
}

// wait returns why the link ended, or ctx's cause. It says goodbye in that case.
func (l *forwardLink) wait(ctx context.Context) disconnect.Attribution {
	select {
	case <-ctx.Done():
		return l.workspace.leaving(ctx)
	case <-l.workspace.Done():
		return l.workspace.Ending()
	case <-l.conn.dead:
		return l.workspace.lost(ctx, l.conn.port, l.conn.broken, &l.conn.told)
	}
}

// end records a as the cause, takes down the SSH connection with all that runs on it,
// and waits for that.
func (l *forwardLink) end(a disconnect.Attribution) {
	l.ended.Set(a)
	close(l.over)
	l.conn.close()
	l.tasks.Wait()
}

// dying reports whether the link has ended, or is about to: then the end of a channel
// is the link's and not the channel's own.
func (l *forwardLink) dying() bool {
	select {
	case <-l.over:
		return true
	case <-l.conn.dead:
		return true
	case <-l.conn.heard:
		return true
	case <-l.workspace.Done():
		return true
	default:
	}
	return l.conn.raw.Err() != nil
}

// opened is what asking for a channel gave.
type opened struct {
	channel  ssh.Channel
	requests <-chan *ssh.Request
	err      error
}

// open asks the agent for a channel to target, and gives up when the time is over or
// the link is; a channel that comes after that is closed.
func (l *forwardLink) open(ctx context.Context, target Endpoint, from net.Addr) (ssh.Channel, <-chan *ssh.Request, error) {
	kind, payload, err := channelTo(target, from)
	if err != nil {
		return nil, nil, err
	}
	answer := make(chan opened, 1)
	given := make(chan struct{})
	defer close(given)
	l.tasks.Go(func() {
		var o opened
		o.channel, o.requests, o.err = l.conn.client.OpenChannel(kind, payload)
		answer <- o
		<-given
		select { // nobody took it
		case o := <-answer:
			if o.err == nil {
				_ = o.channel.Close()
				ssh.DiscardRequests(o.requests) // until the agent has closed it too, or the link ends
			}
		default:
		}
	})
	timer := time.NewTimer(forwardDialTimeout)
	defer timer.Stop()
	select {
	case o := <-answer:
		return o.channel, o.requests, o.err
	case <-timer.C:
		return nil, nil, &disconnect.EndedError{Attribution: disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Agent,
			Detail: fmt.Sprintf("the target did not answer for %v", forwardDialTimeout),
		}}
	case <-l.over:
		a, _ := l.ended.Get()
		return nil, nil, &disconnect.EndedError{Attribution: a}
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// channelTo is the channel that leads to target (RFC 4254 section 7.2, and OpenSSH's
// PROTOCOL section 2.4).
func channelTo(target Endpoint, from net.Addr) (kind string, payload []byte, err error) {
	if target.Network == "unix" {
		return "direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path, Reserved string
			Port           uint32
		}{target.Address, "", 0}), nil
	}
	host, port, err := hostPort(target.Address)
	if err != nil {
		return "", nil, err
	}
	fromHost, fromPort := "127.0.0.1", uint32(0)
	if h, p, err := hostPort(from.String()); err == nil {
		fromHost, fromPort = h, p
	}
	return "direct-tcpip", ssh.Marshal(struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}{host, port, fromHost, fromPort}), nil
}

func hostPort(address string) (host string, port uint32, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is no port", text)
	}
	return host, uint32(n), nil
}

// notOpened says why a connection did not reach its target.
func (l *forwardLink) notOpened(err error) disconnect.Attribution {
	if a, ok := disconnect.FromError(err); ok {
		return a.On(disconnect.AgentToClient)
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		if l.dying() { // whoever ends the link knows more in a moment
			<-l.over
			a, _ := l.ended.Get()
			return a
		}
		return judge(err)
	}
	if a, ok := refusedFor(refused.Message); ok {
		return a
	}
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.ConnectionRefused, Initiator: disconnect.Agent,
		Detail: disconnect.Scrub(refused.Message),
	}
	if refused.Reason == ssh.ResourceShortage {
		a.Reason = disconnect.LimitExceeded
	}
	return a
}
