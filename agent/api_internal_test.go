package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/testutil"
)

// memoryListener accepts the ends of pipes, each from the address of its peer.
type memoryListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *memoryListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{} }

type memoryConn struct {
	net.Conn
	remote net.Addr
}

func (c memoryConn) RemoteAddr() net.Addr { return c.remote }

func (l *memoryListener) dial(peer string) net.Conn {
	here, there := net.Pipe()
	l.conns <- memoryConn{there, &net.TCPAddr{IP: net.ParseIP(peer), Port: 1}}
	return here
}

// serveTestAPI serves the API for dir until the test's bubble ends.
func serveTestAPI(t *testing.T, dir string) *memoryListener {
	t.Helper()
	l := newMemoryListener()
	ctx, cancel := context.WithCancel(context.Background())
	config := agentcontextconfig.NewAPI(func() string { return dir }, agentcontextconfig.Config{})
	srv := newAPIServer(ctx, config, slog.New(slog.DiscardHandler))
	var serve sync.WaitGroup
	serve.Go(func() { _ = srv.Serve(&peerLimit{Listener: l, open: map[netip.Addr]int{}}) })
	t.Cleanup(func() {
		cancel()
		require.NoError(t, srv.Close())
		serve.Wait()
	})
	return l
}

// ask sends one request as it stands, and returns the answer.
func ask(t *testing.T, c net.Conn, request string) (*http.Response, string) {
	t.Helper()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, request) // an answer may come before all of it is read
	}()
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	<-sent
	return answer, string(body)
}

func TestContextConfigOverHTTP(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "AGENTS.md"), []byte("a < b\n"), 0o600))
	synctest.Test(t, func(t *testing.T) {
		l := serveTestAPI(t, dir)
		for _, tc := range []struct {
			request string
			status  int
			code    string
		}{
			{"GET /api/v0/context-config", 200, ""},
			{"GET /api/v0/context-config?path=/etc/passwd", 200, ""},
			{"POST /api/v0/context-config", 405, sdk.CodeMethodNotAllowed},
			{"OPTIONS /api/v0/context-config", 405, sdk.CodeMethodNotAllowed},
			{"GET /", 404, sdk.CodeNotFound},
			{"GET /api/v0/context-config/../../../etc/passwd", 404, sdk.CodeNotFound},
			{"GET /etc/passwd", 404, sdk.CodeNotFound},
		} {
			c := l.dial("fd7a::1")
			answer, body := ask(t, c, tc.request+" HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
			require.NoError(t, c.Close())
			synctest.Wait()
			require.Equal(t, tc.status, answer.StatusCode, tc.request)
			require.Equal(t, "application/json", answer.Header.Get("Content-Type"))
			require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
			if tc.code != "" {
				var refused sdk.ErrorResponse
				require.NoError(t, json.Unmarshal([]byte(body), &refused), body)
				require.Equal(t, tc.code, refused.Error.Code)
				require.NotEmpty(t, refused.Error.Message)
				continue
			}
			var config proto.ContextConfig
			require.NoError(t, json.Unmarshal([]byte(body), &config), body)
			require.Equal(t, []proto.ContextPart{{Type: proto.ContextFile, Path: filepath.Join(dir, "AGENTS.md"), Content: "a < b\n"}}, config.Parts)
			require.Contains(t, body, `"skipped":[]`, "never null")
		}
	})
}

// TestContextConfigIsBounded: neither silence nor a slow reader nor many connections
// of one peer keep others from an answer.
func TestContextConfigIsBounded(t *testing.T) {
	t.Parallel()
	const request = "GET /api/v0/context-config HTTP/1.1\r\nHost: agent\r\n\r\n"
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "AGENTS.md"), []byte(strings.Repeat("x", 1<<16)), 0o600))
	synctest.Test(t, func(t *testing.T) {
		l := serveTestAPI(t, dir)
		begin := time.Now()
		var held []net.Conn
		for range maxAPIConns {
			c := l.dial("fd7a::1")
			_, err := io.WriteString(c, request) // and its answer is not read
			require.NoError(t, err)
			held = append(held, c)
		}
		synctest.Wait()
		_, err := io.WriteString(l.dial("fd7a::1"), request)
		require.ErrorIs(t, err, io.ErrClosedPipe, "one too many")

		other := l.dial("fd7a::2")
		answer, body := ask(t, other, request)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.Greater(t, len(body), 1<<16)
		require.Zero(t, time.Since(begin), "at once")
		_, err = other.Read(make([]byte, 1))
		require.Error(t, err, "an idle connection")
		require.Equal(t, apiIdle, time.Since(begin))

		for _, c := range held {
			_, err := io.Copy(io.Discard, c)
			require.NoError(t, err)
		}
		synctest.Wait()
		begin = time.Now()
		silent := l.dial("fd7a::1") // there is room again
		_, err = io.WriteString(silent, "GET /api")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, silent)
		require.NoError(t, err)
		require.Equal(t, apiReadTimeout, time.Since(begin))

		long := l.dial("fd7a::1")
		answer, _ = ask(t, long, "GET / HTTP/1.1\r\nHost: agent\r\nX: "+strings.Repeat("x", 2*maxAPIHeader)+"\r\n\r\n")
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, answer.StatusCode)
		require.NoError(t, long.Close())
	})
}

// TestContextOfAnAgentThatStops: a question on its way does not keep a stop waiting.
func TestContextOfAnAgentThatStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(testutil.Context(t, 10*time.Second))
	cancel()
	h := &apiHandler{config: agentcontextconfig.NewAPI(func() string { return "" }, agentcontextconfig.Config{}), reading: make(chan struct{})}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+proto.ContextConfigPath, nil)
	require.NoError(t, err)
	answer := &plainAnswer{header: http.Header{}}
	h.ServeHTTP(answer, request)
	require.Equal(t, http.StatusServiceUnavailable, answer.status)
	require.Contains(t, answer.String(), "the agent is stopping")
}

type plainAnswer struct {
	strings.Builder
	header http.Header
	status int
}

func (a *plainAnswer) Header() http.Header    { return a.header }
func (a *plainAnswer) WriteHeader(status int) { a.status = status }
