package tailnet

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	gvisorlog "gvisor.dev/gvisor/pkg/log"
	"tailscale.com/envknob"
	"tailscale.com/health"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/net/dns"
	"tailscale.com/net/netmon"
	"tailscale.com/net/netns"
	"tailscale.com/net/tsdial"
	"tailscale.com/net/tstun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/logger"
	"tailscale.com/util/eventbus"
	"tailscale.com/util/usermetric"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/magicsock"
	"tailscale.com/wgengine/router"
	"tailscale.com/wgengine/wgcfg"

	"fairlead.dev/fairlead/tailnet/proto"
)

// selfID is this node's own id in the engine; peers' ids count up from 1.
const selfID = tailcfg.NodeID(1 << 62)

// plainRelayKnob makes the engine speak plain HTTP to relays.
const plainRelayKnob = "TS_DEBUG_USE_DERP_HTTP"

// processSetup sets upstream's process-wide switches, once before the first engine.
var processSetup = sync.OnceFunc(func() {
	// Without root the engine would bind its sockets to the main interface, and the
	// host's own addresses would be out of reach.
	netns.SetEnabled(false)
	// The engine talks to relays through our loopback shim only: TLS on that hop
	// would cost a certificate and a third of the throughput for nothing.
	envknob.Setenv(plainRelayKnob, "true")
	// The engine has read it. A process that we start, such as a user's shell with
	// the stock tailscale in it, must not.
	_ = os.Unsetenv(plainRelayKnob)
	// The stack would write lines about single packets to this process's stderr.
	gvisorlog.SetTarget(&gvisorlog.Writer{Next: io.Discard})
})

type engineConfig struct {
	key         PrivateKey
	addr        netip.Addr
	device      *tunDevice
	listenPort  uint16
	inbound     []uint16
	forceRelay  bool
	logf        logger.Logf
	peers       *peerTable
	onEndpoints func([]netip.AddrPort) // the engine's view of own endpoints changed
	onHome      func(region int)       // the engine chose another home relay
	onLink      func()                 // the host's links or addresses changed, or it woke
}

// engine is upstream's WireGuard engine with what it needs around it. All of
// tailscale.com's API that the node uses is called here, in filter.go and derpmap.go.
type engine struct {
	bus    *eventbus.Bus
	events *eventbus.Client
	health *health.Tracker
	netmon *netmon.Monitor
	dialer *tsdial.Dialer
	wg     wgengine.Engine
	magic  *magicsock.Conn
	tun    *tstun.Wrapper
}

// newEngine builds and starts the engine. The order of its steps matters.
func newEngine(cfg engineConfig) (_ *engine, err error) {
	processSetup()
	e := &engine{bus: eventbus.New()}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	e.health = health.NewTracker(e.bus)
	if e.netmon, err = netmon.New(e.bus, cfg.logf); err != nil {
		return nil, fmt.Errorf("watch the host's network: %w", err)
	}
	e.dialer = &tsdial.Dialer{Logf: cfg.logf}
	e.dialer.SetBus(e.bus)
	e.wg, err = wgengine.NewUserspaceEngine(cfg.logf, wgengine.Config{
		Tun:           cfg.device,
		NetMon:        e.netmon,
		HealthTracker: e.health,
		Metrics:       new(usermetric.Registry),
		Dialer:        e.dialer,
		EventBus:      e.bus,
		ListenPort:    cfg.listenPort,
		SetSubsystem:  e.takeSubsystem,
	})
	if err != nil {
		return nil, fmt.Errorf("start packet engine: %w", err)
	}
	if e.tun == nil || e.magic == nil {
		return nil, errors.New("start packet engine: it did not hand out its parts")
	}
	e.events = e.bus.Client("fairlead")
	eventbus.SubscribeFunc(e.events, func(c magicsock.HomeDERPChanged) { cfg.onHome(c.New) })
	eventbus.SubscribeFunc(e.events, func(netmon.ChangeDelta) { cfg.onLink() })
	e.magic.SetOnlyTCP443(cfg.forceRelay)
	// A host with nothing but loopback counts as down, though its own processes can
	// reach each other.
	e.magic.SetNetworkUp(true)
	e.tun.Start()
	if err := e.configure(cfg); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *engine) takeSubsystem(part any) {
	switch part := part.(type) {
	case *tstun.Wrapper:
		e.tun = part
	case *magicsock.Conn:
		e.magic = part
	}
}

// configure gives the engine its identity, its filter and its look-ups.
func (e *engine) configure(cfg engineConfig) error {
	e.wg.SetPeerByIPPacketFunc(cfg.peers.keyForAddr)
	e.wg.SetPeerConfigFunc(cfg.peers.allowedIPs)
	e.wg.SetPeerForIPFunc(cfg.peers.peerForAddr)
	e.wg.SetStatusCallback(func(s *wgengine.Status, err error) {
		if err != nil || len(s.LocalAddrs) == 0 {
			return // empty: the first check of the network is not over
		}
		eps := make([]netip.AddrPort, len(s.LocalAddrs))
		for i, ep := range s.LocalAddrs {
			eps[i] = ep.Addr
		}
		cfg.onEndpoints(eps)
	})
	filter, err := newFilter(cfg.addr, cfg.inbound, cfg.logf)
	if err != nil {
		return fmt.Errorf("build packet filter: %w", err)
	}
	e.wg.SetFilter(filter)

	private := enginePrivate(cfg.key)
	prefixes := []netip.Prefix{netip.PrefixFrom(cfg.addr, cfg.addr.BitLen())}
	self := (&tailcfg.Node{
		ID:         selfID,
		StableID:   "self",
		Name:       "self.",
		Hostinfo:   (&tailcfg.Hostinfo{}).View(),
		Key:        private.Public(),
		DiscoKey:   e.magic.DiscoPublicKey(),
		Addresses:  prefixes,
		AllowedIPs: prefixes,
		Cap:        tailcfg.CurrentCapabilityVersion,
		// Peers are no relays for each other here.
		CapMap: tailcfg.NodeCapMap{tailcfg.NodeAttrDisableRelayClient: nil},
	}).View()
	e.wg.SetSelfNode(self)
	err = e.wg.Reconfig(&wgcfg.Config{PrivateKey: private, Addresses: prefixes}, &router.Config{LocalAddrs: prefixes}, &dns.Config{})
	if err != nil && !errors.Is(err, wgengine.ErrNoChanges) {
		return fmt.Errorf("configure packet engine: %w", err)
	}
	e.magic.SetNetworkMap(self, nil)
	return nil
}

// setRelays replaces the map of relays and makes home the home relay at once: left
// alone, the engine chooses one after its first check of the network, which takes 3 s
// where UDP is blocked.
func (e *engine) setRelays(dm *tailcfg.DERPMap, home int) {
	e.magic.SetDERPMap(dm)
	if dm != nil {
		e.magic.ForceSetNearestDERP(home)
	}
}

// upsert installs p. A peer with a new disco key is a new process: what WireGuard
// agreed on with the old one is void.
func (e *engine) upsert(peers *peerTable, p *enginePeer) {
	e.magic.UpsertPeer(p.node.View()) // before WireGuard can ask for its endpoint
	old := peers.put(p)
	e.wg.SyncDevicePeer(p.node.Key)
	if old != nil && old.node.DiscoKey != p.node.DiscoKey {
		e.wg.ResetDevicePeer(p.node.Key)
	}
}

// remove forgets the peer that is not in the table any more.
func (e *engine) remove(p *enginePeer) {
	e.magic.RemovePeer(p.node.ID)
	e.wg.SyncDevicePeer(p.node.Key)
}

// paths returns how each installed peer is reached now.
func (e *engine) paths() map[proto.NodeKey]Path {
	sb := &ipnstate.StatusBuilder{WantPeers: true}
	e.magic.UpdateStatus(sb)
	status := sb.Status()
	paths := make(map[proto.NodeKey]Path, len(status.Peer))
	for k, ps := range status.Peer {
		switch {
		case ps.CurAddr != "":
			paths[nodeKeyOf(k)] = Path{Kind: PathDirect, Endpoint: ps.CurAddr}
		case ps.Active && ps.Relay != "":
			paths[nodeKeyOf(k)] = Path{Kind: PathRelay, Relay: ps.Relay}
		}
	}
	return paths
}

// ping asks the peer for an answer over every path at once. onPong is called at most
// once, from the engine; it may never be called.
func (e *engine) ping(p *enginePeer, onPong func()) {
	e.wg.Ping(p.route.Addr(), tailcfg.PingDisco, 0, func(r *ipnstate.PingResult) {
		if r.Err == "" {
			onPong()
		}
	})
}

// pingSession sends a ping through the session. onAnswer is called at most once, from
// the engine, with a text if it could not be sent; it may never be called.
func (e *engine) pingSession(p *enginePeer, onAnswer func(err string)) {
	e.wg.Ping(p.route.Addr(), tailcfg.PingTSMP, 0, func(r *ipnstate.PingResult) { onAnswer(r.Err) })
}

// lookAround makes the engine ask for its own addresses at once.
func (e *engine) lookAround(why string) { e.magic.ReSTUN(why) }

// sessionAge is the time since the last WireGuard handshake; ok is false without one.
func (e *engine) sessionAge(p *enginePeer) (age time.Duration, ok bool) {
	peer, ok := e.wg.PeerByKey(p.node.Key)
	if !ok || peer.LastHandshake().IsZero() {
		return 0, false
	}
	return time.Since(peer.LastHandshake()), true
}

// renewSession drops the WireGuard session and sends, so that a new handshake begins.
func (e *engine) renewSession(p *enginePeer) {
	e.wg.ResetDevicePeer(p.node.Key)
	e.wg.Ping(p.route.Addr(), tailcfg.PingTSMP, 0, func(*ipnstate.PingResult) {})
}

func (e *engine) discoKey() [32]byte { return discoBytes(e.magic.DiscoPublicKey()) }
func (e *engine) localPort() uint16  { return e.magic.LocalPort() }

// setCoordinated allows or forbids the engine to move its home relay: without a
// server nobody would learn of the move.
func (e *engine) setCoordinated(up bool) {
	if up {
		e.health.GotStreamedMapResponse()
	} else {
		e.health.SetOutOfPollNetMap()
	}
}

// close stops everything, inside out, and waits for the engine's goroutines.
func (e *engine) close() {
	if e.events != nil {
		e.events.Close()
	}
	if e.wg != nil {
		e.wg.Close()
	}
	if e.netmon != nil {
		_ = e.netmon.Close()
	}
	if e.dialer != nil {
		_ = e.dialer.Close()
	}
	e.bus.Close()
}
