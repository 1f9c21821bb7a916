// Package coordinator is the server's side of peer exchange: it lets nodes prove
// their keys, tells the two nodes of a permitted tunnel of each other, and tells
// clients about the life of their agents.
//
// All of its state is in memory and belongs to live connections. What must outlast
// the server is carried by the nodes as signed grants, which they announce after a
// reconnect; so absence of a node is never read as its removal. It moves no packets
// and holds no packet engine, it decides no access (Config.Authorize does), and it
// stores nothing.
package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	protobuf "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

// ErrNotFound is what [Config.Authorize] returns for a workspace that does not exist
// and, with no visible difference, for one that the client has no right to reach.
var ErrNotFound = errors.New("no such workspace, or no right to reach it")

// Timing. The intervals of renewal are well inside the life of what they renew.
const (
	tokenLife       = 24 * time.Hour
	renewInterval   = 12 * time.Hour
	recheckInterval = time.Minute // until a decision that failed is tried again
	tickInterval    = 30 * time.Second
	tickLeast       = time.Second // between two looks at what is due
	proofTimeout    = 10 * time.Second
	stallTimeout    = 30 * time.Second // one message not taken for this long: slow peer
	linkEndWait     = time.Second      // for a link's own ending after its stream broke
)

// maxQueue is how many messages may wait for one stream.
const maxQueue = 8192

// maxTunnels is how many tunnels one node may have.
const maxTunnels = 4096

// What one user, or one workspace's agent, may ask for on all streams together: an
// agent that announces all its peers, at once, and then some each second. Whoever asks
// for more waits.
const (
	askBurst     = maxAnnounced
	askPerSecond = 200
)

// Right is a client's right to reach a workspace.
type Right struct {
	WorkspaceID string
	// HostKey is the SSH host key of the workspace's agent, "" when unknown.
	HostKey string
	// Until is when the right ends by itself; zero: when it is withdrawn.
	Until time.Time
}

// Config is what a coordinator needs of the server around it. Functions may be
// called concurrently and must not call back into the coordinator.
type Config struct {
	// Logger receives one line for each stream that ended; nil discards.
	Logger *slog.Logger
	// Instance names this server process in logs.
	Instance string
	// Authorize answers whether a client may reach a workspace, named by name or id.
	// It is called for every tunnel asked for, every grant announced and every grant
	// renewed; the client's identity has all that it came with. A denial must be
	// ErrNotFound, which may wrap what to tell those whose right is gone
	// ([disconnect.FromError]): any other error means that the question could not be
	// decided, and takes nothing away.
	Authorize func(ctx context.Context, client control.Identity, workspace string) (Right, error)
	// Offline tells since when, and by what ending, a workspace's agent is away, when
	// the coordinator itself has not seen it. May be nil.
	Offline func(ctx context.Context, workspaceID string) (since time.Time, ending disconnect.Attribution, ok bool)
	// Judge returns how the link of a workspace's agent ended at that time, by what the
	// server knows besides; nil: as the link says. It must not block.
	Judge func(workspaceID string, at time.Time, e control.Ending) control.Ending
	// Admitted is told of each node that has proved its key on a link of that identity; nil:
	// nobody is. It must not block.
	Admitted func(id control.Identity, node proto.NodeKey)
	// GrantKey signs grants. It must be the same after a restart of the server; zero:
	// a random key, and grants do not survive a restart.
	GrantKey [32]byte
	// RelayToken makes the token that admits a node to relays until expiry, by the right
	// of its link's identity. It must not block.
	RelayToken func(node proto.NodeKey, id control.Identity, expiry time.Time) string
	// DERPMap returns the relays to use now. Call DERPMapChanged after a change.
	DERPMap func() *proto.DERPMap
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Coordinator implements the tailnet service. Register it with the server's control
// links; it works only for calls that come over one. Safe for concurrent use.
type Coordinator struct {
	proto.UnimplementedTailnetServiceServer

	cfg        Config
	logger     *slog.Logger
	now        func() time.Time
	queueLimit int
	tunnels    int // how many one node may have

	ctx    context.Context // ends when Close begins
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // streams' goroutines, link watchers, the renewal loop

	mu         sync.Mutex // guards all below, and the fields that say so
	closed     bool       // nothing may be added to work any more
	members    map[proto.NodeKey]*member
	agents     map[string]*agentRecord // by workspace id
	sessions   map[*session]struct{}   // streams that have not ended, proved or not
	asking     map[asker]*allowance    // of those who have a stream
	generation uint64                  // of the last peer update
	rechecks   uint64                  // how often rights were to be asked for again
	derp       chan struct{}           // closed and replaced when the DERP map changes

	sooner chan struct{} // holds one token when a tunnel is due before the renewal loop looks
}

// New starts a coordinator. The caller must Close it.
func New(cfg Config) *Coordinator {
	c := &Coordinator{
		cfg: cfg, logger: cfg.Logger, now: cfg.Now, queueLimit: maxQueue, tunnels: maxTunnels,
		asking:   make(map[asker]*allowance),
		members:  make(map[proto.NodeKey]*member),
		agents:   make(map[string]*agentRecord),
		sessions: make(map[*session]struct{}),
		derp:     make(chan struct{}),
		sooner:   make(chan struct{}, 1),
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.cfg.GrantKey == ([32]byte{}) {
		_, _ = rand.Read(c.cfg.GrantKey[:]) // never fails (crypto/rand)
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.work.Go(c.renewLoop)
	return c
}

// Close ends every stream as a server shutdown and waits, until ctx ends, for what
// it started. Clients are told nothing about their agents: a server that stops is no
// news of them.
func (c *Coordinator) Close(ctx context.Context) error {
	end := &streamEnd{code: codes.Unavailable, attribution: disconnect.Attribution{
		Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "the server is stopping",
	}}
	c.mu.Lock()
	c.closed = true
	for s := range c.sessions {
		s.end(end)
	}
	c.mu.Unlock()
	c.cancel(end)
	done := make(chan struct{})
	go func() { // ends when the work does; a late one outlives only a Close that gave up
		c.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("close coordinator: streams did not end in time"), context.Cause(ctx))
	}
}

// Coordinate implements the service: one node's exchange about its peers.
func (c *Coordinator) Coordinate(stream proto.TailnetService_CoordinateServer) error {
	link, ok := control.LinkFrom(stream.Context())
	if !ok {
		return status.Error(codes.FailedPrecondition, "coordinate: not called over a control link")
	}
	return c.coordinate(stream, link)
}

// StreamDERPMaps implements the service: the DERP map at once and on every change.
func (c *Coordinator) StreamDERPMaps(_ *proto.StreamDERPMapsRequest, stream proto.TailnetService_StreamDERPMapsServer) error {
	var last *proto.DERPMap
	for {
		c.mu.Lock()
		changed := c.derp
		c.mu.Unlock()
		if m := c.derpMap(); last == nil || !protobuf.Equal(m, last) {
			if err := stream.Send(m); err != nil {
				return err
			}
			last = m
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-c.ctx.Done():
			var end *streamEnd
			errors.As(context.Cause(c.ctx), &end)
			return end.status()
		}
	}
}

// DERPMapChanged makes every node receive the DERP map again if it differs.
func (c *Coordinator) DERPMapChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.derp)
	c.derp = make(chan struct{})
}

// derpMap returns a copy, so that the server may change its own.
func (c *Coordinator) derpMap() *proto.DERPMap {
	if c.cfg.DERPMap == nil {
		return &proto.DERPMap{}
	}
	if m := c.cfg.DERPMap(); m != nil {
		return protobuf.CloneOf(m)
	}
	return &proto.DERPMap{}
}

// Online reports whether a workspace's agent has a live stream: which instance of it
// has, and since when it is online.
func (c *Coordinator) Online(workspaceID string) (instance string, since time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.agents[workspaceID]
	if rec == nil || rec.session == nil {
		return "", time.Time{}, false
	}
	return rec.session.instance, rec.since, true
}

// RelayTokenExpiry returns when the relay token of a node that is here expires. It may
// be in the past when the credential behind it has expired.
func (c *Coordinator) RelayTokenExpiry(node proto.NodeKey) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[node]
	if m == nil || m.session == nil {
		return time.Time{}, false
	}
	return m.session.tokenExpires, true
}
