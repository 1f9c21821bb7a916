package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
)

// Path is how packets reach a workspace's agent at one moment. It is a plain value,
// safe to compare.
type Path struct {
	// Kind is "direct" (UDP between the two), "relay", or "none" while no packet has a
	// way or none was sent for a while.
	Kind string `json:"kind"`
	// Endpoint is the agent's UDP address (direct only).
	Endpoint string `json:"endpoint,omitempty"`
	// Relay is the code of the agent's home relay (relay only).
	Relay string `json:"relay,omitempty"`
}

// Kinds of path.
const (
	PathDirect = "direct"
	PathRelay  = "relay"
	PathNone   = "none"
)

// String returns the path as people read it.
func (p Path) String() string {
	switch {
	case p.Kind == PathDirect && p.Endpoint != "":
		return "direct " + p.Endpoint
	case p.Kind == PathRelay && p.Relay != "":
		return "relay " + p.Relay
	default:
		return p.Kind
	}
}

func pathOf(p tailnet.Path) Path {
	return Path{Kind: p.Kind.String(), Endpoint: p.Endpoint, Relay: p.Relay}
}

// packets is what a Workspace can ask of the node about its agent.
type packets interface {
	ping(ctx context.Context) (time.Duration, tailnet.Path, error)
	path() tailnet.Path
	watch(f func(tailnet.PathEvent)) (stop func())
}

// peerPackets is packets for one peer of a node.
type peerPackets struct {
	node *tailnet.Node
	key  proto.NodeKey
}

func (p peerPackets) ping(ctx context.Context) (time.Duration, tailnet.Path, error) {
	return p.node.Ping(ctx, p.key)
}

func (p peerPackets) path() tailnet.Path { return p.node.Path(p.key) }

func (p peerPackets) watch(f func(tailnet.PathEvent)) (stop func()) {
	return p.node.WatchPaths(func(e tailnet.PathEvent) {
		if e.Peer == p.key {
			f(e)
		}
	})
}

// Path returns how packets reach the workspace now.
func (w *Workspace) Path() Path { return pathOf(w.config.packets.path()) }

// Ping measures one round trip to the agent's node, inside the encryption and on the
// path that a session's packets take, and returns the path that it took. When ctx ends
// first, the ping is lost and the error is the context's cause.
func (w *Workspace) Ping(ctx context.Context) (time.Duration, Path, error) {
	rtt, path, err := w.config.packets.ping(ctx)
	if err != nil {
		return 0, Path{}, err
	}
	return rtt, pathOf(path), nil
}

// PingOptions say how to ping. The zero value is one ping a second, for ever.
type PingOptions struct {
	Count       int           // 0: until ctx ends
	Interval    time.Duration // between pings; 0: a second
	Timeout     time.Duration // after which a ping is lost; 0: three seconds
	UntilDirect bool          // end with the first answer over a direct path
	// OnEvent is called with each event, one at a time; nil: not.
	OnEvent func(PingEvent)
}

// PingEvent is an answer, a lost ping, or a change of the path.
type PingEvent struct {
	Type     PingEventType
	At       time.Time
	Sequence int           // of answers and losses, from 1 on
	RTT      time.Duration // of answers
	Path     Path          // that the answer took, or the new one
	Old      Path          // of changes
}

// PingEventType says what a [PingEvent] is.
type PingEventType string

// Types of events.
const (
	PingAnswered PingEventType = "answer"
	PingLost     PingEventType = "lost"
	PingPath     PingEventType = "path"
)

// PingSummary says how a series of pings went.
type PingSummary struct {
	Sent, Answered int
	Min, Avg, Max  time.Duration
	// Path is the last that was known.
	Path Path
	// Direct: the path was direct at some time, after DirectAfter at first.
	Direct      bool
	DirectAfter time.Duration
	// Attribution says what ended the series.
	Attribution disconnect.Attribution
}

// Lost is the number of pings without an answer.
func (s PingSummary) Lost() int { return s.Sent - s.Answered }

// Goodbye is what a client that leaves after these pings tells the agent and the
// server.
func (s PingSummary) Goodbye() disconnect.Goodbye {
	return SessionEnd{Attribution: s.Attribution, Exited: s.Attribution.Reason == disconnect.Graceful}.Goodbye()
}

// pinging is one run of Workspace.RunPing. Its loop's goroutine owns it.
type pinging struct {
	options PingOptions
	began   time.Time
	sentAt  time.Time
	pending bool // the last ping is neither answered nor lost
	total   time.Duration
	summary PingSummary
}

// RunPing pings the workspace one ping after the other until all are sent and
// answered or lost, ctx ends or the workspace does; then it logs the ending once.
// Changes of the path are told as they happen.
func (w *Workspace) RunPing(ctx context.Context, options PingOptions) PingSummary {
	if options.Interval <= 0 {
		options.Interval = time.Second
	}
	if options.Timeout <= 0 {
		options.Timeout = 3 * time.Second
	}
	if options.OnEvent == nil {
		options.OnEvent = func(PingEvent) {}
	}
	p := &pinging{options: options, began: time.Now(), summary: PingSummary{Path: Path{Kind: PathNone}}}
	p.summary.Attribution = w.pings(ctx, p)
	s := p.summary
	s.Attribution.Log(context.WithoutCancel(ctx), w.config.logger, "ping ended",
		slog.String("workspace", disconnect.Scrub(w.config.name)),
		slog.Int("sent", s.Sent), slog.Int("answered", s.Answered), slog.String("path", s.Path.String()))
	return s
}

// pings is the loop of RunPing: whatever happens is told from here, in its order. It
// returns why it ended.
func (w *Workspace) pings(ctx context.Context, p *pinging) disconnect.Attribution {
	running, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	changes := make(chan struct{})
	defer w.config.packets.watch(func(tailnet.PathEvent) {
		select {
		case changes <- struct{}{}:
		case <-running.Done():
		}
	})()
	answers := make(chan PingEvent, 1)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			sequence := p.sent()
			tasks.Go(func() { answers <- w.pingOnce(running, sequence, p.options.Timeout) })
		case <-changes:
			p.arrived(w.Path(), time.Now()) // an answer may have brought newer news than the event
		case e := <-answers:
			if running.Err() != nil {
				continue // its loss says nothing
			}
			p.ended(e)
			if p.done() {
				return p.finished()
			}
			next.Reset(max(0, p.options.Interval-time.Since(p.sentAt)))
		case <-ctx.Done():
			if p.pending {
				p.summary.Sent-- // it had no time to be answered
			}
			return w.leaving(ctx)
		case <-w.Done():
			return w.Ending()
		}
	}
}

// pingOnce is one ping as an event.
func (w *Workspace) pingOnce(ctx context.Context, sequence int, timeout time.Duration) PingEvent {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rtt, path, err := w.Ping(ctx)
	e := PingEvent{Type: PingAnswered, At: time.Now(), Sequence: sequence, RTT: rtt, Path: path}
	if err != nil {
		e.Type, e.Path = PingLost, w.Path()
		w.config.logger.Debug("ping lost", "sequence", sequence, "error", disconnect.Scrub(err.Error()))
	}
	return e
}

func (p *pinging) sent() (sequence int) {
	p.summary.Sent++
	p.sentAt, p.pending = time.Now(), true
	return p.summary.Sent
}

// ended takes in an answer or a loss. The path of an answer may be news.
func (p *pinging) ended(e PingEvent) {
	p.pending = false
	if e.Type == PingAnswered {
		p.arrived(e.Path, e.At)
		s := &p.summary
		if s.Answered == 0 || e.RTT < s.Min {
			s.Min = e.RTT
		}
		s.Max = max(s.Max, e.RTT)
		s.Answered++
		p.total += e.RTT
		s.Avg = p.total / time.Duration(s.Answered)
	}
	p.options.OnEvent(e)
}

// arrived makes path the present one, and tells it if it is another.
func (p *pinging) arrived(path Path, at time.Time) {
	old := p.summary.Path
	if path == old {
		return
	}
	p.summary.Path = path
	if path.Kind == PathDirect && !p.summary.Direct {
		p.summary.Direct, p.summary.DirectAfter = true, at.Sub(p.began)
	}
	p.options.OnEvent(PingEvent{Type: PingPath, At: at, Path: path, Old: old})
}

func (p *pinging) done() bool {
	if p.options.UntilDirect && p.summary.Answered > 0 && p.summary.Path.Kind == PathDirect {
		return true
	}
	return p.options.Count > 0 && p.summary.Sent >= p.options.Count
}

func (p *pinging) finished() disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.Graceful,
		Initiator:   disconnect.Client,
		Detail:      fmt.Sprintf("%d of %d pings answered", p.summary.Answered, p.summary.Sent),
	}
}

// IsOffline reports whether an error of [Client.Reach] says that the workspace is
// there, but its agent is not.
func IsOffline(err error) bool {
	var refused *tailnet.RefusedError
	return errors.As(err, &refused) && refused.Code == proto.Refusal_AGENT_OFFLINE
}

// AwaitDirect pings until an answer came over a direct path, at most for d.
func (w *Workspace) AwaitDirect(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		if _, path, err := w.Ping(ctx); err != nil || path.Kind == PathDirect {
			return // an error is the end of ctx
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
