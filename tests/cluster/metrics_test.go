package cluster

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// scrape returns one process' metrics.
func scrape(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

// TestMetrics runs a session and a stranger's request past a server and an agent, and
// looks at what both counted.
func TestMetrics(t *testing.T) {
	t.Parallel()
	agentAddr, serverAddr := freeAddress(t), freeAddress(t)
	s := &site{t: t, h: newHome(t)}
	s.h.env = append(s.h.env, "FAIRLEAD_METRICS_LISTEN="+serverAddr)
	s.url = "http://" + freeAddress(t)
	s.startServer()
	require.Equal(t, 0, s.h.run("login", s.url, "--code", s.oneTimeCode()).code)
	s.agentEnv = s.h.path("agent-token")
	require.Equal(t, 0, s.h.run("workspace", "create", "dev", "--token-file", s.agentEnv).code)
	s.startAgent("--metrics-listen", agentAddr)
	require.Equal(t, 3, s.h.run("ssh", "dev", "--", "exit 3").code)
	resp, err := http.Get(s.url + "/api/v1/me")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	const ended = `fairlead_disconnects_total{connect_type="agent_to_client",expected="true",initiator="agent",reason="process_exited"} 1`
	testEventually(t, "the agent's count", func() bool { return strings.Contains(scrape(t, agentAddr), ended) })
	testEventually(t, "the server's count", func() bool {
		text := scrape(t, serverAddr)
		for _, line := range []string{
			ended, `fairlead_control_links{kind="agent"} 1`, `fairlead_control_links{kind="client"} 0`, "fairlead_relay_connections 1",
			`fairlead_disconnects_total{connect_type="client_to_server",`, `fairlead_relay_disconnects_total{connect_type="client_to_server",`,
			`fairlead_refused_requests_total{reason="auth_failed"} 1`,
		} {
			if !strings.Contains(text, "\n"+line) {
				return false
			}
		}
		return true
	})
}
