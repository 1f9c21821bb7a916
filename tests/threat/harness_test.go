package threat

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/agent"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server"
	"fairlead.dev/fairlead/testutil"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logBuffer holds what somebody logs, as JSON lines.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// site is a real server with the admin "ada" and her workspace "dev".
type site struct {
	*server.Server
	dir        string
	userToken  string
	agentToken string
	log        *logBuffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), log: &logBuffer{}}
	var err error
	s.Server, err = server.New(t.Context(), server.Options{
		Listen: "127.0.0.1:0", StateDir: filepath.Join(s.dir, "server"), Local: true,
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(t, err)
	s.userToken, s.agentToken, err = s.EnsureLocal(t.Context(), "ada", "dev")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		require.NoError(t, s.Close(context.Background()))
		require.NoError(t, <-served)
		if t.Failed() {
			t.Logf("server:\n%s", s.log)
		}
	})
	return s
}

// startAgent starts the real agent of "dev" with its own, or another, state.
func (s *site) startAgent(t *testing.T, state string) *testutil.Recorder {
	t.Helper()
	logger, rec := testutil.NewLogRecorder(t)
	a, err := agent.New(agent.Options{AccessURL: s.URL(), Token: s.agentToken, StateDir: filepath.Join(s.dir, state), Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return rec
}

// workspace asks the server for "dev".
func (s *site) workspace(t *testing.T) sdk.Workspace {
	t.Helper()
	c, err := sdk.NewClient(s.URL().String(), s.userToken)
	require.NoError(t, err)
	defer c.Close()
	ws, err := c.Workspace(t.Context(), "dev")
	require.NoError(t, err)
	return ws
}

// link opens a control link as the agent does, for an attacker with its token.
func (s *site) link(t *testing.T, instance string) *control.Link {
	t.Helper()
	link, err := control.Dial(testutil.Context(t, patience), control.DialOptions{
		AccessURL: s.URL(), Token: s.agentToken, Instance: instance, Version: "hostile",
		ConnectType: disconnect.ServerToAgent, Self: disconnect.Agent, Peer: disconnect.Server,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent})
	})
	return link
}

func newInstance() string { return uuid.NewString() }
