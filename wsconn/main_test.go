package wsconn

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// serve starts a real HTTP server on loopback.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// pair returns the two ends of one WebSocket over a real TCP connection.
func pair(t *testing.T) (client, server *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, AcceptOptions{Subprotocols: []string{"test-v1"}})
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		accepted <- c
	})
	ctx, cancel := context.WithCancel(testContext(t))
	client, err := Dial(ctx, srv.URL, DialOptions{Subprotocols: []string{"test-v0", "test-v1"}})
	require.NoError(t, err)
	cancel() // must not matter any more
	server = <-accepted
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

// drain reads until the end and returns the ending and the error.
func drain(t *testing.T, c *Conn) (Ending, error) {
	t.Helper()
	buf := make([]byte, 512)
	for {
		if _, err := c.Read(buf); err != nil {
			return c.Ending(), err
		}
	}
}

func reset(t *testing.T, c *Conn) {
	t.Helper()
	tcp, ok := c.under.(*net.TCPConn)
	require.True(t, ok, "%T", c.under)
	require.NoError(t, tcp.SetLinger(0))
	require.NoError(t, tcp.Close())
}
