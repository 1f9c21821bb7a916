package coordinator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
)

func TestTunnelIsReadyWhenTheAgentHasInstalledTheClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())

	client.addTunnel("name-dev")
	atClient := client.upsert(agent.key)
	require.Equal(t, agent.key.self(1).GetDiscoKey(), atClient.GetNode().GetDiscoKey())
	require.Empty(t, atClient.GetPrincipal(), "a client need not know who owns an agent")
	reply := client.reply()
	require.Equal(t, "name-dev", reply.GetWorkspace())
	require.Equal(t, agent.key.public[:], reply.GetNodeKey())
	require.Equal(t, "ssh-ed25519 key-of-dev", reply.GetSshHostKey())
	require.Equal(t, "a1", client.presence().GetInstanceId())
	client.silent() // not ready yet

	atAgent := agent.upsert(client.key)
	require.Equal(t, "alice-name", atAgent.GetPrincipal())
	agent.ack(&proto.PeerUpdate{Node: atAgent.GetNode(), Generation: atAgent.GetGeneration() - 1})
	client.silent() // that was an older one
	agent.ack(atAgent)
	client.ready(agent.key)

	client.addTunnel("dev") // asked again: there at once
	client.upsert(agent.key)
	client.reply()
	client.presence()
	client.ready(agent.key)
	require.Greater(t, agent.upsert(client.key).GetGeneration(), atAgent.GetGeneration())
}

func TestChangesOfEitherSideReachTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	w.tunnel(client, agent, "dev")

	client.self(2)
	u := agent.upsert(client.key)
	require.Equal(t, client.key.self(2).GetDiscoKey(), u.GetNode().GetDiscoKey())
	require.Equal(t, "alice-name", u.GetPrincipal())
	agent.self(3)
	require.Equal(t, agent.key.self(3).GetDiscoKey(), client.upsert(agent.key).GetNode().GetDiscoKey())
	agent.self(3) // nothing new
	client.silent()
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	since := time.Unix(1_700_000_000, 0).UTC()
	w := newWorld(t, func(cfg *Config) {
		cfg.Offline = func(_ context.Context, id string) (time.Time, disconnect.Attribution, bool) {
			return since, shutdown().Attribution, id == "away"
		}
	})
	w.allow("alice", "away", true)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	w.join(agentLink("forbidden", "a2"), newKey())
	client := w.join(clientLink("alice"), newKey())

	ask := func(p *peer, workspace string) *proto.Refusal {
		p.addTunnel(workspace)
		return p.reply().GetRefusal()
	}
	unknown, forbidden := ask(client, "nowhere"), ask(client, "forbidden")
	require.Equal(t, proto.Refusal_NOT_FOUND, unknown.GetCode())
	require.Equal(t, unknown.String(), forbidden.String(), "nobody may learn what exists")

	away := ask(client, "away")
	require.Equal(t, proto.Refusal_AGENT_OFFLINE, away.GetCode())
	require.Equal(t, since, away.GetOfflineSince().AsTime())
	require.Equal(t, shutdown().Attribution, wire.ToAttribution(away.GetEnding()))

	require.Equal(t, proto.Refusal_INVALID, ask(agent, "dev").GetCode(), "agents may not ask")
	require.Equal(t, proto.Refusal_INVALID, ask(client, "").GetCode())
	w.fail(errDatabase)
	require.Equal(t, proto.Refusal_INTERNAL, ask(client, "dev").GetCode())
	w.fail(nil)

	agent.cut(kill()) // seen by the coordinator itself
	agent.ended()
	require.Eventually(t, func() bool { _, _, ok := w.Online("dev"); return !ok }, 5*time.Second, time.Millisecond)
	offline := ask(client, "dev")
	require.Equal(t, proto.Refusal_AGENT_OFFLINE, offline.GetCode())
}

func TestLongWorkspaceNameIsNotEchoed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := w.join(clientLink("alice"), newKey())
	client.addTunnel(strings.Repeat("x", proto.MaxWorkspaceText+1))
	require.Equal(t, codes.InvalidArgument, status.Code(client.ended()))
}

func TestSelfIsChecked(t *testing.T) {
	t.Parallel()
	k := newKey()
	cases := map[string]func(n *proto.Node){
		"another key":      func(n *proto.Node) { other := newKey(); n.Key = other.public[:] },
		"short disco key":  func(n *proto.Node) { n.DiscoKey = n.DiscoKey[:31] },
		"zero disco key":   func(n *proto.Node) { n.DiscoKey = make([]byte, 32) },
		"a host name":      func(n *proto.Node) { n.Endpoints = []string{"localhost:22"} },
		"port 0":           func(n *proto.Node) { n.Endpoints = []string{"192.0.2.1:0"} },
		"multicast":        func(n *proto.Node) { n.Endpoints = []string{"224.0.0.1:9"} },
		"mapped any":       func(n *proto.Node) { n.Endpoints = []string{"[::ffff:0.0.0.0]:9"} },
		"a long endpoint":  func(n *proto.Node) { n.Endpoints = []string{"[fe80::1%" + strings.Repeat("x", 99) + "]:9"} },
		"many endpoints":   func(n *proto.Node) { n.Endpoints = make([]string, proto.MaxEndpoints+1) },
		"a negative relay": func(n *proto.Node) { n.HomeRelay = -1 },
	}
	for name, spoil := range cases {
		n := k.self(1)
		spoil(n)
		_, err := checkSelf(n, k.node())
		require.Error(t, err, name)
	}
	_, err := checkSelf(k.self(1), k.node())
	require.NoError(t, err)

	w := newWorld(t)
	p := w.admitted(clientLink("alice"), k)
	bad := newKey().self(1)
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Self{Self: bad}})
	require.Equal(t, codes.InvalidArgument, status.Code(p.ended()))
}

func TestNewerStreamReplacesOlder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	w.tunnel(client, agent, "dev")

	second := w.join(client.link, client.key)
	require.Equal(t, codes.Aborted, status.Code(client.ended()))
	require.NotNil(t, agent.upsert(client.key), "the tunnel stays")
	w.tunnel(second, agent, "dev")

	restarted := w.admitted(agentLink("dev", "a2"), agent.key)
	require.Equal(t, codes.Aborted, status.Code(agent.ended()))
	require.Equal(t, "a2", second.presence().GetInstanceId())
	restarted.self(2)
	require.Equal(t, restarted.key.self(2).GetDiscoKey(), second.upsert(agent.key).GetNode().GetDiscoKey())
	restarted.ack(restarted.upsert(client.key))
	second.ready(agent.key) // it has the client installed again

	// With a new key, nobody can come back under the old one.
	moved := w.join(agentLink("dev", "a3"), newKey())
	require.Equal(t, codes.Aborted, status.Code(restarted.ended()))
	second.drop(agent.key)
	w.tunnel(second, moved, "dev")
}

func TestKeyOfAnotherUserInheritsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	alice := w.join(clientLink("alice"), newKey())
	_, atAgent := w.tunnel(alice, agent, "dev")

	mallory := w.join(clientLink("mallory"), alice.key)
	alice.ended()
	agent.drop(alice.key)
	agent.announce(alice.key, atAgent)
	agent.drop(alice.key)
	mallory.announce(agent.key, atAgent)
	mallory.drop(agent.key)
}

func TestRemoval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	w.tunnel(client, agent, "dev")

	client.removeTunnel(agent.key)
	agent.drop(client.key)
	client.drop(agent.key)

	w.tunnel(client, agent, "dev")
	client.cut(kill()) // absence is no removal
	client.ended()
	again := w.join(clientLink("alice"), client.key)
	u := agent.upsert(client.key)
	require.Equal(t, proto.PeerUpdate_UPSERT, u.GetKind())

	again.disconnect() // leaving in order is
	require.NoError(t, again.ended())
	agent.drop(client.key)

	third := w.join(clientLink("alice"), client.key)
	w.tunnel(third, agent, "dev")
	agent.disconnect() // an agent in order is not: its clients wait for it
	require.NoError(t, agent.ended())
	third.silent()
	back := w.join(agentLink("dev", "a2"), agent.key)
	require.Equal(t, "a2", third.presence().GetInstanceId())
	third.upsert(agent.key)
	back.ack(back.upsert(client.key))
	third.ready(agent.key)
}

func TestPresenceTellsHowTheLinkEnded(t *testing.T) {
	t.Parallel()
	for name, ending := range map[string]control.Ending{"killed": kill(), "goodbye": shutdown()} {
		w := newWorld(t)
		w.allow("alice", "dev", true)
		agent := w.join(agentLink("dev", "a1"), newKey())
		client := w.join(clientLink("alice"), newKey())
		bystander := w.join(clientLink("alice"), newKey())
		w.tunnel(client, agent, "dev")

		agent.pipe.cancel() // the stream's end alone tells nothing
		agent.ended()
		client.silent()
		_, _, online := w.Online("dev")
		require.False(t, online)
		agent.link.mu.Lock()
		agent.link.ending = ending
		agent.link.mu.Unlock()
		agent.link.cut()

		p := client.presence()
		require.False(t, p.GetOnline(), name)
		require.Equal(t, "a1", p.GetInstanceId(), name)
		require.Equal(t, ending.Attribution, wire.ToAttribution(p.GetEnding()), name)
		require.Equal(t, ending.Goodbye, p.GetGoodbye(), name)
		require.NotNil(t, p.GetAt())
		bystander.silent()

		client.addTunnel("dev")
		refusal := client.reply().GetRefusal()
		require.Equal(t, proto.Refusal_AGENT_OFFLINE, refusal.GetCode())
		require.Equal(t, p.GetAt().AsTime(), refusal.GetOfflineSince().AsTime())
		require.Equal(t, ending.Attribution, wire.ToAttribution(refusal.GetEnding()))

		w.join(agentLink("dev", "a2"), agent.key)
		p = client.presence()
		require.True(t, p.GetOnline())
		require.Equal(t, "a2", p.GetInstanceId())
	}
}

func TestServerShutdownIsNoNewsOfAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	w.tunnel(client, agent, "dev")
	ctx := testutil.Context(t, 5*time.Second)
	require.NoError(t, w.Close(ctx))
	agent.link.cut()
	for _, p := range []*peer{client, agent} {
		select {
		case m := <-p.pipe.fromServer:
			require.FailNow(t, "a message at shutdown", "%v", m)
		case err := <-p.pipe.result:
			require.Equal(t, codes.Unavailable, status.Code(err))
			told := status.Convert(err).Details()
			require.Len(t, told, 1)
			require.Equal(t, disconnect.ServerShutdown, wire.ToGoodbye(told[0].(*wire.Goodbye)).Reason)
		case <-ctx.Done():
			require.FailNow(t, "no end")
		}
	}
	late := w.open(clientLink("alice"), newKey())
	require.Equal(t, codes.Unavailable, status.Code(late.ended()))
}

func TestEveryStreamEndingIsLoggedOnce(t *testing.T) {
	t.Parallel()
	logger, rec := testutil.NewLogRecorder(t)
	w := newWorld(t, func(cfg *Config) { cfg.Logger = logger })
	ctx := testutil.Context(t, 5*time.Second)
	of := func(instance string) func(testutil.Ending) bool {
		return func(e testutil.Ending) bool { return e.Attrs["peer_instance"] == instance }
	}
	agent := w.join(agentLink("dev", "killed"), newKey())
	agent.cut(kill())
	require.Equal(t, kill().Attribution, rec.WaitFor(ctx, of("killed")).Attribution)

	bye := w.join(agentLink("dev", "stopped"), newKey())
	bye.cut(shutdown())
	require.Equal(t, shutdown().Attribution, rec.WaitFor(ctx, of("stopped")).Attribution)

	polite := w.join(clientLink("alice"), newKey())
	polite.disconnect()
	require.NoError(t, polite.ended())
	e := rec.WaitFor(ctx, of("client-alice"))
	require.Equal(t, disconnect.Graceful, e.Attribution.Reason)
	require.Equal(t, disconnect.Client, e.Attribution.Initiator)
	require.Equal(t, disconnect.ClientToServer, e.Attribution.ConnectType)
	w.stop()
	require.Len(t, rec.Endings(), 3)
}

func TestSlowStreamEndsAndBlocksNobody(t *testing.T) {
	t.Parallel()
	logger, rec := testutil.NewLogRecorder(t)
	w := newWorld(t, func(cfg *Config) { cfg.Logger = logger })
	w.queueLimit = 10
	agent := w.join(agentLink("dev", "slow"), newKey()) // never reads from here on
	for i := range 20 {
		user := fmt.Sprintf("user%d", i)
		w.allow(user, "dev", true)
		client := w.join(clientLink(user), newKey())
		client.addTunnel("dev")
		if m := client.next(); m.GetTunnelReply().GetRefusal() != nil {
			break // the agent is gone by now
		}
	}
	err := agent.ended()
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.Equal(t, disconnect.SlowPeer, wire.ToGoodbye(status.Convert(err).Details()[0].(*wire.Goodbye)).Reason)
	e := rec.WaitFor(testutil.Context(t, 5*time.Second), func(e testutil.Ending) bool { return e.Attrs["peer_instance"] == "slow" })
	require.Equal(t, disconnect.SlowPeer, e.Attribution.Reason)
	require.Equal(t, disconnect.Agent, e.Attribution.Initiator)
}

func TestLaggingReaderGetsTheLatestWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queueLimit = 10
	w.allow("alice", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	w.tunnel(client, agent, "dev")
	for n := range byte(200) {
		client.self(n + 2)
	}
	client.silent() // the server has taken them all
	last := agent.upsert(client.key)
	for i := 0; last.GetNode().GetDiscoKey()[0] != 201; i++ {
		require.Less(t, i, 10, "updates were not coalesced")
		last = agent.upsert(client.key)
	}
}

func TestStalledAndUnprovedStreamsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.allow("alice", "dev", true)
		mute := w.open(clientLink("mute"), newKey())
		mute.next()
		start := time.Now()
		require.Equal(t, codes.ResourceExhausted, status.Code(<-mute.pipe.result))
		require.Equal(t, proofTimeout, time.Since(start))

		agent := w.join(agentLink("dev", "a1"), newKey())
		client := w.join(clientLink("alice"), newKey())
		client.addTunnel("dev") // neither reads
		require.Equal(t, codes.ResourceExhausted, status.Code(<-agent.pipe.result))
		require.Equal(t, codes.ResourceExhausted, status.Code(<-client.pipe.result))
		w.stop()
	})
}

func TestDERPMapFollowsChanges(t *testing.T) {
	t.Parallel()
	maps := make(chan *proto.DERPMap, 1)
	maps <- &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 1}}}
	current := func() *proto.DERPMap {
		m := <-maps
		maps <- m
		return m
	}
	w := newWorld(t, func(cfg *Config) { cfg.DERPMap = current })
	ctx, cancel := context.WithCancel(t.Context())
	stream := &mapStream{ctx: ctx, sent: make(chan *proto.DERPMap, 10)}
	result := make(chan error, 1)
	go func() { result <- w.StreamDERPMaps(&proto.StreamDERPMapsRequest{}, stream) }()
	require.EqualValues(t, 1, (<-stream.sent).GetRegions()[0].GetId())
	w.DERPMapChanged() // it did not
	<-maps
	maps <- &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 2}}}
	w.DERPMapChanged()
	require.EqualValues(t, 2, (<-stream.sent).GetRegions()[0].GetId())
	cancel()
	require.Equal(t, codes.Canceled, status.Code(<-result))
}

type mapStream struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan *proto.DERPMap
}

func (s *mapStream) Context() context.Context { return s.ctx }
func (s *mapStream) Send(m *proto.DERPMap) error {
	s.sent <- m
	return nil
}
