package threat

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/agent"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server"
	"fairlead.dev/fairlead/tests/site"
	"fairlead.dev/fairlead/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target is a real server with the admin "ada" and her workspace "dev".
type target struct {
	*server.Server
	dir        string
	userToken  string
	agentToken string
	log        *site.Output // text, at level debug
}

func newTarget(t *testing.T) *target {
	t.Helper()
	s := &target{dir: t.TempDir(), log: site.NewOutput()}
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
func (s *target) startAgent(t *testing.T, state string) *testutil.Recorder {
	t.Helper()
	logger, rec := testutil.NewLogRecorder(t)
	a, err := agent.New(agent.Options{AccessURL: s.URL(), Token: s.agentToken, StateDir: filepath.Join(s.dir, state), Logger: logger})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return rec
}

// workspace asks the server for "dev".
func (s *target) workspace(t *testing.T) sdk.Workspace {
	t.Helper()
	c, err := sdk.NewClient(s.URL().String(), s.userToken)
	require.NoError(t, err)
	defer c.Close()
	ws, err := c.Workspace(t.Context(), "dev")
	require.NoError(t, err)
	return ws
}

// link opens a control link as the agent does, for an attacker with its token.
func (s *target) link(t *testing.T, instance string) *control.Link {
	t.Helper()
	link, err := control.Dial(testutil.Context(t, site.Patience), control.DialOptions{
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
