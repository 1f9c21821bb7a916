package testutil

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// fakeTB notes failures instead of failing.
type fakeTB struct {
	testing.TB
	errors []string
}

func (f *fakeTB) Helper()           {}
func (f *fakeTB) Output() io.Writer { return io.Discard }
func (f *fakeTB) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

var shutdown = disconnect.Attribution{
	ConnectType: disconnect.AgentToClient,
	Reason:      disconnect.ServerShutdown,
	Initiator:   disconnect.Agent,
	Detail:      "upgrade",
}

func TestRecorderKeepsWholeEndings(t *testing.T) {
	logger, rec := NewLogRecorder(t)
	logger.Info("ready")
	shutdown.Log(t.Context(), logger.With("peer", "p1"), "session closed", slog.Group("path", slog.String("kind", "direct")))

	require.Equal(t, []Ending{{
		Level:       slog.LevelInfo,
		Message:     "session closed",
		Attribution: shutdown,
		Expected:    true,
		Attrs:       map[string]any{"peer": "p1", "path.kind": "direct"},
	}}, rec.Endings())
	require.Len(t, rec.Records(), 2)
	require.Equal(t, "ready", rec.WaitForMessage(t.Context(), "ready").Message)
}

func TestRecorderFailsOnMalformedEndings(t *testing.T) {
	ctx := context.Background()
	for name, log := range map[string]func(*slog.Logger){
		"one field only":     func(l *slog.Logger) { l.Info("x", disconnect.KeyReason, "graceful") },
		"all twice":          func(l *slog.Logger) { shutdown.Log(ctx, l, "x", shutdown.Attr()) },
		"one repeated":       func(l *slog.Logger) { shutdown.Log(ctx, l, "x", slog.String(disconnect.KeyDetail, "again")) },
		"one repeated, With": func(l *slog.Logger) { shutdown.Log(ctx, l.With(disconnect.KeyDetail, "again"), "x") },
		"inside a group":     func(l *slog.Logger) { shutdown.Log(ctx, l.WithGroup("g"), "x") },
		"no connect type":    func(l *slog.Logger) { shutdown.On(0).Log(ctx, l, "x") },
		"number outside the set": func(l *slog.Logger) {
			disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: 99}.Log(ctx, l, "x")
		},
		"expected is wrong": func(l *slog.Logger) {
			l.Info("x", disconnect.KeyConnectType, "agent_to_client", disconnect.KeyReason, "graceful",
				disconnect.KeyExpected, false, disconnect.KeyInitiator, "agent", disconnect.KeyDetail, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake := &fakeTB{TB: t}
			logger, _ := NewLogRecorder(fake)
			log(logger)
			require.Len(t, fake.errors, 1)
		})
	}
}

func TestRecorderWaitsForAFutureEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, rec := NewLogRecorder(t)
		go func() {
			<-time.After(time.Minute)
			shutdown.Log(t.Context(), logger, "session closed")
		}()
		got := rec.WaitFor(Context(t, time.Hour), func(e Ending) bool {
			return e.Attribution.Reason == disconnect.ServerShutdown
		})
		require.Equal(t, "session closed", got.Message)
	})
}

func TestContextEndsWithACause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := Context(t, time.Second)
		<-ctx.Done()
		require.ErrorContains(t, context.Cause(ctx), "took longer than 1s")
	})
}
