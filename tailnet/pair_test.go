package tailnet

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tailnet/proto"
)

// testPort is the port that newPair's agents allow.
const testPort = 22

// newTestNode starts a node that is closed with the test.
func newTestNode(t testing.TB, opts Options) *Node {
	t.Helper()
	if opts.PrivateKey.IsZero() {
		opts.PrivateKey = NewPrivateKey()
	}
	n, err := NewNode(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// introduce makes two nodes peers of each other, the listener's side first, as the
// coordination with its acknowledgement would.
func introduce(t testing.TB, agent, client *Node) {
	t.Helper()
	require.NoError(t, agent.UpsertPeer(client.Self()))
	require.NoError(t, client.UpsertPeer(agent.Self()))
	awaitPong(t, client, agent)
	awaitPong(t, agent, client)
}

// awaitPong waits until from has a direct path to to. Without a relay nothing can be
// sent before, and WireGuard tries again only after 5 s.
func awaitPong(t testing.TB, from, to *Node) {
	t.Helper()
	ctx := testContext(t)
	pong := make(chan struct{}, 1)
	for {
		from.engine.ping(from.peers.get(to.Key()), func() {
			select {
			case pong <- struct{}{}:
			default:
			}
		})
		select {
		case <-pong:
			return
		case <-time.After(200 * time.Millisecond): // lost: ask again
		case <-ctx.Done():
			require.Fail(t, "no direct path")
		}
	}
}

// newPair starts an agent that allows testPort and a client that allows nothing, and
// introduces them. Neither has a relay.
func newPair(t testing.TB) (agent, client *Node) {
	t.Helper()
	agent = newTestNode(t, Options{AllowInbound: []uint16{testPort}})
	client = newTestNode(t, Options{})
	introduce(t, agent, client)
	return agent, client
}

// testContext ends long before the test binary's own limit.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect opens one flow and returns both ends.
func connect(t testing.TB, agent, client *Node) (atAgent, atClient net.Conn) {
	t.Helper()
	l, err := agent.Listen(testPort)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	accepted := make(chan net.Conn, 1)
	var accept sync.WaitGroup
	accept.Go(func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	})
	atClient, err = client.DialTCP(testContext(t), agent.Key(), testPort)
	require.NoError(t, err)
	accept.Wait()
	atAgent = <-accepted
	t.Cleanup(func() {
		require.NoError(t, atAgent.Close())
		require.NoError(t, atClient.Close())
	})
	return atAgent, atClient
}

// exchange proves that bytes pass both ways.
func exchange(t testing.TB, a, b net.Conn) {
	t.Helper()
	buf := make([]byte, 4)
	for _, dir := range [][2]net.Conn{{a, b}, {b, a}} {
		_, err := dir[0].Write([]byte("ping"))
		require.NoError(t, err)
		require.NoError(t, dir[1].SetReadDeadline(time.Now().Add(20*time.Second)))
		_, err = readFull(dir[1], buf)
		require.NoError(t, err)
		require.Equal(t, "ping", string(buf))
		require.NoError(t, dir[1].SetReadDeadline(time.Time{}))
	}
}

func readFull(c net.Conn, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := c.Read(buf[n:])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// pathEvents collects a node's events about one peer.
func pathEvents(t testing.TB, n *Node, peer proto.NodeKey) <-chan PathEvent {
	t.Helper()
	events := make(chan PathEvent, 64)
	t.Cleanup(n.WatchPaths(func(e PathEvent) {
		if e.Peer == peer {
			events <- e
		}
	}))
	return events
}

// awaitPath waits for an event whose new path is of kind.
func awaitPath(t testing.TB, events <-chan PathEvent, kind PathKind) PathEvent {
	t.Helper()
	ctx := testContext(t)
	for {
		select {
		case e := <-events:
			if e.New.Kind == kind {
				return e
			}
		case <-ctx.Done():
			require.Fail(t, "the path did not become "+kind.String())
		}
	}
}
