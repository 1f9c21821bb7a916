package cluster

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
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
	agentAddr, serverAddr := site.FreeAddress(t), site.FreeAddress(t)
	s := site.Empty(t)
	s.Setenv("FAIRLEAD_METRICS_LISTEN=" + serverAddr)
	s.StartServer()
	s.Settle()
	s.StartAgent("--metrics-listen", agentAddr)
	require.Equal(t, 3, s.Run("ssh", "dev", "--", "exit 3").Code)
	resp, err := http.Get(s.URL + "/api/v1/me")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	const ended = `fairlead_disconnects_total{connect_type="agent_to_client",expected="true",initiator="agent",reason="process_exited"} 1`
	site.Eventually(t, "the agent's count", func() bool { return strings.Contains(scrape(t, agentAddr), ended) })
	site.Eventually(t, "the server's count", func() bool {
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
