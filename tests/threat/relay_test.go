package threat

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
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/tests/site"
)

// hostileRelay is a real relay behind a wire that somebody reads and damages.
type hostileRelay struct {
	addr   string
	signer *relay.TokenSigner

	mu   sync.Mutex // guards seen
	seen bytes.Buffer

	writes  atomic.Int64
	damaged atomic.Int64 // packets of which a bit was changed
}

func newHostileRelay(t *testing.T) *hostileRelay {
	t.Helper()
	h := &hostileRelay{signer: relay.NewTokenSigner([32]byte{7})}
	r := relay.New(relay.Config{Admit: h.signer.Admit})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("/api/v1/relay", r)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: site.Patience}
	var serve sync.WaitGroup
	serve.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		r.Close(context.Background(), disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server})
		require.NoError(t, srv.Close())
		serve.Wait()
	})
	return h
}

// tapped is a node's connection to the relay, as the relay's operator has it.
type tapped struct {
	net.Conn
	h *hostileRelay
}

func (c tapped) Write(p []byte) (int, error) {
	c.h.mu.Lock()
	c.h.seen.Write(p)
	c.h.mu.Unlock()
	// Each write is a frame of the relay protocol or more. Its last byte is the end of
	// a packet's authenticator.
	if len(p) > 1000 && c.h.writes.Add(1)%5 == 0 {
		c.h.damaged.Add(1)
		p = bytes.Clone(p)
		p[len(p)-1] ^= 1
	}
	return c.Conn.Write(p)
}

func (h *hostileRelay) node(t *testing.T, allow ...uint16) *tailnet.Node {
	t.Helper()
	key := tailnet.NewPrivateKey()
	dialer := tailnet.NewRelayDialer(&url.URL{Scheme: "http", Host: h.addr}, nil)
	dialer.SetToken(h.signer.Sign(relay.Claims{Node: key.Public(), Expires: time.Now().Add(time.Hour)}))
	n, err := tailnet.NewNode(tailnet.Options{
		PrivateKey: key, ForceRelay: true, AllowInbound: allow,
		DialRelay: func(ctx context.Context, region *proto.DERPRegion) (net.Conn, error) {
			c, err := dialer.Dial(ctx, region)
			if err != nil {
				return nil, err
			}
			return tapped{c, h}, nil
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	n.SetDERPMap(&proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 1, Code: "here"}}}, "")
	return n
}

// TestHostileRelay: a relay that records everything finds none of what was said, and
// one that changes bits changes nothing that arrives.
func TestHostileRelay(t *testing.T) {
	h := newHostileRelay(t)
	agent, client := h.node(t, 22), h.node(t)
	require.NoError(t, agent.UpsertPeer(client.Self()))
	require.NoError(t, client.UpsertPeer(agent.Self()))
	l, err := agent.Listen(22)
	require.NoError(t, err)
	var serve sync.WaitGroup
	serve.Go(func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), site.Patience)
	defer cancel()
	c, err := client.DialTCP(ctx, agent.Key(), 22)
	require.NoError(t, err)
	defer func() {
		c.Close()
		l.Close()
		serve.Wait()
	}()

	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	data := bytes.Repeat(secret, 1<<12) // 64 KiB
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	got := sha256.New()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(site.Patience)))
	_, err = io.CopyN(got, c, int64(len(data)))
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.Equal(t, sha256.Sum256(data), [32]byte(got.Sum(nil)))
	require.Equal(t, tailnet.PathRelay, client.Path(agent.Key()).Kind)

	h.mu.Lock()
	defer h.mu.Unlock()
	require.Greater(t, h.seen.Len(), 2*len(data), "the relay has seen all of it")
	require.NotContains(t, h.seen.String(), string(secret))
	require.Positive(t, h.damaged.Load(), "some of it was damaged on the way")
}
