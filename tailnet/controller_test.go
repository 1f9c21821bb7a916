package tailnet_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

// controlled is a client with its controller.
type controlled struct {
	*tailnet.Controller
	t      *testing.T
	node   *fakeNode
	book   *tailnet.PeerBook
	rec    *testutil.Recorder
	states chan tailnet.ControllerState
	tokens chan string
	news   chan tailnet.Presence
}

func (s *site) controller(user string, change ...func(*tailnet.ControllerConfig)) *controlled {
	s.t.Helper()
	c := &controlled{
		t: s.t, node: newFakeNode(), states: make(chan tailnet.ControllerState, 100),
		tokens: make(chan string, 100), news: make(chan tailnet.Presence, 100),
	}
	c.book = tailnet.NewPeerBook(tailnet.PeerBookOptions{Remove: c.node.RemovePeer})
	logger, rec := testutil.NewLogRecorder(s.t)
	c.rec = rec
	cfg := tailnet.ControllerConfig{
		Dial: s.dialer("client:"+user, "c1", nil), Node: c.node, Book: c.book, Key: c.node.key, Logger: logger,
		ConnectType: disconnect.ClientToServer, Initiator: disconnect.Client, StunHost: "127.0.0.1",
		OnRelayToken: func(token string) { c.tokens <- token },
		OnPresence:   func(_ proto.NodeKey, p tailnet.Presence) { c.news <- p },
		OnState:      func(st tailnet.ControllerState) { c.states <- st },
	}
	for _, f := range change {
		f(&cfg)
	}
	c.book = cfg.Book
	c.Controller = tailnet.NewController(cfg)
	c.Start(s.t.Context())
	s.t.Cleanup(func() { c.close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}) })
	return c
}

func (c *controlled) close(g disconnect.Goodbye) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(c.t, c.Close(ctx, g))
}

// state waits for a state that match accepts, and returns it.
func (c *controlled) state(match func(tailnet.ControllerState) bool) tailnet.ControllerState {
	c.t.Helper()
	return await(c.t, c.states, match)
}

func (c *controlled) up() {
	c.t.Helper()
	c.state(func(s tailnet.ControllerState) bool { return s.Up })
}

func await[T any](t *testing.T, ch <-chan T, match func(T) bool) T {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case v := <-ch:
			if match(v) {
				return v
			}
		case <-late:
			require.FailNow(t, "waited in vain")
		}
	}
}

func (c *controlled) endings(msg string) (found []testutil.Ending) {
	for _, e := range c.rec.Endings() {
		if e.Message == msg {
			found = append(found, e)
		}
	}
	return found
}

func TestControllerLeavesInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.derp = &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 7}}}
	s.allow("alice", "dev", true)
	agent := s.member("agent:dev")
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	c := s.controller("alice")
	tunnel, err := c.Tunnel(testutil.Context(t, 10*time.Second), "dev")
	require.NoError(t, err)
	require.Equal(t, agent.key(), tunnel.Key)
	require.Equal(t, "relay:"+c.node.public.String(), <-c.tokens)
	c.node.await(t, "the DERP map", func() bool {
		return c.node.derp != nil && c.node.derp.GetRegions()[0].GetId() == 7
	})
	p := await(t, c.news, func(p tailnet.Presence) bool { return p.Online })
	require.Equal(t, "a1", p.Instance)
	now, ok := c.Presence(agent.key())
	require.True(t, ok)
	require.Equal(t, p, now)

	link := s.latest("alice")
	goodbye := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the user closed the window"}
	c.close(goodbye)
	agent.node.awaitGone(t, c.node) // it gave its tunnel back
	require.Equal(t, control.Ending{Attribution: goodbye.On(disconnect.ClientToServer), Goodbye: true}, link.Ending())
	require.Len(t, c.endings("control link ended"), 1)
	require.Equal(t, goodbye.On(disconnect.ClientToServer), c.endings("control link ended")[0].Attribution)
	require.Len(t, c.endings("coordination closed"), 1)
	require.Equal(t, disconnect.Graceful, c.endings("coordination closed")[0].Attribution.Reason)
	_, err = c.Tunnel(testutil.Context(t, 10*time.Second), "dev")
	require.ErrorIs(t, err, tailnet.ErrControllerClosed)
}

func TestControllerKeepsTunnelsOverLoss(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	agent := s.member("agent:dev")
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	c := s.controller("alice")
	ctx := testutil.Context(t, 20*time.Second)
	_, err := c.Tunnel(ctx, "dev")
	require.NoError(t, err)
	c.up()

	lost := disconnect.Attribution{ConnectType: disconnect.ClientToServer, Reason: disconnect.NetworkError, Initiator: disconnect.Network}
	s.latest("alice").Abort(lost) // the client sees a bare end of the socket
	down := c.state(func(st tailnet.ControllerState) bool { return !st.Ending.IsZero() })
	require.Contains(t, []disconnect.Reason{disconnect.NetworkError, disconnect.ConnectionReset}, down.Ending.Reason)
	require.Equal(t, disconnect.Network, down.Ending.Initiator)
	c.up()
	agent.node.move()
	c.node.awaitPeer(t, agent.node)

	s.stop(true) // a restart, in order
	down = c.state(func(st tailnet.ControllerState) bool { return !st.Ending.IsZero() })
	require.Equal(t, disconnect.Attribution{
		ConnectType: disconnect.ClientToServer, Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "restart",
	}, down.Ending)
	c.state(func(st tailnet.ControllerState) bool { return st.Err != nil })
	s.start()
	c.up()
	<-agent.coord.Wait()
	_ = agent.coord.Close(errors.New("the server went away"))
	_ = agent.link.Close(disconnect.Goodbye{})
	agent.connect("a1")
	agent.node.move()
	c.node.awaitPeer(t, agent.node)
	for _, n := range []*fakeNode{agent.node, c.node} {
		for _, event := range n.history() {
			require.NotContains(t, event, "remove")
		}
	}
	// One line for each link, and one for each coordination.
	require.Len(t, c.endings("control link ended"), 2)
	require.Len(t, c.endings("coordination closed"), 2)
	told := c.endings("coordination closed")[1].Attribution
	require.Equal(t, disconnect.ServerShutdown, told.Reason, "told before the end")
}

func TestTunnelAskedDuringAnOutageComes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.allow("alice", "dev", true)
	s.refuse(http.StatusServiceUnavailable)
	c := s.controller("alice")
	c.state(func(st tailnet.ControllerState) bool { return st.Err != nil })
	result := make(chan error, 1)
	go func() {
		_, err := c.Tunnel(testutil.Context(t, 10*time.Second), "dev")
		result <- err
	}()
	s.refuse(0)
	agent := s.member("agent:dev")
	agent.connect("a1")
	agent.node.await(t, "admission", func() bool { return agent.node.coordinated })
	err := <-result
	var refused *tailnet.RefusedError
	if errors.As(err, &refused) { // the client was faster than the agent
		_, err = c.Tunnel(testutil.Context(t, 10*time.Second), "dev")
	}
	require.NoError(t, err)
}

// S11, with a link that has ended meanwhile: there never was a coordination.
func TestCoordinationThatNeverBeganLogsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	link, err := s.dialer("client:alice", "c1", nil)(testutil.Context(t, 10*time.Second))
	require.NoError(t, err)
	require.NoError(t, link.Close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}))
	logger, rec := testutil.NewLogRecorder(t)
	_, err = tailnet.StartCoordination(t.Context(), proto.NewTailnetServiceClient(link.RPC()), tailnet.CoordinationConfig{
		Logger: logger, Node: newFakeNode(), Key: tailnet.NewPrivateKey(), Book: tailnet.NewPeerBook(tailnet.PeerBookOptions{}),
		ConnectType: disconnect.ClientToServer, Initiator: disconnect.Client,
	})
	require.ErrorContains(t, err, "start coordination")
	require.Empty(t, rec.Records())
}

// TestSeedS7: the socket is closed under us while we live.
func TestSeedS7(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var mu sync.Mutex
	var sockets []net.Conn
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		sockets = append(sockets, conn)
		return conn, err
	}}}
	c := s.controller("alice", func(cfg *tailnet.ControllerConfig) { cfg.Dial = s.dialer("client:alice", "c1", client) })
	c.up()
	mu.Lock()
	require.NoError(t, sockets[0].Close())
	mu.Unlock()
	e := c.rec.WaitFor(testutil.Context(t, 10*time.Second), func(e testutil.Ending) bool { return e.Message == "control link ended" })
	require.Equal(t, disconnect.ClientToServer, e.Attribution.ConnectType)
	require.Equal(t, disconnect.NetworkError, e.Attribution.Reason)
	require.Equal(t, disconnect.Network, e.Attribution.Initiator)
	require.False(t, e.Expected)
	require.Contains(t, e.Attribution.Detail, "use of closed network connection")
	c.up()
}

// S11: what never was connected does not disconnect.
func TestFailedFirstDialIsNoDisconnect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.stop(true)
	for _, status := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusUpgradeRequired} {
		s.refuse(status)
		c := s.controller("alice")
		_, err := c.Tunnel(testutil.Context(t, 10*time.Second), "dev") // at once
		var dial *wsconn.DialError
		require.ErrorAs(t, err, &dial)
		require.Equal(t, status, dial.Status)
		c.close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client})
		require.Empty(t, c.rec.Endings())
	}
	s.refuse(http.StatusServiceUnavailable) // may pass: worth waiting
	c := s.controller("alice")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("the user's patience"))
	defer cancel()
	_, err := c.Tunnel(ctx, "dev")
	require.ErrorContains(t, err, "the user's patience")
	require.ErrorContains(t, err, "503")
	require.Empty(t, c.rec.Endings())
}

func TestControllerDropsALinkWhoseStreamEnded(t *testing.T) {
	t.Parallel()
	calls := make(chan struct{}, 100)
	s := rogueSite(t, func(stream proto.TailnetService_CoordinateServer) error {
		_ = stream.Send(challenge())
		_ = stream.Send(admitted())
		calls <- struct{}{}
		return nil // in order, without a goodbye, and the link lives
	})
	c := s.controller("alice")
	<-calls
	<-calls // again, on another link
	ended := c.endings("control link ended")
	require.NotEmpty(t, ended)
	require.NotEqual(t, disconnect.Unknown, ended[0].Attribution.Reason)
}

func TestControllerThatNeverStartedCloses(t *testing.T) {
	t.Parallel()
	c := tailnet.NewController(tailnet.ControllerConfig{})
	require.NoError(t, c.Close(t.Context(), disconnect.Goodbye{}))
	c.Start(t.Context()) // too late
}
