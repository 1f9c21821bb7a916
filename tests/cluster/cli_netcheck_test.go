package cluster

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// netReport is the output of `fairlead netcheck --output json`.
type netReport struct {
	OK     bool
	Server struct {
		Reached bool
		Version string
		Latency float64 `json:"latency_ms"`
		Error   string
	}
	Proxy         string
	CaptivePortal string   `json:"captive_portal"`
	ClockOffset   *float64 `json:"clock_offset_ms"`
	ClockError    *float64 `json:"clock_error_ms"`
	UDP, NAT      string
	IPv4          string `json:"ipv4"`
	Relays        []struct {
		Code    string
		Home    bool
		STUN    bool    `json:"stun"`
		Latency float64 `json:"latency_ms"`
		UDP     float64 `json:"udp_latency_ms"`
		Error   string
	}
	Verdict, Explanation string
}

func netcheck(t *testing.T, h *site.Home, code int) netReport {
	t.Helper()
	r := h.Run("netcheck", "--output", "json")
	require.Equal(t, code, r.Code, r.Stdout+r.Stderr)
	require.Empty(t, r.Stderr)
	var report netReport
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &report), r.Stdout)
	return report
}

// TestNetcheck: a server with two relays of their own, one of which goes, and then the
// server itself.
func TestNetcheck(t *testing.T) {
	t.Parallel()
	s, a, b := relaySite(t)
	report := netcheck(t, s.Home, 0)
	require.True(t, report.OK)
	require.Equal(t, []any{true, "", "none", "works", "none", "direct"},
		[]any{report.Server.Reached, report.Proxy, report.CaptivePortal, report.UDP, report.NAT, report.Verdict})
	require.Less(t, max(-*report.ClockOffset, *report.ClockOffset), *report.ClockError+1000, "both clocks are one")
	require.Positive(t, report.Server.Latency)
	require.NotEmpty(t, report.Server.Version)
	require.True(t, strings.HasPrefix(report.IPv4, "127.0.0.1:"), report.IPv4)
	require.Len(t, report.Relays, 2)
	homes := 0
	for _, relay := range report.Relays {
		require.Empty(t, relay.Error)
		require.Positive(t, relay.Latency)
		require.Positive(t, relay.UDP)
		require.True(t, relay.STUN)
		if relay.Home {
			homes++
		}
	}
	require.Equal(t, 1, homes)

	text := s.Run("netcheck")
	require.Equal(t, 0, text.Code, text.Stderr)
	lines := strings.Split(strings.TrimSpace(text.Stdout), "\n")
	require.Contains(t, lines[len(lines)-1], "verdict   direct: workspaces can be reached")
	require.Equal(t, 2, strings.Count(text.Stdout, "\nrelay "))

	a.Kill()
	b.Kill()
	report = netcheck(t, s.Home, 1)
	require.Equal(t, []any{false, "no_relay", "unknown"}, []any{report.OK, report.Verdict, report.UDP})
	require.Contains(t, report.Relays[0].Error, "reason=connection_refused")

	s.Must("user", "create", "eve", "--token-file", s.Path("eve"))
	eve := site.NewHome(t)
	eve.Must("login", s.URL, "--token-file", s.Path("eve"))
	s.Must("user", "disable", "eve")
	require.Equal(t, "login_refused", netcheck(t, eve, 4).Verdict)

	s.Server.Stop()
	report = netcheck(t, s.Home, 1)
	require.Equal(t, []any{"no_server", "unknown", false}, []any{report.Verdict, report.CaptivePortal, report.Server.Reached})
	require.Contains(t, report.Explanation, "refuses connections")
}

// TestNetcheckMeetsAPortal: a login page answers in the server's place.
func TestNetcheckMeetsAPortal(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Redirect(w, &http.Request{}, "http://login.hotel.example/", http.StatusFound)
	}))
	t.Cleanup(page.Close)
	h := site.NewHome(t)
	h.Setenv("FAIRLEAD_URL="+page.URL, "FAIRLEAD_TOKEN=fl_x")
	report := netcheck(t, h, 1)
	require.Equal(t, []any{"captive_portal", "suspected"}, []any{report.Verdict, report.CaptivePortal})

	silent, err := net.Listen("tcp", "127.0.0.1:0") // a proxy that is none
	require.NoError(t, err)
	_ = silent.Close()
	h.Setenv("FAIRLEAD_URL=http://fairlead.test:80", "HTTP_PROXY=http://"+silent.Addr().String())
	report = netcheck(t, h, 1)
	require.Equal(t, []any{"no_server", "http://" + silent.Addr().String()}, []any{report.Verdict, report.Proxy})
	require.Contains(t, report.Server.Error, "through the proxy")
	require.Equal(t, 2, h.Run("netcheck", "extra").Code)
	require.Equal(t, 4, site.NewHome(t).Run("netcheck").Code)
}
