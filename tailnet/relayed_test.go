package tailnet

import (
	"bufio"
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go4.org/mem"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/netcheck"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"

	"fairlead.dev/fairlead/tailnet/proto"
)

// testRelay is upstream's relay on a loopback port, without HTTP around it.
type testRelay struct {
	server *derpserver.Server
	addr   string
	dials  atomic.Int32
	dead   atomic.Bool

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// kill ends all connections and lets no new ones in until revive.
func (r *testRelay) kill() {
	r.dead.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

func (r *testRelay) revive() { r.dead.Store(false) }

func newTestRelay(t testing.TB) *testRelay {
	t.Helper()
	server := derpserver.New(key.NewNode(), logger.Discard)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r := &testRelay{server: server, addr: l.Addr().String()}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.conns = append(r.conns, c)
			r.mu.Unlock()
			conns.Go(func() {
				server.Accept(ctx, c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), c.RemoteAddr().String())
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		require.NoError(t, server.Close())
		cancel()
		conns.Wait()
	})
	return r
}

// await waits until n is at the relay. A packet for a node that is not is dropped,
// and WireGuard tries again only after 5 s.
func (r *testRelay) await(t testing.TB, n *Node) {
	t.Helper()
	require.Eventually(t, func() bool {
		return r.server.IsClientConnectedForTest(key.NodePublicFromRaw32(mem.B(n.key[:])))
	}, 20*time.Second, time.Millisecond)
}

func (r *testRelay) dial(ctx context.Context, _ *proto.DERPRegion) (net.Conn, error) {
	r.dials.Add(1)
	if r.dead.Load() {
		return nil, syscall.ECONNREFUSED
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", r.addr)
}

// newRelayedPair is newPair with a relay, and both nodes are at it.
func newRelayedPair(t testing.TB, opts Options) (agent, client *Node) {
	t.Helper()
	relay := newTestRelay(t)
	opts.DialRelay = relay.dial
	client = newTestNode(t, opts)
	opts.AllowInbound = []uint16{testPort}
	agent = newTestNode(t, opts)
	for _, n := range []*Node{agent, client} {
		n.SetDERPMap(testRelayMap, "")
		require.EqualValues(t, 7, n.Self().GetHomeRelay(), "the home relay is chosen at once")
		relay.await(t, n)
	}
	require.NoError(t, agent.UpsertPeer(client.Self()))
	require.NoError(t, client.UpsertPeer(agent.Self()))
	return agent, client
}

var testRelayMap = &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 7, Code: "test"}}}

func TestRelayedConnection(t *testing.T) {
	started := time.Now()
	agent, client := newRelayedPair(t, Options{ForceRelay: true})
	events := pathEvents(t, client, agent.Key())
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	t.Logf("first bytes over the relay after %s", time.Since(started))

	e := awaitPath(t, events, PathRelay)
	require.Equal(t, "test", e.New.Relay)
	_, leaked := os.LookupEnv(plainRelayKnob)
	require.False(t, leaked, "child processes would inherit it")
	require.Equal(t, Path{Kind: PathRelay, Relay: "test"}, client.Path(agent.Key()))
}

func TestRelayBecomesDirect(t *testing.T) {
	started := time.Now()
	relay := newTestRelay(t)
	agent := newTestNode(t, Options{AllowInbound: []uint16{testPort}, DialRelay: relay.dial})
	client := newTestNode(t, Options{DialRelay: relay.dial})
	agent.SetDERPMap(testRelayMap, "")
	client.SetDERPMap(testRelayMap, "")
	relay.await(t, agent)
	// Nobody knows an endpoint at first.
	hidden := func(n *Node) *proto.Node {
		self := n.Self()
		self.Endpoints = nil
		return self
	}
	require.NoError(t, agent.UpsertPeer(hidden(client)))
	require.NoError(t, client.UpsertPeer(hidden(agent)))
	events := pathEvents(t, client, agent.Key())
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	t.Logf("relayed after %s", time.Since(started))

	require.NoError(t, agent.UpsertPeer(client.Self()))
	require.NoError(t, client.UpsertPeer(agent.Self()))
	client.Kick(agent.Key())
	e := awaitPath(t, events, PathDirect)
	t.Logf("%s -> %s after %s", e.Old.Kind, e.New.Kind, time.Since(started))
	exchange(t, atClient, atAgent)
}

// Without any STUN server the engine must not take its sockets for broken: it would
// bind new ones at every check of the network, and cut the relay.
func TestNetworkChecksKeepTheRelay(t *testing.T) {
	relay := newTestRelay(t)
	n := newTestNode(t, Options{DialRelay: relay.dial})
	var hidden atomic.Int32
	n.SetSelfCallback(func(self *proto.Node) {
		if len(self.GetEndpoints()) == 0 {
			hidden.Add(1)
		}
	})
	n.SetDERPMap(testRelayMap, "")
	require.Eventually(t, func() bool { return relay.dials.Load() > 0 }, 10*time.Second, 5*time.Millisecond)
	last := func() *netcheck.Report { return n.engine.magic.GetLastNetcheckReport(t.Context()) }
	require.Eventually(t, func() bool { return last() != nil }, 10*time.Second, 5*time.Millisecond)
	for range 3 {
		report := last()
		require.True(t, report.IPv4CanSend)
		require.True(t, report.UDP)
		before := report.Now
		n.engine.magic.ReSTUN("test")
		require.Eventually(t, func() bool {
			return last().Now.After(before)
		}, 10*time.Second, 5*time.Millisecond)
	}
	require.Zero(t, hidden.Load(), "the engine's first, empty word must not hide the node")
	require.EqualValues(t, 1, relay.dials.Load())
	require.EqualValues(t, 7, n.Self().GetHomeRelay())

	n.SetDERPMap(nil, "")
	require.Zero(t, n.Self().GetHomeRelay())
	n.SetDERPMap(testRelayMap, "")
	require.EqualValues(t, 7, n.Self().GetHomeRelay())
}
