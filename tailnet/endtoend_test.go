package tailnet_test

import (
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/testutil"
)

// withRelay gives the site a relay that takes its tokens.
func (s *site) withRelay() {
	r := relay.New(relay.Config{Admit: func(_ context.Context, token string) (relay.Admission, error) {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "relay:"))
		if err != nil {
			return relay.Admission{}, err
		}
		key, err := proto.ParseNodeKey(b)
		return relay.Admission{Node: key}, err
	}})
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.Close(ctx, disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server})
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relay = r
	s.derp = &proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 1, Code: "embedded"}}}
}

// realNode starts a node that relays through the site.
func (s *site) realNode(opts tailnet.Options) (*tailnet.Node, *tailnet.RelayDialer) {
	s.t.Helper()
	dialer := tailnet.NewRelayDialer(s.url, &http.Client{})
	opts.DialRelay = dialer.Dial
	n, err := tailnet.NewNode(opts)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, n.Close()) })
	return n, dialer
}

// Two real nodes find each other through coordinator and relay, and a restart of the
// server cuts nothing between them.
func TestNodesMeetThroughTheCoordinator(t *testing.T) {
	for name, forceRelay := range map[string]bool{"any path": false, "relay only": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.withRelay()
			s.allow("alice", "dev", true)
			ctx := testutil.Context(t, 30*time.Second)

			agentKey := tailnet.NewPrivateKey()
			agentNode, agentRelay := s.realNode(tailnet.Options{PrivateKey: agentKey, AllowInbound: []uint16{22}, ForceRelay: forceRelay})
			agent := s.nodeController("agent:dev", agentKey, agentNode, agentRelay)
			agent.up()
			serveEcho(t, agentNode)
			require.Eventually(t, func() bool { return s.relay.Connected(agentKey.Public()) }, 10*time.Second, time.Millisecond)

			clientKey := tailnet.NewPrivateKey()
			clientNode, clientRelay := s.realNode(tailnet.Options{PrivateKey: clientKey, ForceRelay: forceRelay})
			client := s.nodeController("client:alice", clientKey, clientNode, clientRelay)
			client.up()

			start := time.Now()
			tunnel, err := client.Tunnel(ctx, "dev")
			require.NoError(t, err)
			ready := time.Since(start)
			conn, err := clientNode.DialTCP(ctx, tunnel.Key, 22)
			require.NoError(t, err)
			defer conn.Close()
			echo(t, conn, "first")
			t.Logf("tunnel ready after %v, first byte after %v", ready, time.Since(start))
			principal, ok := agent.book.Principal(clientNode.Key())
			require.True(t, ok)
			require.Equal(t, "alice-name", principal)

			s.stop(false)
			echo(t, conn, "while there is no server")
			s.start()
			client.up()
			agent.up()
			echo(t, conn, "after its restart")
			_, err = client.Tunnel(ctx, "dev")
			require.NoError(t, err)
		})
	}
}

// nodeController is controller for a real node, of an agent or a client.
func (s *site) nodeController(token string, key tailnet.PrivateKey, node *tailnet.Node, dialer *tailnet.RelayDialer) *controlled {
	s.t.Helper()
	return s.controller("", func(cfg *tailnet.ControllerConfig) {
		cfg.Dial = s.dialer(token, token, nil)
		cfg.Key, cfg.Node = key, node
		cfg.Book = tailnet.NewPeerBook(tailnet.PeerBookOptions{Remove: node.RemovePeer})
		cfg.OnRelayToken = dialer.SetToken
	})
}

// serveEcho sends every byte back that comes to port 22.
func serveEcho(t *testing.T, n *tailnet.Node) {
	t.Helper()
	l, err := n.Listen(22)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

func echo(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(15*time.Second)))
	_, err := conn.Write([]byte(text))
	require.NoError(t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
}
