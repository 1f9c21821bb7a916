package tailnet

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"tailscale.com/net/netns"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

func TestDirectConnection(t *testing.T) {
	agent, client := newPair(t)
	events := pathEvents(t, client, agent.Key())
	started := time.Now()
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	t.Logf("first bytes after %s", time.Since(started))

	host, _, err := net.SplitHostPort(atAgent.RemoteAddr().String())
	require.NoError(t, err)
	require.Equal(t, client.Addr().String(), host)
	key, ok := agent.PeerByAddr(client.Addr())
	require.True(t, ok)
	require.Equal(t, client.Key(), key)

	e := awaitPath(t, events, PathDirect)
	require.Equal(t, PathNone, e.Old.Kind)
	require.NotEmpty(t, e.New.Endpoint)
	require.False(t, e.At.IsZero())
	require.Equal(t, PathDirect, client.Path(agent.Key()).Kind)
}

func TestBulkTransfer(t *testing.T) {
	agent, client := newPair(t)
	atAgent, atClient := connect(t, agent, client)
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	type result struct {
		sum [32]byte
		n   int64
		err error
	}
	received := make(chan result, 1)
	go func() {
		h := sha256.New()
		n, err := io.Copy(h, atAgent)
		received <- result{sum: [32]byte(h.Sum(nil)), n: n, err: err}
	}()
	started := time.Now()
	_, err := atClient.Write(data)
	require.NoError(t, err)
	require.NoError(t, atClient.(interface{ CloseWrite() error }).CloseWrite())
	got := <-received
	t.Logf("%.0f MB/s", float64(len(data))/1e6/time.Since(started).Seconds())
	require.NoError(t, got.err)
	require.EqualValues(t, len(data), got.n)
	require.Equal(t, sha256.Sum256(data), got.sum)

	// The half that was not closed still works.
	_, err = atAgent.Write([]byte("thanks"))
	require.NoError(t, err)
	require.NoError(t, atAgent.Close())
	rest, err := io.ReadAll(atClient)
	require.NoError(t, err)
	require.Equal(t, "thanks", string(rest))
}

func TestListenerClose(t *testing.T) {
	agent, client := newPair(t)
	l, err := agent.Listen(testPort)
	require.NoError(t, err)
	_, err = agent.Listen(testPort)
	require.ErrorIs(t, err, syscall.EADDRINUSE)

	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.NoError(t, l.Close())

	// Nobody listens on an allowed port any more: the stack refuses.
	_, err = client.DialTCP(testContext(t), agent.Key(), testPort)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	a := Judge(err, disconnect.AgentToClient, disconnect.Client)
	require.Equal(t, disconnect.ConnectionRefused, a.Reason)
	require.Equal(t, disconnect.Agent, a.Initiator)

	l, err = agent.Listen(testPort)
	require.NoError(t, err, "the port must be free again")
	require.NoError(t, l.Close())
}

func TestLocalCloseIsNoEOF(t *testing.T) {
	agent, client := newPair(t)
	_, atClient := connect(t, agent, client)
	read := make(chan error, 1)
	go func() {
		_, err := atClient.Read(make([]byte, 1))
		read <- err
	}()
	require.NoError(t, atClient.Close())
	err := <-read
	require.ErrorIs(t, err, net.ErrClosed)
	require.NotErrorIs(t, err, io.EOF)
	_, err = atClient.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestResetBeforeAccept: a flow that is reset while it waits to be accepted still says
// whose it was.
func TestResetBeforeAccept(t *testing.T) {
	agent, client := newPair(t)
	l, err := agent.Listen(testPort)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	dial := func() net.Conn {
		c, err := client.DialTCP(testContext(t), agent.Key(), testPort)
		require.NoError(t, err)
		return c
	}
	early := dial()
	early.(*conn).abort(errPeerRemoved)
	late := dial() // when it stands, the reset before it has arrived
	for _, c := range []net.Conn{early, late} {
		accepted, err := l.Accept()
		require.NoError(t, err)
		require.NotNil(t, accepted.RemoteAddr())
		require.NotNil(t, accepted.LocalAddr())
		require.Equal(t, c.LocalAddr().String(), accepted.RemoteAddr().String())
		require.NoError(t, accepted.Close())
		require.NoError(t, c.Close())
	}
}

func TestReadDeadline(t *testing.T) {
	agent, client := newPair(t)
	_, atClient := connect(t, agent, client)
	require.NoError(t, atClient.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := atClient.Read(make([]byte, 1))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
	require.Equal(t, disconnect.NetworkTimeout, Judge(err, disconnect.AgentToClient, disconnect.Client).Reason)
}

func TestRemovePeer(t *testing.T) {
	agent, client := newRelayedPair(t, Options{})
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	events := pathEvents(t, agent, client.Key())
	awaitPath(t, events, PathDirect)

	agent.RemovePeer(client.Key())
	_, err := atAgent.Read(make([]byte, 1))
	require.ErrorIs(t, err, errPeerRemoved)
	require.ErrorIs(t, err, net.ErrClosed)
	_, ok := agent.PeerByAddr(client.Addr())
	require.False(t, ok)
	_, err = agent.DialTCP(t.Context(), client.Key(), 1)
	require.ErrorContains(t, err, "not installed")
	awaitPath(t, events, PathNone)

	// The client still has the agent, but nothing answers.
	require.NoError(t, atClient.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	_, err = atClient.Write([]byte("x"))
	require.NoError(t, err)
	_, err = atClient.Read(make([]byte, 1))
	require.ErrorAs(t, err, new(net.Error))
	agent.RemovePeer(client.Key()) // again: no error

	// And it can come back, at once.
	client.RemovePeer(agent.Key())
	introduce(t, agent, client)
	atAgent, atClient = connect(t, agent, client)
	exchange(t, atClient, atAgent)
}

func TestPeerRestart(t *testing.T) {
	agent, client := newPair(t)
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	before := agent.Self()

	require.NoError(t, agent.engine.magic.Close()) // as if killed: no reset goes out
	require.NoError(t, agent.Close())
	again := newTestNode(t, agent.opts)
	require.Equal(t, before.GetKey(), again.Self().GetKey())
	require.NotEqual(t, before.GetDiscoKey(), again.Self().GetDiscoKey())
	introduce(t, again, client)
	_, err := client.DialTCP(testContext(t), again.Key(), testPort)
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "the new process has no listener yet")

	// The old flow is unknown to the new process.
	_, err = atClient.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, atClient.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err = atClient.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Equal(t, disconnect.ConnectionReset, Judge(err, disconnect.AgentToClient, disconnect.Client).Reason)

	started := time.Now()
	atAgent, atClient = connect(t, again, client)
	exchange(t, atClient, atAgent)
	require.Less(t, time.Since(started), 3*time.Second, "a stale session would cost a retry after 5 s")
}

func TestDialContext(t *testing.T) {
	agent, client := newPair(t)
	agent.RemovePeer(client.Key()) // silence
	cause := &disconnect.EndedError{Attribution: disconnect.Attribution{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}}
	ctx, cancel := context.WithCancelCause(testContext(t))
	dialled := make(chan error, 1)
	go func() {
		_, err := client.DialTCP(ctx, agent.Key(), testPort)
		dialled <- err
	}()
	cancel(cause)
	err := <-dialled
	require.ErrorIs(t, err, cause)
	require.Equal(t, disconnect.ClientClosed, Judge(err, disconnect.AgentToClient, disconnect.Client).Reason)
}

func TestClose(t *testing.T) {
	agent, client := newPair(t)
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	l, err := agent.Listen(testPort)
	require.NoError(t, err)
	read := make(chan error, 2)
	go func() {
		_, err := atAgent.Read(make([]byte, 1))
		read <- err
	}()
	go func() {
		_, err := l.Accept()
		read <- err
	}()
	require.NoError(t, agent.Close())
	require.ErrorIs(t, <-read, net.ErrClosed)
	require.ErrorIs(t, <-read, net.ErrClosed)
	require.NoError(t, agent.Close())

	_, err = agent.DialTCP(t.Context(), client.Key(), testPort)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = agent.Listen(testPort)
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, agent.UpsertPeer(client.Self()), net.ErrClosed)
	agent.RemovePeer(client.Key())
	agent.SetDERPMap(&proto.DERPMap{}, "")
	agent.SetCoordinated(true)
	agent.Kick(client.Key())
	require.Equal(t, Path{}, agent.Path(client.Key()))
	require.NotNil(t, agent.Self())
}

func TestSelf(t *testing.T) {
	n := newTestNode(t, Options{})
	told := make(chan *proto.Node, 16)
	n.SetSelfCallback(func(self *proto.Node) { told <- self })
	first := <-told
	require.Equal(t, n.Key().Bytes(), first.GetKey())
	require.Len(t, first.GetDiscoKey(), 32)
	require.NotEmpty(t, first.GetEndpoints())
	require.Equal(t, n.Key().Address(), n.Addr())
	n.SetSelfCallback(nil)

	hidden := newTestNode(t, Options{ForceRelay: true})
	require.Empty(t, hidden.Self().GetEndpoints())
}

func TestUpsertRefusesBadPeers(t *testing.T) {
	n := newTestNode(t, Options{})
	good := func() *proto.Node {
		return &proto.Node{Key: NewPrivateKey().Public().Bytes(), DiscoKey: []byte("0123456789abcdef0123456789abcdef")}
	}
	require.NoError(t, n.UpsertPeer(good()))
	for name, spoil := range map[string]func(*proto.Node){
		"no key":         func(p *proto.Node) { p.Key = nil },
		"short key":      func(p *proto.Node) { p.Key = p.Key[1:] },
		"zero key":       func(p *proto.Node) { p.Key = make([]byte, 32) },
		"no disco key":   func(p *proto.Node) { p.DiscoKey = nil },
		"zero disco key": func(p *proto.Node) { p.DiscoKey = make([]byte, 32) },
		"negative home":  func(p *proto.Node) { p.HomeRelay = -1 },
		"huge home":      func(p *proto.Node) { p.HomeRelay = 1 << 16 },
		"itself":         func(p *proto.Node) { p.Key = n.Key().Bytes() },
	} {
		t.Run(name, func(t *testing.T) {
			p := good()
			spoil(p)
			require.Error(t, n.UpsertPeer(p))
		})
	}
	require.Error(t, n.UpsertPeer(nil))
	p := good()
	p.Endpoints = []string{"nonsense", "192.0.2.1:0", "0.0.0.0:7", "[" + n.Addr().String() + "]:9", "192.0.2.1:7"}
	require.NoError(t, n.UpsertPeer(p))
	key, err := proto.ParseNodeKey(p.Key)
	require.NoError(t, err)
	require.Len(t, n.peers.get(key).node.Endpoints, 1)
}

// TestSocketsAreNotBound: without root the engine would bind its sockets to the main
// interface, from where the host's own addresses are out of reach. Tests by root do not
// see that.
func TestSocketsAreNotBound(t *testing.T) {
	n := newTestNode(t, Options{})
	var plain net.Dialer
	require.Same(t, &plain, netns.FromDialer(t.Logf, n.engine.netmon, &plain))
	require.Nil(t, plain.Control)
}

func TestOptions(t *testing.T) {
	_, err := NewNode(Options{})
	require.ErrorContains(t, err, "private key")
}

func TestKick(t *testing.T) {
	agent, client := newPair(t)
	events := pathEvents(t, client, agent.Key())
	client.Kick(agent.Key())
	_, err := client.DialTCP(testContext(t), agent.Key(), testPort)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	awaitPath(t, events, PathDirect)
	client.Kick(proto.NodeKey{1}) // unknown: nothing happens
}
