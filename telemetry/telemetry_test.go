package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/telemetry"
	"fairlead.dev/fairlead/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clean takes every variable of the standard out of the environment, and exports without
// delay.
func clean(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_PROTOCOL",
		"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "OTEL_LOGS_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("OTEL_BLRP_SCHEDULE_DELAY", "10")
}

// exporting starts an exporter to c, which is closed at the end of the test.
func exporting(t *testing.T, c *testutil.Collector) (*telemetry.Exporter, *slog.Logger, *testutil.Recorder) {
	t.Helper()
	clean(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL())
	base, rec := testutil.NewLogRecorder(t)
	e := telemetry.Start(t.Context(), "fairlead-test", "v1", base)
	require.NotNil(t, e)
	t.Cleanup(func() { closeWithin(t, e, 10*time.Second) })
	return e, e.Logger(base), rec
}

// closeWithin closes e, which must not take much longer than it may.
func closeWithin(t *testing.T, e *telemetry.Exporter, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	begun := time.Now()
	e.Close(ctx)
	require.Less(t, time.Since(begun), d+5*time.Second)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 20*time.Second, 5*time.Millisecond)
}

func messages(rec *testutil.Recorder, part string) (n int) {
	for _, r := range rec.Records() {
		if strings.Contains(r.Message, part) {
			n++
		}
	}
	return n
}

func TestLogAndEvents(t *testing.T) {
	c := testutil.NewCollector(t)
	clean(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL()+"/")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
	var shown bytes.Buffer
	base := slog.New(slog.NewTextHandler(&shown, nil))
	e := telemetry.Start(t.Context(), "fairlead-test", "v1", base)
	e.Forget()
	log := e.Logger(base).With("role", "agent")
	ending := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent, Detail: "it is gone"}
	log.Debug("nobody sees this")
	ending.Log(t.Context(), log, "session ended", slog.Duration("duration", time.Second))
	at := time.Unix(1_800_000_000, 42000)
	e.Event(t.Context(), "fairlead.connection.closed", at, slog.LevelWarn, ending.Attr(), slog.String("type", "ssh"), slog.Int64("bytes_sent", 7))
	closeWithin(t, e, 10*time.Second)

	logs := c.Logs()
	require.Len(t, logs, 2)
	five := map[string]any{
		"connect_type": "agent_to_client", "disconnect_reason": "peer_crashed", "disconnect_expected": false,
		"disconnect_initiator": "agent", "disconnect_detail": "it is gone",
	}
	for _, l := range logs {
		require.Equal(t, "Bearer s3cret", l.Authority)
		require.Equal(t, "fairlead-test", l.Resource["service.name"])
		require.Equal(t, "v1", l.Resource["service.version"])
		require.Equal(t, "lab", l.Resource["deployment.environment.name"])
		require.NotContains(t, l.Resource, "process.command_args")
		require.Equal(t, "WARN", l.Severity)
		for key, value := range five {
			require.Equal(t, value, l.Attrs[key], key)
		}
	}
	require.Equal(t, "session ended", logs[0].Body)
	require.Equal(t, "agent", logs[0].Attrs["role"])
	require.Empty(t, logs[0].Event)
	require.Equal(t, "fairlead.connection.closed", logs[1].Event)
	require.True(t, at.Equal(logs[1].Time))
	require.Equal(t, int64(7), logs[1].Attrs["bytes_sent"])
	require.Equal(t, telemetry.Counts{Exported: 2}, e.Counts())
	require.Contains(t, shown.String(), "session ended")
	require.NotContains(t, shown.String(), "s3cret")
	require.NotContains(t, strings.Join(os.Environ(), " "), "s3cret", "a process that is started from now on inherits no secret")
}

func TestServiceNameOfTheEnvironmentWins(t *testing.T) {
	c := testutil.NewCollector(t)
	clean(t)
	t.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", c.URL()+"/v1/logs")
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	base, _ := testutil.NewLogRecorder(t)
	e := telemetry.Start(t.Context(), "fairlead-test", "v1", base)
	e.Logger(base).Info("hello")
	closeWithin(t, e, 10*time.Second)
	require.Len(t, c.Logs(), 1)
	require.Equal(t, "mine", c.Logs()[0].Resource["service.name"])
}

// TestOff: without a collector, or with a setting that cannot be obeyed, nothing is
// exported; the latter is said, once.
func TestOff(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		says string
	}{
		"no endpoint": {map[string]string{}, ""},
		"disabled":    {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"}, ""},
		"none":        {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_LOGS_EXPORTER": "none"}, ""},
		"console":     {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_LOGS_EXPORTER": "console"}, `OTEL_LOGS_EXPORTER is "console"`},
		"grpc":        {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"},
		"no URL":      {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "user:s3cret@collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			for key, value := range test.env {
				t.Setenv(key, value)
			}
			base, rec := testutil.NewLogRecorder(t)
			e := telemetry.Start(t.Context(), "fairlead-test", "v1", base)
			require.Nil(t, e)
			require.Same(t, base, e.Logger(base))
			e.Event(t.Context(), "x", time.Now(), slog.LevelInfo)
			e.Forget()
			require.Zero(t, e.Counts())
			e.Close(t.Context())
			if test.says == "" {
				require.Empty(t, rec.Records())
				return
			}
			require.Len(t, rec.Records(), 1)
			require.Contains(t, rec.Records()[0].Attrs["error"], test.says)
			require.NotContains(t, rec.Records()[0].Attrs["error"], "s3cret")
		})
	}
}

// TestBadHeadersAreNotShown: the SDK's own complaint repeats them.
func TestBadHeadersAreNotShown(t *testing.T) {
	c := testutil.NewCollector(t)
	clean(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL())
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "Bearer s3cret")
	base, rec := testutil.NewLogRecorder(t)
	e := telemetry.Start(t.Context(), "fairlead-test", "v1", base)
	closeWithin(t, e, 10*time.Second)
	require.Equal(t, 1, messages(rec, "a setting of the log's export was left out"))
	for _, r := range rec.Records() {
		for _, v := range r.Attrs {
			require.NotContains(t, v, "s3cret")
		}
	}
}

// TestCollectorAway: it is said once, nothing is lost that the queue holds, and once more
// when it is back.
func TestCollectorAway(t *testing.T) {
	c := testutil.NewCollector(t)
	c.Stop()
	e, log, rec := exporting(t, c)
	require.False(t, e.Logger(slog.New(slog.DiscardHandler)).Enabled(t.Context(), slog.LevelError), "what is not shown is not exported")
	for range 50 {
		log.Info("line")
	}
	eventually(t, func() bool { return messages(rec, "cannot export the log") == 1 })
	for range 50 {
		log.Info("line")
	}
	c.Restart(t)
	eventually(t, func() bool { return len(c.Logs()) == 100 && messages(rec, "exporting the log again") == 1 })
	require.Equal(t, 1, messages(rec, "cannot export the log"))
	eventually(t, func() bool { return e.Counts() == telemetry.Counts{Exported: 100} })
}

// TestCollectorRefuses: each batch is lost and counted, and it is said once.
func TestCollectorRefuses(t *testing.T) {
	c := testutil.NewCollector(t)
	c.Answer(http.StatusForbidden)
	e, log, rec := exporting(t, c)
	for i := range 3 {
		log.Info("line")
		eventually(t, func() bool { return e.Counts().Lost == uint64(i+1) })
	}
	require.Equal(t, 1, messages(rec, "cannot export the log"))
	c.Answer(0)
	log.Info("line")
	eventually(t, func() bool { return messages(rec, "exporting the log again") == 1 })
	require.Equal(t, telemetry.Counts{Exported: 1, Lost: 3}, e.Counts())
}

// TestCollectorHangs: the log goes on at its own speed, what waits is bounded, and a stop
// takes the time that it may.
func TestCollectorHangs(t *testing.T) {
	t.Setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "100")
	c := testutil.NewCollector(t)
	c.Hang(true)
	e, _, _ := exporting(t, c)
	log := e.Logger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	begun := time.Now()
	for range 10_000 {
		log.Info("line", "error", errors.New("x"))
	}
	require.Less(t, time.Since(begun), 5*time.Second)
	require.Equal(t, uint64(9_900), e.Counts().Lost)
	closeWithin(t, e, 100*time.Millisecond)
	require.Zero(t, e.Counts().Exported)
}
