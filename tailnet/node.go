package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

// RelayDialFunc opens one connection to the relay of a region, ready to carry the
// relay protocol's bytes. The caller owns and closes the connection. It is called
// again for every reconnect, and must honour ctx.
type RelayDialFunc func(ctx context.Context, region *proto.DERPRegion) (net.Conn, error)

// Options say what a node is. The zero value of every field but PrivateKey is usable.
type Options struct {
	// PrivateKey is the node's identity; required.
	PrivateKey PrivateKey
	// Logger receives the node's log lines; nil discards them.
	Logger *slog.Logger
	// DialRelay reaches relays; nil: the node has none, and only direct paths work.
	DialRelay RelayDialFunc
	// OnRelayEnd is told how each connection to a relay ended, those that the node needs no
	// longer included, and whether the relay is the server's own; nil: nobody is. It must not
	// block.
	OnRelayEnd func(a disconnect.Attribution, ofServer bool)
	// ForceRelay sends and receives no UDP: every packet goes through a relay.
	ForceRelay bool
	// ListenPort is the UDP port for direct paths; 0 lets the system choose.
	ListenPort uint16
	// AllowInbound lists the TCP ports that peers may open on this node; empty: none.
	AllowInbound []uint16
}

// staleSession is the age of a WireGuard session that nobody has renewed: a living
// one is renewed after 120 s at the latest.
const staleSession = 135 * time.Second

// Node is one member of a tailnet. All methods are safe for concurrent use.
type Node struct {
	opts   Options
	logger *slog.Logger
	key    proto.NodeKey
	addr   netip.Addr

	engine *engine
	stack  *netstack
	shim   *shim // nil without DialRelay
	stun   *loopSTUN
	peers  *peerTable
	self   *selfState
	home   *homeKeeper
	paths  *pathWatcher

	cancel context.CancelFunc // ends loops
	loops  sync.WaitGroup

	relays sync.Mutex  // held during SetDERPMap; taken before change
	change sync.Mutex  // held during calls that change the engine, so that they have an order; guards renewed and parts of home
	closed atomic.Bool // set once, by Close, under change

	closeOnce sync.Once

	relayKnown func()                      // closes haveRelay, once
	haveRelay  chan struct{}               // closed when the first relay map is in the engine
	linkTurn   chan struct{}               // has one place: the host's links changed
	renewed    map[proto.NodeKey]time.Time // when a dial last began a handshake anew
}

// NewNode starts a node; it needs no privileges and waits for nothing outside this
// host. The caller must Close it.
func NewNode(opts Options) (*Node, error) {
	if opts.PrivateKey.IsZero() {
		return nil, errors.New("start node: the private key is zero")
	}
	opts.AllowInbound = slices.Clone(opts.AllowInbound)
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	opts.PrivateKey.clamp()
	key := opts.PrivateKey.Public()
	n := &Node{
		opts:   opts,
		logger: logger.With(slog.String("node", key.Short())),
		key:    key,
		addr:   key.Address(),
		peers:  newPeerTable(),
		self:   newSelfState(key, opts.ForceRelay),
		home:   newHomeKeeper(),
	}
	n.renewed = make(map[proto.NodeKey]time.Time)
	n.haveRelay, n.linkTurn = make(chan struct{}), make(chan struct{}, 1)
	n.relayKnown = sync.OnceFunc(func() { close(n.haveRelay) })
	n.paths = newPathWatcher(func() map[proto.NodeKey]Path { return n.engine.paths() })
	if err := n.start(); err != nil {
		n.stop()
		return nil, fmt.Errorf("start node: %w", err)
	}
	return n, nil
}

func (n *Node) start() (err error) {
	device := newTunDevice(newGate(n.addr, n.opts.AllowInbound))
	if n.stack, err = newNetstack(device.link, n.addr); err != nil {
		return err
	}
	if n.opts.DialRelay != nil {
		if n.stun, err = newLoopSTUN(); err != nil {
			return err
		}
		if n.shim, err = newShim(n.logger, n.opts.DialRelay); err != nil {
			return err
		}
		n.shim.onTurn = n.home.turned
		if n.opts.OnRelayEnd != nil {
			n.shim.onEnd = func(r *proto.DERPRegion, a disconnect.Attribution) { n.opts.OnRelayEnd(a, r.GetRelayUrl() == "") }
		}
	}
	n.engine, err = newEngine(engineConfig{
		key:         n.opts.PrivateKey,
		addr:        n.addr,
		device:      device,
		listenPort:  n.opts.ListenPort,
		inbound:     n.opts.AllowInbound,
		forceRelay:  n.opts.ForceRelay,
		logf:        newEngineLog(n.logger).logf,
		peers:       n.peers,
		onEndpoints: n.self.setEndpoints,
		onHome:      n.home.engineMoved,
		onLink:      n.linkChanged,
	})
	if err != nil {
		_ = device.Close()
		return err
	}
	n.self.start(n.engine.discoKey(), n.engine.localPort())
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	n.loops.Go(func() { n.self.run(ctx) })
	if n.shim != nil {
		n.loops.Go(func() { n.keepHome(ctx) })
	}
	n.loops.Go(func() { followLinks(ctx, n.linkTurn, n.kickPeers) })
	n.loops.Go(func() { n.paths.run(ctx, func() int { return len(n.peers.keys()) }) })
	return nil
}

// Key returns the node's name.
func (n *Node) Key() proto.NodeKey { return n.key }

// Addr returns the node's tailnet address.
func (n *Node) Addr() netip.Addr { return n.addr }

// Self returns what peers must know of this node now. The caller owns the message.
func (n *Node) Self() *proto.Node { return n.self.node() }

// SetSelfCallback makes f receive every change of [Node.Self], and its present value
// at once. Calls are made one at a time from a goroutine of the node, never from
// within SetSelfCallback; each message belongs to f, which must not call Close. nil
// removes the callback.
func (n *Node) SetSelfCallback(f func(*proto.Node)) { n.self.setCallback(f) }

// SetDERPMap replaces the relays to use. stunHost is the host of the access URL, for
// regions that name no STUN host of their own. nil or an empty map: no relays. The
// first region is used at once, a better one when the engine has measured it. It may
// wait for a look-up of the STUN server's name for up to 300 ms.
func (n *Node) SetDERPMap(m *proto.DERPMap, stunHost string) {
	n.relays.Lock()
	defer n.relays.Unlock()
	if n.shim == nil || n.closed.Load() {
		return
	}
	builder := &derpMapBuilder{
		port: n.shim.Port, resolve: resolveHost, cert: n.shim.CertName(), loopSTUN: n.stun.port(), stunHost: stunHost,
	}
	dm, first := builder.build(m, func(id int32, err error) {
		n.logger.Error("relay region left out", slog.Int("region", int(id)), slog.Any("error", err))
	})
	n.stun.set(nil)
	if !anySTUN(m) {
		n.stun.set(n.localAddrPort())
	}
	n.change.Lock()
	defer n.change.Unlock()
	if n.closed.Load() {
		return
	}
	n.home.stunHost = stunHost
	if first == 0 {
		n.home.replace(nil, nil)
		n.engine.setRelays(nil, 0)
		n.self.setHome(0)
		return
	}
	n.home.replace(m, dm)
	home := n.self.homeRegion()
	if !n.home.usable(home) {
		home = n.home.first()
	}
	n.engine.setRelays(n.home.scored(), home)
	n.self.setHome(home)
	n.relayKnown()
}

// localAddrPort is an IPv4 address of this host's UDP socket, for the loopback STUN
// responder.
func (n *Node) localAddrPort() *netip.AddrPort {
	port := n.engine.localPort()
	for _, text := range n.Self().GetEndpoints() {
		if ep, err := netip.ParseAddrPort(text); err == nil && ep.Addr().Is4() && ep.Port() == port {
			return &ep
		}
	}
	ep := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	return &ep
}

// UpsertPeer installs a peer or replaces what is known of it. The peer is in the
// packet engine when it returns. A known peer with a new disco key is a new process:
// its old session is dropped.
func (n *Node) UpsertPeer(peer *proto.Node) error {
	p, err := n.peers.prepare(peer)
	if err != nil {
		return fmt.Errorf("install peer: %w", err)
	}
	if p.key == n.key {
		return errors.New("install peer: it is this node itself")
	}
	n.change.Lock()
	defer n.change.Unlock()
	if n.closed.Load() {
		return fmt.Errorf("install peer: %w", net.ErrClosed)
	}
	p.node.ID = n.peers.idFor(p.key) // again, under the lock that orders changes
	n.engine.upsert(n.peers, p)
	n.paths.nudge()
	return nil
}

// RemovePeer forgets a peer: no packet goes to it or comes from it any more when it
// returns, and its open flows are cut. An unknown peer is no error.
func (n *Node) RemovePeer(key proto.NodeKey) {
	n.change.Lock()
	defer n.change.Unlock()
	p := n.peers.remove(key)
	if p == nil || n.closed.Load() {
		return
	}
	delete(n.renewed, key)
	n.engine.remove(p)
	n.stack.cut(key, errPeerRemoved)
	n.paths.nudge()
}

// Listen accepts connections from peers on a TCP port of the node's tailnet address,
// one of Options.AllowInbound. The listener ends with the node.
func (n *Node) Listen(port uint16) (net.Listener, error) {
	if !slices.Contains(n.opts.AllowInbound, port) {
		return nil, fmt.Errorf("listen: port %d is not one that peers may open", port)
	}
	if n.closed.Load() {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: net.ErrClosed}
	}
	l, err := n.stack.listen(port, n.PeerByAddr)
	if err != nil {
		return nil, err // it says "listen" itself
	}
	return l, nil
}

// PeerByAddr returns the installed peer that has the tailnet address addr.
func (n *Node) PeerByAddr(addr netip.Addr) (proto.NodeKey, bool) {
	if p := n.peers.at(addr); p != nil {
		return p.key, true
	}
	return proto.NodeKey{}, false
}

// Path returns how packets reach a peer now.
func (n *Node) Path(peer proto.NodeKey) Path {
	if n.closed.Load() {
		return Path{}
	}
	return n.engine.paths()[peer]
}

// Paths returns how packets reach each installed peer now. A peer that was never
// spoken to has none, or is left out.
func (n *Node) Paths() map[proto.NodeKey]Path {
	if n.closed.Load() {
		return nil
	}
	return n.engine.paths()
}

// WatchPaths makes f receive every change of a peer's path until stop is called,
// beginning with those that are not PathNone when it is the first watcher. Calls
// come one at a time from a goroutine of the node; f must not call Close. A call
// that has begun may still be running when stop returns.
func (n *Node) WatchPaths(f func(PathEvent)) (stop func()) { return n.paths.watch(f) }

// SetCoordinated tells the node whether its server is reachable. Without it the node
// keeps its home relay, for nobody would learn of a move.
func (n *Node) SetCoordinated(up bool) {
	n.change.Lock()
	defer n.change.Unlock()
	if !n.closed.Load() {
		n.home.coordinated = up
		n.engine.setCoordinated(up)
	}
}

// Kick asks a peer for a sign of life over every path at once, without upstream's
// limit of one try in 5 s. When the peer answers after a long silence, the side with
// the lower key also renews the session. It waits for nothing; an unknown peer is no
// error.
func (n *Node) Kick(peer proto.NodeKey) {
	n.change.Lock()
	defer n.change.Unlock()
	p := n.peers.get(peer)
	if p == nil || n.closed.Load() {
		return
	}
	n.engine.ping(p, func() {
		n.paths.nudge()
		if slices.Compare(n.key[:], peer[:]) < 0 {
			n.renewStale(p)
		}
	})
	n.paths.nudge()
}

// renewStale renews the session with a peer that has just answered a ping, if the
// silence before has outlived it. It runs in a goroutine of the engine.
func (n *Node) renewStale(p *enginePeer) {
	n.change.Lock()
	defer n.change.Unlock()
	if n.closed.Load() || n.peers.get(p.key) == nil {
		return
	}
	if age, ok := n.engine.sessionAge(p); ok && age > staleSession {
		n.engine.renewSession(p)
	}
}

// Close stops the node and everything that it started, and waits for it. Open flows
// are reset. It must not be called from a callback of the node.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.change.Lock()
		n.closed.Store(true)
		n.change.Unlock()
		n.stop()
	})
	return nil
}

// stop ends what has been started, users first: loops, stack, engine, relays.
func (n *Node) stop() {
	if n.cancel != nil {
		n.cancel()
	}
	n.loops.Wait()
	if n.stack != nil {
		n.stack.close()
	}
	if n.engine != nil {
		n.engine.close()
	}
	if n.shim != nil {
		if err := n.shim.Close(); err != nil {
			n.logger.Warn("relay shim did not close", slog.Any("error", err))
		}
	}
	if n.stun != nil {
		n.stun.close()
	}
}
