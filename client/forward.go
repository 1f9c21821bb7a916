package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
)

const (
	// forwardDialTimeout bounds what the agent, or this machine, needs to reach a target.
	forwardDialTimeout = 20 * time.Second
	// Pauses between attempts to get a lost workspace back.
	firstRetry, longestRetry = 250 * time.Millisecond, 5 * time.Second
)

// Endpoint is where a forward listens, or what it leads to.
type Endpoint struct {
	// Network is "tcp" or "unix".
	Network string
	// Address is HOST:PORT, or the path of a socket.
	Address string
}

// String returns the address: a path shows by its slash which of the two it is.
func (e Endpoint) String() string { return disconnect.Scrub(e.Address) }

// Forward leads the connections that arrive at Listen on to Target.
type Forward struct {
	// Remote: it listens in the workspace and leads to this machine; otherwise the
	// other way.
	Remote bool
	Listen Endpoint
	// Target is the zero Endpoint of a forward that speaks SOCKS: then each connection
	// says itself what it wants.
	Target Endpoint
}

// dynamic reports whether each connection says itself what it wants.
func (f Forward) dynamic() bool { return f.Target == Endpoint{} }

// ForwardEventType says what a [ForwardEvent] is.
type ForwardEventType string

// Types of events.
const (
	ForwardListening ForwardEventType = "listening" // connections are taken from now on
	ForwardOpened    ForwardEventType = "opened"    // one connection reached its target
	ForwardClosed    ForwardEventType = "closed"    // and this is how it ended
	ForwardRefused   ForwardEventType = "refused"   // one connection did not reach it
	ForwardAway      ForwardEventType = "away"      // the workspace is lost, and sought again
	ForwardBack      ForwardEventType = "back"      // it is there again
	ForwardFailed    ForwardEventType = "failed"    // the agent does not listen, and is asked again
)

// ForwardEvent is something that a user may want to know.
type ForwardEvent struct {
	Type    ForwardEventType
	At      time.Time
	Forward Forward // whose Listen is where it listens in truth, port 0 replaced
	// Connection counts the connections of one run, from 1 on; From is who opened it, and
	// Target what it wanted.
	Connection   uint64
	From, Target string
	// Sent went into the workspace and Received came from there, in bytes; Lasted is how
	// long. Of closed connections.
	Sent, Received uint64
	Lasted         time.Duration
	// Attribution says why, of all but listening, opened and back.
	Attribution disconnect.Attribution
}

// ForwardOptions say how to forward.
type ForwardOptions struct {
	// ExitOnDisconnect ends the run when the workspace is lost, instead of getting it back.
	ExitOnDisconnect bool
	// OnEvent is called with each event, one at a time; nil: not.
	OnEvent func(ForwardEvent)
}

// Forwards are ports and sockets of this machine and of a workspace that lead to each
// other. [ListenForwards] opens those of this machine; Run serves them all, once.
type Forwards struct {
	listeners []*forwardListener
	remotes   []Forward

	reach   func(context.Context) (*Workspace, error)
	options ForwardOptions
	logger  *slog.Logger
	tasks   sync.WaitGroup // acceptors and connections

	telling sync.Mutex // serializes OnEvent

	mu    sync.Mutex // guards all below
	link  *forwardLink
	away  disconnect.Attribution // why link is nil
	count uint64
}

// ListenForwards opens what is to listen on this machine, all or nothing. An error is
// one sentence. The caller calls Run or Close.
func ListenForwards(ctx context.Context, forwards []Forward) (*Forwards, error) {
	f := &Forwards{}
	for _, forward := range forwards {
		if forward.Remote {
			f.remotes = append(f.remotes, forward)
			continue
		}
		l, err := listenForward(ctx, forward)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.listeners = append(f.listeners, l)
	}
	return f, nil
}

// Close closes what listens on this machine. Run does so as well.
func (f *Forwards) Close() {
	for _, l := range f.listeners {
		_ = l.Close()
	}
}

// Run forwards until ctx ends, which is the user's choice to leave, or the workspace is
// lost for good: its right withdrawn, or lost at all with ExitOnDisconnect. The ending
// says which; an error says in one sentence why there is no way to the workspace, or
// none any more. Ports and sockets of this machine stay open while the workspace is
// away: a connection that arrives then is reset at once.
func (f *Forwards) Run(ctx context.Context, c *Client, workspace string, options ForwardOptions) (disconnect.Attribution, error) {
	f.logger = c.logger
	return f.run(ctx, func(ctx context.Context) (*Workspace, error) { return c.Reach(ctx, workspace) }, options)
}

func (f *Forwards) run(ctx context.Context, reach func(context.Context) (*Workspace, error), options ForwardOptions) (disconnect.Attribution, error) {
	f.reach, f.options = reach, options
	defer f.tasks.Wait()
	running, stop := context.WithCancel(ctx)
	defer stop()
	defer f.Close()
	link, err := f.connect(ctx)
	if err != nil {
		return notBegun(err).Attribution, err
	}
	if _, err := link.listenAll(f.remotes); err != nil {
		a := notBegun(err).Attribution
		f.drop(link, a)
		return a, err
	}
	f.adopt(link)
	for _, l := range f.listeners {
		f.tasks.Go(func() { f.accept(running, l) })
		f.tell(ForwardEvent{Type: ForwardListening, Forward: l.forward})
	}
	for _, forward := range f.remotes {
		f.tell(ForwardEvent{Type: ForwardListening, Forward: forward})
	}
	for {
		a := link.wait(ctx)
		if ctx.Err() != nil { // the cause is told before anything closes
			f.refuse(a)
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
			link.workspace.Goodbye(leaving, a.Goodbye())
			cancel()
		}
		f.drop(link, a)
		if ctx.Err() != nil || options.ExitOnDisconnect || forGood(a) {
			f.refuse(a)
			return a, nil
		}
		f.tell(ForwardEvent{Type: ForwardAway, Attribution: a})
		if link, err = f.reconnect(ctx, link); err != nil {
			a := notBegun(err).Attribution
			if ctx.Err() != nil {
				a, err = leftWhileAway(ctx), nil
			}
			f.refuse(a)
			return a, err
		}
		f.adopt(link)
		f.tell(ForwardEvent{Type: ForwardBack})
		link.tasks.Go(func() { link.keepListening(f.remotes) })
	}
}

// leftWhileAway is the end of a run that its user ends while there is no workspace.
func leftWhileAway(ctx context.Context) disconnect.Attribution {
	if a, ok := disconnect.FromContext(ctx); ok {
		return a.On(disconnect.AgentToClient)
	}
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.ClientClosed, Initiator: disconnect.Client,
		Detail: "the client was told to stop while the workspace was away",
	}
}

// forGood reports whether an ending is somebody's wish that there be no more of it.
func forGood(a disconnect.Attribution) bool {
	switch a.Reason {
	case disconnect.AuthFailed, disconnect.AuthRevoked, disconnect.AuthExpired, disconnect.AdminTerminated:
		return true
	}
	return false
}

// beyondHope reports whether it is of no use to ask again for a way to the workspace.
func beyondHope(err error) bool {
	var refused *tailnet.RefusedError
	var impostor *HostKeyError
	if errors.As(err, &refused) && refused.Code == proto.Refusal_NOT_FOUND || errors.As(err, &impostor) {
		return true
	}
	a, _ := disconnect.FromError(err)
	return forGood(a)
}

// connect opens the way to the workspace and an SSH connection there.
func (f *Forwards) connect(ctx context.Context) (*forwardLink, error) {
	w, err := f.reach(ctx)
	if err != nil {
		return nil, err
	}
	return f.join(ctx, w)
}

func (f *Forwards) join(ctx context.Context, w *Workspace) (*forwardLink, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	return newForwardLink(f, w, conn), nil
}

// reconnect seeks the workspace until it is there, or cannot be again. If only the SSH
// connection is lost, the way to the workspace is still good.
func (f *Forwards) reconnect(ctx context.Context, lost *forwardLink) (*forwardLink, error) {
	w := lost.workspace
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		var err error
		if w == nil || !w.Ending().IsZero() {
			w, err = f.reach(ctx)
		}
		if err == nil {
			var link *forwardLink
			if link, err = f.join(ctx, w); err == nil {
				return link, nil
			}
		}
		if ctx.Err() != nil || beyondHope(err) {
			return nil, err
		}
		f.refuse(notBegun(err).Attribution)
	}
}

// adopt makes link the way that connections take.
func (f *Forwards) adopt(link *forwardLink) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link, f.away = link, disconnect.Attribution{}
}

// drop records why link ended, then ends what runs on it and waits for that.
func (f *Forwards) drop(link *forwardLink, a disconnect.Attribution) {
	f.refuse(a)
	link.end(a)
}

// refuse keeps connections out for cause a.
func (f *Forwards) refuse(a disconnect.Attribution) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link, f.away = nil, a
}

// current returns the way to the workspace, or why there is none. One from which
// nothing is heard is none: a connection would hang there.
func (f *Forwards) current() (*forwardLink, disconnect.Attribution) {
	f.mu.Lock()
	link, away := f.link, f.away
	f.mu.Unlock()
	if link == nil {
		return nil, away
	}
	if since, silent := link.workspace.Interrupted(); silent {
		return nil, disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
			Detail: fmt.Sprintf("nothing heard from the workspace for %v", time.Since(since).Round(time.Second)),
		}
	}
	return link, disconnect.Attribution{}
}

// number counts a connection.
func (f *Forwards) number() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	return f.count
}

// tell passes an event on.
func (f *Forwards) tell(e ForwardEvent) {
	if f.options.OnEvent == nil {
		return
	}
	e.At = time.Now()
	f.telling.Lock()
	defer f.telling.Unlock()
	f.options.OnEvent(e)
}

// accept takes connections from l until it is closed.
func (f *Forwards) accept(ctx context.Context, l *forwardListener) {
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			f.tasks.Go(func() { f.serve(ctx, l.forward, nc) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, mostly: those that are open may go
			timer := time.NewTimer(firstRetry)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}
