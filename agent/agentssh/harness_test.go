//go:build unix

package agentssh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

const patience = 60 * time.Second

// TestMain gives login shells an empty home, so that no one's profile matters.
func TestMain(m *testing.M) {
	if at := os.Getenv(listenVariable); at != "" {
		listenForTest(at)
		return
	}
	home, err := os.MkdirTemp("", "agentssh-home-")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("HOME", home)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(home)
		os.Exit(code)
	}))
}

// ended is one call of the func that Track returned.
type ended struct {
	ID       string
	A        disconnect.Attribution
	ExitCode int
}

// tracker records what the agent would report.
type tracker struct {
	mu       sync.Mutex // guards all below
	sessions []agentssh.Session
	ends     []ended
}

func (tr *tracker) track(s agentssh.Session) (string, func(agentssh.Ended)) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.sessions = append(tr.sessions, s)
	id := fmt.Sprintf("connection-%d", len(tr.sessions))
	return id, func(e agentssh.Ended) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.ends = append(tr.ends, ended{id, e.Attribution, e.ExitCode})
	}
}

// host is a server on a loopback port, and what it logged and reported.
type host struct {
	*agentssh.Server
	tracker
	t    *testing.T
	key  ssh.Signer
	addr string
	rec  *testutil.Recorder
}

func newHost(t *testing.T, configure func(*agentssh.Config)) *host {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	logger, rec := testutil.NewLogRecorder(t)
	h := &host{t: t, key: key, rec: rec}
	cfg := agentssh.Config{
		Logger: logger, HostKey: key, Track: h.track, KillGrace: 10 * time.Second,
	}
	if configure != nil {
		configure(&cfg)
	}
	h.Server = agentssh.New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- h.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, h.Close(ctx, disconnect.Goodbye{
			Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "test is over",
		}))
		require.NoError(t, <-served)
		h.checkOnce()
	})
	return h
}

// closes reports whether a log line tells the end of a session.
func closes(message string) bool {
	switch message {
	case "ssh session closed", "reconnecting pty closed", "port forward closed", "jetbrains channel closed":
		return true
	}
	return false
}

// checkOnce proves that each session ended exactly once, in the log and for the
// tracker, with the same words.
func (h *host) checkOnce() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Len(h.t, h.ends, len(h.sessions), "one end per session")
	byID := make(map[string]ended)
	for _, e := range h.ends {
		require.NotContains(h.t, byID, e.ID, "ended twice")
		require.NotEqual(h.t, disconnect.Unknown, e.A.Reason)
		require.NotEmpty(h.t, e.A.Detail)
		byID[e.ID] = e
	}
	logged := 0
	for _, e := range h.rec.Endings() {
		if !closes(e.Message) {
			continue
		}
		logged++
		end, ok := byID[e.Attrs["connection_id"].(string)]
		require.True(h.t, ok, "logged and tracked")
		require.Equal(h.t, end.A, e.Attribution)
		require.Equal(h.t, end.ExitCode, exitCodeOf(e))
		require.Equal(h.t, disconnect.AgentToClient, e.Attribution.ConnectType)
	}
	require.Equal(h.t, len(h.ends), logged, "one log line per session")
}

// exitCodeOf is -1 for what has none, as a forward.
func exitCodeOf(e testutil.Ending) int {
	if code, ok := e.Attrs["exit_code"].(int64); ok {
		return int(code)
	}
	return -1
}

// ending waits until one session ended, and returns it.
func (h *host) ending() ended {
	h.t.Helper()
	return h.endings(1)[0]
}

// endings waits until n sessions ended.
func (h *host) endings(n int) []ended {
	h.t.Helper()
	seen := 0
	h.rec.WaitFor(testutil.Context(h.t, patience), func(e testutil.Ending) bool {
		if closes(e.Message) {
			seen++
		}
		return seen == n
	})
	var all []ended
	for _, e := range h.rec.Endings() {
		if closes(e.Message) {
			all = append(all, ended{e.Attrs["connection_id"].(string), e.Attribution, exitCodeOf(e)})
		}
	}
	return all
}

func (h *host) expect(r disconnect.Reason, i disconnect.Initiator, detail string, code int) {
	h.t.Helper()
	e := h.ending()
	require.Equal(h.t, r.String(), e.A.Reason.String(), "reason, with %s", e.A)
	require.Equal(h.t, i.String(), e.A.Initiator.String(), "initiator, with %s", e.A)
	require.Contains(h.t, e.A.Detail, detail)
	require.Equal(h.t, code, e.ExitCode)
}

// dial connects with the Go client and returns also the raw connection under it.
func (h *host) dial() (*ssh.Client, net.Conn) {
	h.t.Helper()
	raw, err := net.Dial("tcp", h.addr)
	require.NoError(h.t, err)
	return h.client(raw), raw
}

func (h *host) client(raw net.Conn) *ssh.Client {
	h.t.Helper()
	sc, channels, requests, err := ssh.NewClientConn(raw, h.addr, &ssh.ClientConfig{
		User: "someone", HostKeyCallback: ssh.FixedHostKey(h.key.PublicKey()), Timeout: patience,
	})
	require.NoError(h.t, err)
	client := ssh.NewClient(sc, channels, requests)
	h.t.Cleanup(func() {
		_ = client.Close()
		_ = client.Wait()
	})
	return client
}

// serveConn serves one connection, which wrap may change, and returns its other end.
func (h *host) serveConn(wrap func(net.Conn) net.Conn) (net.Conn, <-chan struct{}) {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(h.t, err)
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	require.NoError(h.t, err)
	theirs, err := l.Accept()
	require.NoError(h.t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		h.ServeConn(wrap(theirs))
	}()
	return ours, served
}

// session opens a session on a connection of its own.
func (h *host) session() (*ssh.Session, *ssh.Client, net.Conn) {
	h.t.Helper()
	client, raw := h.dial()
	s, err := client.NewSession()
	require.NoError(h.t, err)
	return s, client, raw
}

// lifeline is a FIFO that the session's processes hold open: its end proves that the
// last of them is gone.
type lifeline struct {
	path string
	gone chan struct{}
}

// newLifeline is inherited by whatever a shell runs after "exec 9>path".
func newLifeline(t *testing.T) *lifeline {
	t.Helper()
	dir := t.TempDir()
	l := &lifeline{path: filepath.Join(dir, "lifeline"), gone: make(chan struct{})}
	require.NoError(t, mkfifo(l.path))
	go func() {
		defer close(l.gone)
		f, err := os.Open(l.path) // until a writer opens it
		if err != nil {
			return
		}
		defer f.Close()
		buf := make([]byte, 64)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
		}
	}()
	return l
}

func (l *lifeline) wait(t *testing.T) {
	t.Helper()
	wait(t, l.gone, "processes of the session are still there")
}

func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatal(what)
		panic("unreachable")
	}
}
