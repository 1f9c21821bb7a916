package wsconn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

func dialError(t *testing.T, url string, opts DialOptions) *DialError {
	t.Helper()
	c, err := Dial(testContext(t), url, opts)
	require.Nil(t, c)
	var failed *DialError
	require.ErrorAs(t, err, &failed)
	return failed
}

func TestDialTLS(t *testing.T) {
	accepted := make(chan *Conn, 1)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, AcceptOptions{})
		if err == nil {
			accepted <- c
		}
	}))
	defer srv.Close()
	client, err := Dial(testContext(t), srv.URL, DialOptions{HTTPClient: srv.Client()})
	require.NoError(t, err)
	server := <-accepted
	require.Equal(t, client.LocalAddr().String(), server.RemoteAddr().String())
	go func() { _, _ = io.Copy(server, server) }()
	_, err = client.Write([]byte("over tls"))
	require.NoError(t, err)
	got := make([]byte, 8)
	_, err = io.ReadFull(client, got)
	require.NoError(t, err)
	require.NoError(t, client.CloseWith(4010, ""))
	<-server.readable.Done()
	require.Equal(t, 4010, server.Ending().Code)

	failed := dialError(t, srv.URL, DialOptions{}) // does not know the authority
	require.Zero(t, failed.Status)
	require.Equal(t, disconnect.TLSFailure, disconnect.Judge(failed, disconnect.ServerToAgent, disconnect.Agent).Reason)
}

func TestDialErrors(t *testing.T) {
	t.Run("refusal of ours", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			require.Equal(t, "Bearer wrong", r.Header.Get("Authorization"))
			ErrorHeader(w.Header(), disconnect.AuthFailed)
			http.Error(w, "unknown\x1b[31mtoken", http.StatusUnauthorized)
		})
		failed := dialError(t, srv.URL, DialOptions{Header: http.Header{"Authorization": {"Bearer wrong"}}})
		require.Equal(t, http.StatusUnauthorized, failed.Status)
		reason, ok := failed.Reason()
		require.True(t, ok)
		require.Equal(t, disconnect.AuthFailed, reason)
		require.Equal(t, "unknown [31mtoken", failed.Body)
		require.Equal(t, "open websocket: HTTP 401 Unauthorized: unknown [31mtoken", failed.Error())
	})
	t.Run("html instead of an upgrade", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>"+strings.Repeat("buy wifi ", 500))
		})
		failed := dialError(t, srv.URL, DialOptions{})
		require.Equal(t, http.StatusOK, failed.Status)
		_, ok := failed.Reason()
		require.False(t, ok)
		require.LessOrEqual(t, len(failed.Body), 256)
	})
	t.Run("redirects are not followed", func(t *testing.T) {
		elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the token went elsewhere") })
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		})
		failed := dialError(t, srv.URL, DialOptions{Header: http.Header{"Authorization": {"Bearer secret"}}})
		require.Equal(t, http.StatusFound, failed.Status)
		require.Equal(t, elsewhere.URL, failed.Header.Get("Location"))
	})
	t.Run("refused", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		failed := dialError(t, "http://"+listener.Addr().String(), DialOptions{})
		require.Zero(t, failed.Status)
		require.ErrorIs(t, failed, syscall.ECONNREFUSED)
	})
	for _, name := range []string{"not http", "not http and speaks first"} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer listener.Close()
			go func() {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				if name == "not http" {
					_, _ = c.Read(make([]byte, 4096))
				}
				_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
				_ = c.Close()
			}()
			failed := dialError(t, "http://"+listener.Addr().String(), DialOptions{})
			require.Zero(t, failed.Status)
			require.Equal(t, disconnect.ProtocolError, disconnect.Judge(failed, disconnect.ServerToAgent, disconnect.Agent).Reason, failed)
		})
	}
	t.Run("the cause of the context", func(t *testing.T) {
		why := errors.New("the user pressed a key")
		ctx, cancel := context.WithCancelCause(t.Context())
		srv := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel(why)
			<-r.Context().Done()
		})
		_, err := Dial(ctx, srv.URL, DialOptions{})
		require.ErrorIs(t, err, why)
	})
}

func TestSubprotocols(t *testing.T) {
	t.Run("none in common", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, err := Accept(w, r, AcceptOptions{Subprotocols: []string{"v2"}})
			require.ErrorIs(t, err, ErrSubprotocol)
		})
		failed := dialError(t, srv.URL, DialOptions{Subprotocols: []string{"v1"}})
		require.Equal(t, http.StatusUpgradeRequired, failed.Status)
		require.Equal(t, "32", failed.Header.Get(HTTPReason))
		require.Contains(t, failed.Body, "v2")
	})
	t.Run("server ignores the offer", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if c, err := Accept(w, r, AcceptOptions{}); err == nil {
				drain(t, c)
				_ = c.Close()
			}
		})
		failed := dialError(t, srv.URL, DialOptions{Subprotocols: []string{"v1"}})
		require.ErrorIs(t, failed, ErrSubprotocol)
		require.Equal(t, http.StatusSwitchingProtocols, failed.Status)
	})
}

func TestAcceptRefusesWhatIsNoUpgrade(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := Accept(w, r, AcceptOptions{Subprotocols: []string{"v1"}})
		require.Error(t, err)
	})
	for name, header := range map[string]http.Header{
		"plain request": {},
		"bad key": {
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"short"}, "Sec-Websocket-Protocol": {"v1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(testContext(t), http.MethodGet, srv.URL, nil)
			require.NoError(t, err)
			req.Header = header
			resp, err := srv.Client().Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.GreaterOrEqual(t, resp.StatusCode, 400)
			require.Equal(t, "60", resp.Header.Get(HTTPReason))
		})
	}
}
