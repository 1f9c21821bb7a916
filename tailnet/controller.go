package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
)

// Timing of a controller.
const (
	dialTimeout     = 15 * time.Second
	redialMin       = 100 * time.Millisecond
	redialMax       = 5 * time.Second
	redialPermanent = 30 * time.Second // while the server refuses us
	linkEndWait     = time.Second      // for a link's own ending after its stream broke
)

// ControlledNode is what a controller needs of its node; a [Node] is one.
type ControlledNode interface {
	Coordinatee
	SetDERPMap(m *proto.DERPMap, stunHost string)
}

// ControllerConfig says what a controller works with.
type ControllerConfig struct {
	// Dial opens a control link to the server.
	Dial func(ctx context.Context) (*control.Link, error)
	Node ControlledNode
	Book *PeerBook
	// Key is the node's.
	Key    PrivateKey
	Logger *slog.Logger
	// ConnectType is the layer of the link, Initiator who we are.
	ConnectType disconnect.ConnectType
	Initiator   disconnect.Initiator
	// StunHost is the host of the access URL.
	StunHost string
	// OnRelayToken receives each relay token, OnPresence what the server knows of the
	// life of agents that we have tunnels to, OnState each change of the link. All may
	// be nil. They must not block, nor call Close.
	OnRelayToken func(string)
	OnPresence   func(proto.NodeKey, Presence)
	OnState      func(ControllerState)
	// Explain may know better why a link ended, or is left, on which bytes last came at
	// heard: this host slept, or its network was down. nil does not.
	Explain func(a disconnect.Attribution, heard time.Time) disconnect.Attribution
}

// ControllerState is a change of a controller's link to the server.
type ControllerState struct {
	// Up: the server has admitted this node. Otherwise Err says why it has not (a dial
	// failed), or Ending how the link ended.
	Up     bool
	Err    error
	Ending disconnect.Attribution
	// Cuts is how many links in a row were cut early without a word when that is worth
	// telling, which is once for each series; 0: it is not.
	Cuts int
	At   time.Time
}

// Presence is what the server last told of the life of an agent. Instance names the
// agent's process; when Online is false, Ending tells how its control link ended and
// Goodbye whether the agent itself said so.
type Presence struct {
	Online   bool
	Instance string
	Ending   disconnect.Attribution
	Goodbye  bool
	At       time.Time
}

var _ ControlledNode = (*Node)(nil)

// Controller keeps a client's node connected to its server: the control link, the
// coordination and the DERP map on it, again and again until Close. Peers and
// tunnels outlive the links. All methods are safe for concurrent use.
type Controller struct {
	cfg    ControllerConfig
	logger *slog.Logger
	done   chan struct{} // closed when run has returned

	mu           sync.Mutex // guards all below
	cancel       context.CancelFunc
	goodbye      *disconnect.Goodbye // set by Close before cancel
	coordination *BasicCoordination  // nil: no link
	admitted     bool                // the present link was
	dialErr      error               // of the last dial, nil after one that worked
	changed      chan struct{}       // closed and replaced when any of the three changes
	presences    map[proto.NodeKey]Presence
}

// ErrControllerClosed is the error of what was asked of a closed controller.
var ErrControllerClosed = errors.New("the controller is closed")

// NewController returns a controller that has not started.
func NewController(cfg ControllerConfig) *Controller {
	c := &Controller{
		cfg: cfg, logger: cfg.Logger,
		done: make(chan struct{}), changed: make(chan struct{}),
		presences: make(map[proto.NodeKey]Presence),
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Start begins to keep the node connected, until Close. The end of ctx is as good as
// Close, with what ended ctx as the goodbye if its cause carries an attribution.
// Start counts once.
func (c *Controller) Start(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil || c.goodbye != nil {
		return
	}
	ctx, c.cancel = context.WithCancel(ctx)
	go c.run(ctx) // Close waits for it
}

// Close says goodbye to the server, gives the tunnels back, and waits until
// everything has stopped, or ctx ends.
func (c *Controller) Close(ctx context.Context, goodbye disconnect.Goodbye) error {
	c.mu.Lock()
	if c.goodbye == nil {
		c.goodbye = &goodbye
	}
	cancel := c.cancel
	c.mu.Unlock()
	if cancel == nil {
		return nil // never started
	}
	cancel()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close controller: %w", context.Cause(ctx))
	}
}

// Tunnel waits for the link to the server and returns a tunnel to the agent of a
// workspace, ready to dial. A refusal is a [*RefusedError]. A link that is lost
// meanwhile is waited for again; but an answer of the server that says we may not
// come in, or do not fit, is returned at once.
func (c *Controller) Tunnel(ctx context.Context, workspace string) (Tunnel, error) {
	for {
		c.mu.Lock()
		coordination, dialErr, changed := c.coordination, c.dialErr, c.changed
		c.mu.Unlock()
		if coordination != nil {
			t, err := coordination.AddTunnel(ctx, workspace)
			if err == nil || !errors.Is(err, ErrCoordinationEnded) {
				return t, err
			}
		} else if permanent(dialErr) {
			return Tunnel{}, fmt.Errorf("tunnel to workspace %q: %w", workspace, dialErr)
		}
		select {
		case <-changed:
		case <-c.done:
			return Tunnel{}, fmt.Errorf("tunnel to workspace %q: %w", workspace, ErrControllerClosed)
		case <-ctx.Done():
			err := context.Cause(ctx)
			if dialErr != nil {
				err = fmt.Errorf("%w; last attempt: %w", err, dialErr)
			}
			return Tunnel{}, fmt.Errorf("tunnel to workspace %q: %w", workspace, err)
		}
	}
}

// RemoveTunnel gives a tunnel back. Without a link, the peer is removed here only.
func (c *Controller) RemoveTunnel(key proto.NodeKey) {
	c.mu.Lock()
	coordination := c.coordination
	delete(c.presences, key)
	c.mu.Unlock()
	if coordination != nil {
		coordination.RemoveTunnel(key)
		return
	}
	c.cfg.Book.drop(key, c.cfg.Node.RemovePeer, disconnect.Goodbye{})
}

// Presence returns what the server last told of an agent that we have a tunnel to.
func (c *Controller) Presence(key proto.NodeKey) (Presence, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.presences[key]
	return p, ok
}

// permanent reports whether a dial failed for a reason that waiting does not cure. Only
// the server's own word counts: a box in between may say no to everybody for a while.
func permanent(err error) bool {
	var dial *wsconn.DialError
	if !errors.As(err, &dial) {
		return false
	}
	if _, told := dial.Reason(); !told && !errors.Is(err, wsconn.ErrSubprotocol) {
		return false
	}
	switch dial.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusUpgradeRequired:
		return true
	}
	return false
}

// run keeps a link up until ctx ends.
func (c *Controller) run(ctx context.Context) {
	defer close(c.done)
	var early control.Cuts
	for failures := 0; ctx.Err() == nil; {
		delay := time.Duration(0)
		link, err := c.dial(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			failures++
			delay = redialDelay(failures, err)
			// No connection existed, so none has ended: this is not a disconnect. Who dialled
			// has said why.
			c.logger.Debug("connect to server failed", "error", err, "retry_in", delay)
			c.update(func() { c.dialErr = err })
			c.tell(ControllerState{Err: err})
		} else {
			begin := time.Now()
			ending, admitted := c.runLink(ctx, link)
			c.linkOver(&early, time.Since(begin), ending)
			if admitted {
				failures = 0
			}
			if failures++; admitted && ending.Reason == disconnect.ServerShutdown {
				delay = rand.N(2 * redialMin) // it said that it will be back; do not all come at once
			} else {
				delay = redialDelay(failures, nil)
			}
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

func (c *Controller) dial(ctx context.Context) (*control.Link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no link in %v", dialTimeout))
	defer cancel()
	return c.cfg.Dial(ctx)
}

// redialDelay doubles with every failure in a row, with a jitter of half.
func redialDelay(failures int, err error) time.Duration {
	d := redialMax
	if failures < 7 {
		d = min(d, redialMin<<(failures-1))
	}
	var dial *wsconn.DialError
	if errors.As(err, &dial) && permanent(err) {
		if _, ours := dial.Reason(); ours { // not some proxy, during a rollout
			d = redialPermanent
		}
	}
	return max(d/2+rand.N(d/2), control.RetryAfter(err))
}

// update changes fields that waiters look at.
func (c *Controller) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Controller) tell(state ControllerState) {
	if c.cfg.OnState != nil {
		state.At = time.Now()
		c.cfg.OnState(state)
	}
}

// runLink uses one link until it, or ctx, ends. It returns how the link ended and
// whether the server had admitted the node.
func (c *Controller) runLink(ctx context.Context, link *control.Link) (disconnect.Attribution, bool) {
	// The streams must outlive ctx a little, to leave in order.
	streams, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	rpc := proto.NewTailnetServiceClient(link.RPC())
	coordination, err := StartCoordination(streams, rpc, c.coordinationConfig())
	if err != nil {
		return c.linkLost(ctx, link, err), false
	}
	c.update(func() { c.coordination, c.dialErr = coordination, nil })
	maps := make(chan error, 1)
	go func() { maps <- c.followDERPMaps(streams, rpc) }()

	var streamErr error
	mapsEnded := false
	select {
	case <-ctx.Done():
	case <-link.Done():
	case streamErr = <-coordination.Wait():
	case streamErr = <-maps:
		mapsEnded = true
	}
	var ending disconnect.Attribution
	if ctx.Err() != nil {
		ending = c.leave(ctx, link, coordination)
	} else {
		ending = c.linkLost(ctx, link, streamErr)
		_ = coordination.Close(c.coordinationCause(link, ending, streamErr))
	}
	cancel()
	if !mapsEnded {
		<-maps
	}
	admitted := false
	c.update(func() {
		admitted, c.admitted, c.coordination = c.admitted, false, nil
	})
	return ending, admitted
}

// linkOver tells of a link that has ended, and of links that are cut again and again.
func (c *Controller) linkOver(early *control.Cuts, lived time.Duration, ending disconnect.Attribution) {
	state := ControllerState{Ending: ending}
	if early.Note(lived, ending) {
		state.Cuts = early.InARow()
		c.logger.Warn(control.MsgCuts, "cuts", state.Cuts, "lived", lived.Round(time.Millisecond).String())
	}
	c.tell(state)
}

func (c *Controller) coordinationConfig() CoordinationConfig {
	return CoordinationConfig{
		Logger: c.logger, Node: c.cfg.Node, Key: c.cfg.Key, Book: c.cfg.Book,
		ConnectType: c.cfg.ConnectType, Initiator: c.cfg.Initiator,
		OnAdmitted: c.onAdmitted, OnPresence: c.onPresence,
	}
}

// followDERPMaps passes the relays to use to the node until the stream ends.
func (c *Controller) followDERPMaps(ctx context.Context, rpc proto.TailnetServiceClient) error {
	stream, err := rpc.StreamDERPMaps(ctx, &proto.StreamDERPMapsRequest{})
	if err != nil {
		return fmt.Errorf("follow derp maps: %w", err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("follow derp maps: %w", err)
		}
		c.cfg.Node.SetDERPMap(m, c.cfg.StunHost)
	}
}

// leave ends the coordination and the link in order, because we are to stop.
func (c *Controller) leave(ctx context.Context, link *control.Link, coordination *BasicCoordination) disconnect.Attribution {
	c.mu.Lock()
	goodbye := c.goodbye
	c.mu.Unlock()
	if goodbye == nil {
		a, ok := disconnect.FromContext(ctx)
		if !ok {
			a = disconnect.Attribution{Reason: disconnect.ClientClosed, Initiator: c.cfg.Initiator}
		}
		g := a.Goodbye()
		goodbye = &g
	}
	_ = coordination.Close(nil)
	if a := goodbye.On(c.cfg.ConnectType); c.explained(link, a) != a {
		link.Abort(c.explained(link, a)) // nobody would hear the goodbye
	}
	_ = link.Close(*goodbye)
	return c.linkEnded(link, nil)
}

// linkLost finds out how a link ended that we did not end. A link that lives while
// its stream ended is of no more use: it is closed with the stream's reason.
func (c *Controller) linkLost(ctx context.Context, link *control.Link, streamErr error) disconnect.Attribution {
	late := time.NewTimer(linkEndWait)
	defer late.Stop()
	select {
	case <-link.Done():
	case <-late.C:
	case <-ctx.Done():
	}
	_ = link.Close(c.judge(link, streamErr).Goodbye()) // of one that has ended: waits for its parts
	return c.linkEnded(link, streamErr)
}

// linkEnded logs the one line of a link's ending.
func (c *Controller) linkEnded(link *control.Link, streamErr error) disconnect.Attribution {
	a := c.explained(link, c.judge(link, streamErr))
	attrs := []slog.Attr{slog.String("peer_instance", link.PeerInstance())}
	if id := link.ConnectionID(); id != "" { // else of an older server
		attrs = append(attrs, slog.String("connection_id", id))
	}
	a.Log(context.Background(), c.logger, "control link ended", attrs...)
	return a
}

// explained is a, or what this host knows better.
func (c *Controller) explained(link *control.Link, a disconnect.Attribution) disconnect.Attribution {
	if c.cfg.Explain == nil {
		return a
	}
	return c.cfg.Explain(a, link.LastHeard()).On(c.cfg.ConnectType)
}

// judge says why a link, or its stream, ended. A goodbye decides; a socket that was
// closed under us while we live is the network's doing; then the link knows best.
func (c *Controller) judge(link *control.Link, streamErr error) disconnect.Attribution {
	ending := link.Ending()
	lost := errors.Is(streamErr, net.ErrClosed) || errors.Is(link.Err(), net.ErrClosed)
	switch {
	case ending.Goodbye:
		return ending.On(c.cfg.ConnectType)
	case lost:
		detail := ending.Detail
		if detail == "" {
			detail = net.ErrClosed.Error()
		}
		return disconnect.Attribution{
			ConnectType: c.cfg.ConnectType, Reason: disconnect.NetworkError,
			Initiator: disconnect.Network, Detail: detail,
		}
	case !ending.Attribution.IsZero():
		return ending.On(c.cfg.ConnectType)
	case streamErr == nil:
		return disconnect.Attribution{
			ConnectType: c.cfg.ConnectType, Reason: disconnect.Graceful,
			Initiator: disconnect.Server, Detail: "the server ended the exchange",
		}
	}
	if told, ok := ToldEnding(streamErr); ok {
		return told.On(c.cfg.ConnectType)
	}
	return control.Judge(streamErr, c.cfg.ConnectType, c.cfg.Initiator, disconnect.Server)
}

// coordinationCause is what to close the coordination with: what was told about the
// link's end, or just an error.
func (c *Controller) coordinationCause(link *control.Link, ending disconnect.Attribution, streamErr error) error {
	if link.Ending().Goodbye {
		return &disconnect.EndedError{Attribution: ending, Err: streamErr}
	}
	if streamErr != nil {
		return streamErr
	}
	return errors.New("the control link ended: " + ending.Detail)
}

func (c *Controller) onAdmitted(token string) {
	if c.cfg.OnRelayToken != nil {
		c.cfg.OnRelayToken(token)
	}
	c.mu.Lock()
	first := !c.admitted
	c.mu.Unlock()
	if first {
		c.update(func() { c.admitted = true })
		c.tell(ControllerState{Up: true})
	}
}

func (c *Controller) onPresence(m *proto.Presence) {
	key, err := proto.ParseNodeKey(m.GetNodeKey())
	if err != nil {
		return // the coordination has checked it
	}
	p := Presence{
		Online: m.GetOnline(), Instance: disconnect.Scrub(m.GetInstanceId()),
		Goodbye: m.GetGoodbye(), At: time.Now(),
	}
	if !p.Online {
		p.Ending = wire.ToAttribution(m.GetEnding())
	}
	if m.GetAt().IsValid() {
		p.At = m.GetAt().AsTime()
	}
	c.mu.Lock()
	c.presences[key] = p
	c.mu.Unlock()
	if c.cfg.OnPresence != nil {
		c.cfg.OnPresence(key, p)
	}
}
