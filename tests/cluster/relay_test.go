package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/tests/site"
	"fairlead.dev/fairlead/testutil"
)

// tailnet and tailnet/relay stand on one floor and do not know each other; this is
// where they meet without a server around them.
//
//	agent node -- shim --\                    /-- shim -- client node
//	                      WebSocket -- relay --

// relayHost is a relay that can be restarted on its address.
type relayHost struct {
	addr   string
	signer *relay.TokenSigner
	ended  chan relay.Event

	relay  *relay.Relay
	server *http.Server
	serve  sync.WaitGroup
}

func startRelayHost(t *testing.T) *relayHost {
	t.Helper()
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	h := &relayHost{addr: "127.0.0.1:0", signer: relay.NewTokenSigner(secret), ended: make(chan relay.Event, 256)}
	h.start(t)
	t.Cleanup(func() { h.stop(t) })
	return h
}

func (h *relayHost) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", h.addr)
	require.NoError(t, err)
	h.addr = l.Addr().String()
	h.relay = relay.New(relay.Config{
		Admit: h.signer.Admit,
		Witness: func(e relay.Event) {
			if e.Kind == relay.Ended {
				h.ended <- e
			}
		},
	})
	mux := http.NewServeMux()
	mux.Handle("/base/api/v1/relay", h.relay)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: site.Patience}
	h.serve.Go(func() { _ = h.server.Serve(l) })
}

func (h *relayHost) stop(t *testing.T) {
	t.Helper()
	h.relay.Close(context.WithoutCancel(t.Context()), disconnect.Goodbye{
		Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "restart",
	})
	require.NoError(t, h.server.Close())
	h.serve.Wait()
}

func (h *relayHost) node(t *testing.T, allow ...uint16) *tailnet.Node {
	t.Helper()
	key := tailnet.NewPrivateKey()
	dialer := tailnet.NewRelayDialer(&url.URL{Scheme: "http", Host: h.addr, Path: "/base"}, nil)
	dialer.SetToken(h.signer.Sign(relay.Claims{Node: key.Public(), Expires: time.Now().Add(time.Hour)}))
	logger, _ := testutil.NewLogRecorder(t)
	n, err := tailnet.NewNode(tailnet.Options{
		PrivateKey: key, Logger: logger, DialRelay: dialer.Dial, ForceRelay: true, AllowInbound: allow,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	n.SetDERPMap(&proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 1, Code: "here"}}}, "")
	return n
}

// echo serves one connection.
func echo(t *testing.T, n *tailnet.Node) {
	t.Helper()
	l, err := n.Listen(22)
	require.NoError(t, err)
	var serve sync.WaitGroup
	serve.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		c.Close()
	})
	t.Cleanup(func() {
		l.Close()
		serve.Wait()
	})
}

// roundTrip sends data and checks what comes back.
func roundTrip(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, bytes.NewReader(data))
		sent <- err
	}()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(site.Patience)))
	sum := sha256.New()
	_, err := io.CopyN(sum, c, int64(len(data)))
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.Equal(t, sha256.Sum256(data), [32]byte(sum.Sum(nil)))
}

func TestStreamSurvivesARestartOfTheRelay(t *testing.T) {
	h := startRelayHost(t)
	agent, client := h.node(t, 22), h.node(t)
	require.NoError(t, agent.UpsertPeer(client.Self()))
	require.NoError(t, client.UpsertPeer(agent.Self()))
	echo(t, agent)
	ctx, cancel := context.WithTimeout(t.Context(), site.Patience)
	defer cancel()
	c, err := client.DialTCP(ctx, agent.Key(), 22)
	require.NoError(t, err)
	defer c.Close()

	data := make([]byte, 4<<20)
	_, _ = rand.Read(data)
	roundTrip(t, c, data)
	require.Equal(t, tailnet.PathRelay, client.Path(agent.Key()).Kind)

	for range 2 {
		h.stop(t)
		for range 2 {
			e := <-h.ended
			require.Equal(t, disconnect.ServerShutdown, e.Ending.Reason, e.Ending.Detail)
		}
		// What is under way when the relay is gone gets there later.
		_, err = c.Write([]byte("sent into the gap"))
		require.NoError(t, err)
		gone := time.Now()
		h.start(t)
		back := make([]byte, len("sent into the gap"))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(site.Patience)))
		_, err = io.ReadFull(c, back)
		require.NoError(t, err)
		t.Logf("echo %s after the relay's return", time.Since(gone))
		roundTrip(t, c, data[:1<<20])
	}
}

func TestRelayTokenIsForOneNode(t *testing.T) {
	h := startRelayHost(t)
	victim := tailnet.NewPrivateKey().Public()
	thief := tailnet.NewPrivateKey()
	dialer := tailnet.NewRelayDialer(&url.URL{Scheme: "http", Host: h.addr, Path: "/base"}, nil)
	dialer.SetToken(h.signer.Sign(relay.Claims{Node: victim, Expires: time.Now().Add(time.Hour)}))
	n, err := tailnet.NewNode(tailnet.Options{PrivateKey: thief, DialRelay: dialer.Dial, ForceRelay: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Close()) }()
	n.SetDERPMap(&proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 1}}}, "")
	select {
	case e := <-h.ended:
		require.Equal(t, victim, e.Key)
		require.Equal(t, disconnect.AuthFailed, e.Ending.Reason)
		require.Equal(t, disconnect.Server, e.Ending.Initiator)
		require.False(t, h.relay.Connected(victim))
		require.False(t, h.relay.Connected(thief.Public()))
	case <-time.After(site.Patience):
		require.Fail(t, "the thief was not cut off")
	}
}
