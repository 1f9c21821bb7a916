package tailnet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
)

func TestTunnelInstallsBothNodes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	agent, client := s.member("agent:dev"), s.member("client:alice")
	agent.connect("a1")
	client.connect("c1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })

	tunnel := client.tunnel("dev")
	require.Equal(t, agent.key(), tunnel.Key)
	require.Equal(t, "ssh-ed25519 key-of-dev", tunnel.SSHHostKey)
	// Ready means: both are there now.
	require.Contains(t, client.node.history(), "upsert "+agent.key().Short())
	require.Contains(t, agent.node.history(), "upsert "+client.key().Short())
	principal, ok := agent.book.Principal(client.key())
	require.True(t, ok)
	require.Equal(t, "alice-name", principal)

	client.node.move()
	agent.node.awaitPeer(t, client.node)
	agent.node.move()
	client.node.awaitPeer(t, agent.node)

	client.coord.RemoveTunnel(agent.key())
	agent.node.awaitGone(t, client.node)
	_, ok = agent.book.Principal(client.key())
	require.False(t, ok)
	require.Zero(t, client.book.Len())
}

// tunnel asks until the agent is there: it may be connecting at the same time.
func (m *member) tunnel(workspace string) tailnet.Tunnel {
	m.t.Helper()
	ctx := testutil.Context(m.t, 10*time.Second)
	for {
		tunnel, err := m.coord.AddTunnel(ctx, workspace)
		var refused *tailnet.RefusedError
		if errors.As(err, &refused) && refused.Code == proto.Refusal_AGENT_OFFLINE {
			continue
		}
		require.NoError(m.t, err)
		return tunnel
	}
}

func TestAddTunnelRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "away", true)
	client := s.member("client:alice")
	client.connect("c1")
	ctx := testutil.Context(t, 10*time.Second)
	var refused *tailnet.RefusedError

	_, err := client.coord.AddTunnel(ctx, "nowhere")
	require.ErrorAs(t, err, &refused)
	require.Equal(t, proto.Refusal_NOT_FOUND, refused.Code)
	require.Equal(t, "nowhere", refused.Workspace)
	_, err = client.coord.AddTunnel(ctx, strings.Repeat("x", 257))
	require.ErrorAs(t, err, &refused)
	require.Equal(t, proto.Refusal_INVALID, refused.Code)

	agent := s.member("agent:away")
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	require.NoError(t, agent.coord.Close(nil))
	require.NoError(t, agent.link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "SIGTERM"}))
	agent.coord = nil
	require.Eventually(t, func() bool {
		_, err = client.coord.AddTunnel(ctx, "away")
		require.ErrorAs(t, err, &refused)
		require.Equal(t, proto.Refusal_AGENT_OFFLINE, refused.Code)
		return !refused.Since.IsZero() // the link's end is known a moment after the stream's
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, disconnect.Attribution{
		ConnectType: disconnect.ServerToAgent, Reason: disconnect.ServerShutdown,
		Initiator: disconnect.Agent, Detail: "SIGTERM",
	}, refused.Ending)

	short, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("the user is impatient"))
	_, err = client.coord.AddTunnel(short, "nowhere")
	require.Error(t, err)

	coord := client.coord
	client.lose()
	_, err = coord.AddTunnel(ctx, "away")
	require.ErrorIs(t, err, tailnet.ErrCoordinationEnded)
}

func TestAddTunnelEndsWhenTheAgentGoes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	agent, client := s.member("agent:dev"), s.member("client:alice")
	asked := make(chan struct{})
	release := make(chan struct{})
	install := agent.node.upsert
	agent.node.upsert = func(n *proto.Node) error { // an agent that takes its time
		close(asked)
		<-release
		return install(n)
	}
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	client.connect("c1")
	result := make(chan error, 1)
	coord := client.coord
	go func() {
		_, err := coord.AddTunnel(t.Context(), "dev")
		result <- err
	}()
	<-asked
	s.latest("dev").Abort(disconnect.Attribution{Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network})
	var refused *tailnet.RefusedError
	require.ErrorAs(t, <-result, &refused)
	require.Equal(t, proto.Refusal_AGENT_OFFLINE, refused.Code)
	require.Equal(t, disconnect.NetworkTimeout, refused.Ending.Reason)
	require.Equal(t, "dev", refused.Workspace)
	close(release)
}

func TestAddTunnelEndsWhenTheServerTakesItBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	agent, client := s.member("agent:dev"), s.member("client:alice")
	asked := make(chan struct{})
	release := make(chan struct{})
	defer close(release)
	agent.node.upsert = func(*proto.Node) error { // an agent that never has it installed
		close(asked)
		<-release
		return errors.New("no")
	}
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	client.connect("c1")
	result := make(chan error, 1)
	coord := client.coord
	go func() {
		_, err := coord.AddTunnel(testutil.Context(t, 10*time.Second), "dev")
		result <- err
	}()
	<-asked
	reborn := s.member("agent:dev") // its state directory is gone: another node key
	reborn.connect("a2")
	var refused *tailnet.RefusedError
	require.ErrorAs(t, <-result, &refused)
	require.Equal(t, proto.Refusal_AGENT_OFFLINE, refused.Code)
	require.Equal(t, "dev", refused.Workspace)
}

// TestSeedS6: the coordination's own line, with its own layer and initiator.
func TestSeedS6(t *testing.T) {
	t.Parallel()
	told := disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "upgrade"}
	cases := []struct {
		name  string
		token string
		err   error
		want  disconnect.Attribution
	}{
		{"client leaves", "client:alice", nil, disconnect.Attribution{
			ConnectType: disconnect.ClientToServer, Reason: disconnect.Graceful, Initiator: disconnect.Client,
		}},
		{"agent leaves", "agent:dev", nil, disconnect.Attribution{
			ConnectType: disconnect.ServerToAgent, Reason: disconnect.Graceful, Initiator: disconnect.Agent,
		}},
		{"an error", "agent:dev", errors.New("read tcp: broken"), disconnect.Attribution{
			ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkError, Initiator: disconnect.Agent, Detail: "read tcp: broken",
		}},
		{"a cause told before", "client:alice", fmt.Errorf("link: %w", &disconnect.EndedError{Attribution: told}), told.On(disconnect.ClientToServer)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			m := s.member(c.token)
			m.connect("i1")
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { require.NoError(t, m.coord.Close(c.err)) })
			}
			all.Wait()
			require.NoError(t, m.coord.Close(errors.New("too late to matter")))
			endings := m.rec.Endings()
			require.Len(t, endings, 1)
			require.Equal(t, "coordination closed", endings[0].Message)
			require.Equal(t, c.want, endings[0].Attribution)
			require.Equal(t, c.want.Reason.Expected(), endings[0].Expected)
			if c.err == nil {
				require.NoError(t, <-m.coord.Wait(), "the server ended it in order")
			}
		})
	}
}

// rogue is a server that does what it wants with a stream.
type rogue struct {
	proto.UnimplementedTailnetServiceServer
	coordinate func(proto.TailnetService_CoordinateServer) error
}

func (r rogue) Coordinate(s proto.TailnetService_CoordinateServer) error { return r.coordinate(s) }

func rogueSite(t *testing.T, f func(proto.TailnetService_CoordinateServer) error) *site {
	t.Helper()
	s := newSite(t)
	s.stop(true)
	s.serve(rogue{coordinate: f})
	return s
}

func challenge() *proto.CoordinateResponse {
	return &proto.CoordinateResponse{Response: &proto.CoordinateResponse_Challenge{
		Challenge: &proto.Challenge{Key: tailnet.NewPrivateKey().Public().Bytes(), Nonce: make([]byte, proto.NonceSize)},
	}}
}

func admitted() *proto.CoordinateResponse {
	return &proto.CoordinateResponse{Response: &proto.CoordinateResponse_Admitted{Admitted: &proto.Admitted{}}}
}

func TestPoliteCloseThatNobodyAnswersIsNotGraceful(t *testing.T) {
	t.Parallel()
	s := rogueSite(t, func(stream proto.TailnetService_CoordinateServer) error {
		_ = stream.Send(challenge())
		_ = stream.Send(admitted())
		<-stream.Context().Done() // deaf
		return nil
	})
	m := s.member("agent:dev")
	m.connect("a1")
	require.ErrorContains(t, m.coord.Close(nil), "did not end the stream")
	e := m.rec.Endings()
	require.Len(t, e, 1)
	require.Equal(t, disconnect.NetworkError, e[0].Attribution.Reason)
	require.Equal(t, disconnect.Agent, e[0].Attribution.Initiator)
	require.NotEmpty(t, e[0].Attribution.Detail)
}

func TestServerThatBreaksTheProtocol(t *testing.T) {
	t.Parallel()
	cases := map[string][]*proto.CoordinateResponse{
		"no challenge":            {admitted()},
		"a short nonce":           {{Response: &proto.CoordinateResponse_Challenge{Challenge: &proto.Challenge{Key: make([]byte, 32), Nonce: []byte("short")}}}},
		"speaks before admission": {challenge(), {Response: &proto.CoordinateResponse_Ready{Ready: &proto.Ready{}}}},
		"a peer without a key":    {challenge(), admitted(), {Response: &proto.CoordinateResponse_PeerUpdate{PeerUpdate: &proto.PeerUpdate{}}}},
		"ready for no one":        {challenge(), admitted(), {Response: &proto.CoordinateResponse_Ready{Ready: &proto.Ready{}}}},
		"presence without a key":  {challenge(), admitted(), {Response: &proto.CoordinateResponse_Presence{Presence: &proto.Presence{}}}},
		"a tunnel without a key":  {challenge(), admitted(), {Response: &proto.CoordinateResponse_TunnelReply{TunnelReply: &proto.TunnelReply{}}}},
	}
	for name, messages := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := rogueSite(t, func(stream proto.TailnetService_CoordinateServer) error {
				for _, m := range messages {
					_ = stream.Send(m)
				}
				<-stream.Context().Done()
				return nil
			})
			m := s.member("client:alice")
			m.connect("c1")
			err := <-m.coord.Wait()
			a, ok := disconnect.FromError(err)
			require.True(t, ok, "%v", err)
			require.Equal(t, disconnect.ProtocolError, a.Reason)
			require.Equal(t, disconnect.Server, a.Initiator)
			require.Equal(t, disconnect.ClientToServer, a.ConnectType)
		})
	}
}

func TestEndingToldByTheServerIsKept(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, second := s.member("client:alice"), s.member("client:alice")
	second.node.key, second.node.public = first.node.key, first.node.public
	first.connect("c1")
	first.node.await(t, "admission", func() bool { return first.node.coordinated })
	second.connect("c2")
	err := <-first.coord.Wait()
	a, ok := disconnect.FromError(err)
	require.True(t, ok, "%v", err)
	require.Contains(t, a.Detail, "newer stream")
}

func TestPeersSurviveAServerThatForgotThem(t *testing.T) {
	t.Parallel()
	for _, polite := range []bool{true, false} {
		for _, agentFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("polite %v, agent first %v", polite, agentFirst), func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				s.allow("alice", "dev", true)
				agent, client := s.member("agent:dev"), s.member("client:alice")
				agent.connect("a1")
				client.connect("c1")
				client.tunnel("dev")

				s.stop(polite)
				for _, m := range []*member{agent, client} {
					<-m.coord.Wait()
					_ = m.coord.Close(errors.New("the server went away"))
					_ = m.link.Close(disconnect.Goodbye{})
					m.coord = nil
				}
				s.start()
				order := []*member{client, agent}
				if agentFirst {
					order = []*member{agent, client}
				}
				for _, m := range order {
					m.connect("again")
				}
				agent.node.move() // whoever hears of it is known to be a peer again
				client.node.awaitPeer(t, agent.node)
				client.node.move()
				agent.node.awaitPeer(t, client.node)
				for _, m := range order {
					for _, event := range m.node.history() {
						require.NotContains(t, event, "remove")
					}
				}
				client.tunnel("dev")
			})
		}
	}
}

func TestRightWithdrawnDuringAnOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	agent, client := s.member("agent:dev"), s.member("client:alice")
	agent.connect("a1")
	client.connect("c1")
	client.tunnel("dev")
	agent.lose()
	client.lose()
	require.Equal(t, 1, agent.book.Len(), "an outage removes nobody")
	s.stop(false)
	s.allow("alice", "dev", false)
	s.start()
	agent.connect("a1")
	client.connect("c1")
	agent.node.awaitGone(t, client.node)
	client.node.awaitGone(t, agent.node)
	require.Zero(t, agent.book.Len())
}

func TestInstallFailureIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	agent, client := s.member("agent:dev"), s.member("client:alice")
	agent.node.upsert = func(*proto.Node) error { return errors.New("the engine is closed") }
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	client.connect("c1")
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	coord := client.coord
	go func() {
		_, err := coord.AddTunnel(ctx, "dev")
		result <- err
	}()
	agent.rec.WaitForMessage(testutil.Context(t, 10*time.Second), "install peer failed")
	_, ok := agent.book.Principal(client.key())
	require.False(t, ok)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
}

func TestManyClients(t *testing.T) {
	t.Parallel()
	const n = 200
	s := newSite(t)
	agent := s.member("agent:dev")
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	clients := make([]*member, n)
	for i := range clients {
		user := fmt.Sprintf("user%d", i)
		s.allow(user, "dev", true)
		clients[i] = s.member("client:" + user)
	}
	start := time.Now()
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			c.connect("c")
			c.tunnel("dev")
		})
	}
	all.Wait()
	t.Logf("%d clients connected and ready in %v", n, time.Since(start))
	require.Equal(t, n, agent.book.Len())
	for i, c := range clients {
		principal, _ := agent.book.Principal(c.key())
		require.Equal(t, fmt.Sprintf("user%d-name", i), principal)
	}
	agent.node.move() // reaches everybody
	for _, c := range clients {
		c.node.awaitPeer(t, agent.node)
	}
	start = time.Now()
	for _, c := range clients {
		all.Go(c.leave)
	}
	all.Wait()
	agent.node.await(t, "no peers", func() bool { return len(agent.node.installed) == 0 })
	t.Logf("all left in %v", time.Since(start))
}
