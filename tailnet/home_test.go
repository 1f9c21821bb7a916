package tailnet

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tailnet/proto"
)

// twoRelays are two regions, and two nodes that hear of each other's changes as they
// would through the server.
type twoRelays struct {
	relays        map[int32]*testRelay
	agent, client *Node
}

func newTwoRelays(t *testing.T) *twoRelays {
	t.Helper()
	s := &twoRelays{relays: map[int32]*testRelay{7: newTestRelay(t), 9: newTestRelay(t)}}
	opts := Options{ForceRelay: true, DialRelay: func(ctx context.Context, r *proto.DERPRegion) (net.Conn, error) {
		return s.relays[r.GetId()].dial(ctx, r)
	}}
	s.client = newTestNode(t, opts)
	opts.AllowInbound = []uint16{testPort}
	s.agent = newTestNode(t, opts)
	for _, pair := range [][2]*Node{{s.agent, s.client}, {s.client, s.agent}} {
		n, peer := pair[0], pair[1]
		n.SetDERPMap(twoRegions, "")
		s.relays[7].await(t, n)
		n.SetCoordinated(true)
		require.NoError(t, n.UpsertPeer(peer.Self()))
		n.SetSelfCallback(func(self *proto.Node) { _ = peer.UpsertPeer(self) })
	}
	t.Cleanup(func() { // before the nodes close
		s.agent.SetSelfCallback(nil)
		s.client.SetSelfCallback(nil)
	})
	return s
}

var twoRegions = &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 7, Code: "one"}, {Id: 9, Code: "two"}}}

func (s *twoRelays) awaitHome(t *testing.T, region int32) {
	t.Helper()
	require.Eventually(t, func() bool {
		return s.agent.Self().GetHomeRelay() == region && s.client.Self().GetHomeRelay() == region
	}, 20*time.Second, 5*time.Millisecond)
}

// TestRelayDiesAndTheFlowLivesOn: both nodes move to the other region within seconds,
// and back when that one dies.
func TestRelayDiesAndTheFlowLivesOn(t *testing.T) {
	s := newTwoRelays(t)
	for _, n := range []*Node{s.agent, s.client} {
		require.EqualValues(t, 7, n.Self().GetHomeRelay())
	}
	atAgent, atClient := connect(t, s.agent, s.client)
	exchange(t, atClient, atAgent)

	for _, step := range []struct{ dies, takesOver int32 }{{7, 9}, {9, 7}} {
		began := time.Now()
		s.relays[step.dies].kill()
		s.awaitHome(t, step.takesOver)
		exchange(t, atClient, atAgent)
		t.Logf("relay %d died: bytes over %d after %s", step.dies, step.takesOver, time.Since(began))
		require.Less(t, time.Since(began), 10*time.Second)
		s.relays[step.dies].revive()
		for _, n := range []*Node{s.agent, s.client} { // the probe, which is slow by itself
			n.probeRelays(t.Context())
			require.Eventually(t, func() bool { return len(n.outOfReach()) == 0 }, 20*time.Second, 5*time.Millisecond)
		}
	}
}

// outOfReach returns the regions that the node takes for dead.
func (n *Node) outOfReach() map[int]bool {
	n.change.Lock()
	defer n.change.Unlock()
	down := make(map[int]bool)
	for id := range n.home.down {
		down[id] = true
	}
	return down
}

// TestHomeStaysWithoutAServer: nobody would learn of a move.
func TestHomeStaysWithoutAServer(t *testing.T) {
	s := newTwoRelays(t)
	atAgent, atClient := connect(t, s.agent, s.client)
	s.agent.SetCoordinated(false)
	s.client.SetCoordinated(false)
	dials := s.relays[7].dials.Load()
	s.relays[7].kill()
	require.Eventually(t, func() bool { return s.relays[7].dials.Load() >= dials+6 }, 20*time.Second, 5*time.Millisecond)
	require.EqualValues(t, 7, s.agent.Self().GetHomeRelay())
	require.EqualValues(t, 7, s.client.Self().GetHomeRelay())
	s.relays[7].revive()
	exchange(t, atClient, atAgent)
}

// TestRegionTakenFromTheMap: the home moves at once, whoever has heard of it lately.
func TestRegionTakenFromTheMap(t *testing.T) {
	s := newTwoRelays(t)
	atAgent, atClient := connect(t, s.agent, s.client)
	for _, n := range []*Node{s.agent, s.client} {
		n.SetDERPMap(&proto.DERPMap{Regions: twoRegions.Regions[1:]}, "")
		require.EqualValues(t, 9, n.Self().GetHomeRelay())
		n.engine.magic.ReSTUN("test")
	}
	s.awaitHome(t, 9)
	exchange(t, atClient, atAgent)
}

func TestHomeChoice(t *testing.T) {
	h := newHomeKeeper()
	require.Zero(t, h.first())
	b := &derpMapBuilder{port: func(*proto.DERPRegion) (int, error) { return 1, nil }}
	dm, _ := b.build(twoRegions, nil)
	h.replace(twoRegions, dm)
	require.Equal(t, 7, h.first())
	require.Same(t, dm, h.scored())
	h.down[7] = true
	require.Equal(t, 9, h.first())
	scored := h.scored()
	require.Equal(t, dm.Regions, scored.Regions, "no region changes, for that would cost its connection")
	require.Greater(t, scored.HomeParams.RegionScore[7], 1000.0)
	h.down[9] = true
	require.Equal(t, 7, h.first(), "some region is better than none")

	moved := &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 7, RelayUrl: "https://elsewhere.example"}, {Id: 9}}}
	h.replace(moved, dm)
	require.Equal(t, map[int]bool{9: true}, h.down, "of a region with another URL nothing is known")
	h.replace(nil, nil)
	require.Empty(t, h.down)
}
