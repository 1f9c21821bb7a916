package metrics_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, addr net.Addr, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr.String() + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestMetrics(t *testing.T) {
	s := metrics.New("v1")
	s.Ended(disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent, Detail: "secret"}, "ssh", 30*time.Second)
	s.Ended(disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent}, "ssh", -time.Second)
	s.Ended(disconnect.Attribution{ConnectType: disconnect.ClientToServer}, metrics.TypeControl, time.Hour)
	s.Gauges("rooms", "Rooms.", []string{"floor", "side"}, func(emit func(float64, ...string)) {
		emit(2, "1", "left")
		emit(0, "1", "right")
	})
	s.Gauge("things", "Things.", map[string]string{"kind": "a"}, func() float64 { return 7 })
	s.Counters("refused", "Refused.", "reason")("auth_failed")
	l, err := metrics.Listen(t.Context(), "127.0.0.1:0", s, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	code, text := get(t, l.Addr(), "/metrics")
	require.Equal(t, http.StatusOK, code)
	for _, line := range []string{
		`fairlead_disconnects_total{connect_type="agent_to_client",expected="false",initiator="agent",reason="peer_crashed"} 2`,
		`fairlead_things{kind="a"} 7`, `fairlead_refused{reason="auth_failed"} 1`, `fairlead_build_info{version="v1"} 1`,
		`fairlead_rooms{floor="1",side="left"} 2`, `fairlead_rooms{floor="1",side="right"} 0`,
		`fairlead_disconnects_unknown_total{connect_type="client_to_server"} 1`, `fairlead_disconnects_unknown_total{connect_type="agent_to_client"} 0`,
		`fairlead_connection_duration_seconds_bucket{connect_type="agent_to_client",type="ssh",le="10"} 1`,
		`fairlead_connection_duration_seconds_bucket{connect_type="agent_to_client",type="ssh",le="60"} 2`,
		`fairlead_connection_duration_seconds_sum{connect_type="client_to_server",type="control"} 3600`,
		"go_goroutines ", "process_open_fds ",
	} {
		require.Contains(t, text, "\n"+line)
	}
	require.NotContains(t, text, "secret")
	code, text = get(t, l.Addr(), "/debug/pprof/goroutine?debug=1")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, text, "goroutine profile:")

	_, err = metrics.Listen(t.Context(), l.Addr().String(), s, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "cannot listen on "+l.Addr().String()+" for metrics")
	require.NoError(t, l.Close())
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err)
}

// TestProfilesAreForLoopback: what pprof shows is not for a network.
func TestProfilesAreForLoopback(t *testing.T) {
	l, err := metrics.Listen(t.Context(), "0.0.0.0:0", metrics.New("v1"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer l.Close()
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.Addr().(*net.TCPAddr).Port}
	code, _ := get(t, at, "/debug/pprof/")
	require.Equal(t, http.StatusNotFound, code)
	code, _ = get(t, at, "/metrics")
	require.Equal(t, http.StatusOK, code)
}

func TestNoMetricsCountNothing(t *testing.T) {
	var s *metrics.Set
	s.Ended(disconnect.Attribution{}, "", 0)
	s.Gauges("x", "", nil, nil)
	s.Gauge("x", "", nil, nil)
	s.Counter("x", "", nil)
	s.Counters("x", "", "y")("z")
	s.Endings("x", "")(disconnect.Attribution{})
	var l *metrics.Listener
	require.NoError(t, l.Close())
}
