package cluster

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
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

// TestAgentGauges looks at what an agent says of itself while a client comes, the
// server dies and returns, and the client goes.
func TestAgentGauges(t *testing.T) {
	t.Parallel()
	addr := site.FreeAddress(t)
	s := site.New(t, "--metrics-listen", addr)
	awaitGauges(t, addr, "control_link_up 1", "control_link_reconnects_total 0", `connections{type="ssh"} 0`, `peers{path="direct"} 0`)
	shell := s.Start("ssh", "dev", "--", "cat")
	awaitGauges(t, addr, `connections{type="ssh"} 1`, `peers{path="direct"} 1`, `peers{path="relay"} 0`)
	s.Server.Kill()
	awaitGauges(t, addr, "control_link_up 0", `connections{type="ssh"} 1`)
	s.StartServer()
	awaitGauges(t, addr, "control_link_up 1", "control_link_reconnects_total 1")
	shell.Signal(syscall.SIGTERM)
	awaitGauges(t, addr, `connections{type="ssh"} 0`)
}

// TestOpenConnectionsAfterARestart: what the server says is open is what is open, and what
// died with its former life is counted when it is back.
func TestOpenConnectionsAfterARestart(t *testing.T) {
	t.Parallel()
	addr := site.FreeAddress(t)
	s := site.Empty(t)
	s.StartServer("--metrics-listen", addr)
	s.Settle()
	s.StartAgent()
	awaitOpen(t, addr, "open", 0)
	shell := s.Start("ssh", "dev", "--", "cat")
	awaitOpen(t, addr, "open", 1)
	s.Server.Kill()
	s.StartServer("--metrics-listen", addr)
	awaitOpen(t, addr, "open", 1)
	awaitOpen(t, addr, "unheard", 0)
	text := scrape(t, addr)
	for _, leg := range []string{"server_to_agent", "client_to_server"} {
		require.Contains(t, text, "\n"+`fairlead_disconnects_total{connect_type="`+leg+`",expected="false",initiator="server",reason="peer_crashed"} 1`)
	}
	shell.Signal(syscall.SIGTERM)
	awaitOpen(t, addr, "open", 0)
}

// awaitOpen waits until the server at addr tells of so many sessions.
func awaitOpen(t *testing.T, addr, status string, want int) {
	t.Helper()
	site.Eventually(t, fmt.Sprintf("%d sessions %s", want, status), func() bool {
		sum := 0
		for line := range strings.Lines(scrape(t, addr)) {
			if strings.HasPrefix(line, `fairlead_connections_`+status+`{connect_type="agent_to_client"`) {
				n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
				require.NoError(t, err)
				sum += n
			}
		}
		return sum == want
	})
}

// TestMetricsOfUp: the one process counts what its server and its agent do.
func TestMetricsOfUp(t *testing.T) {
	t.Parallel()
	h, addr := site.NewHome(t), site.FreeAddress(t)
	up, _ := site.StartUp(h, "--metrics-listen", addr)
	awaitGauges(t, addr, "control_link_up 1", `connections{type="ssh"} 0`)
	require.Contains(t, scrape(t, addr), "\n"+`fairlead_control_links{kind="agent"} 1`)
	up.Stop()
}

// awaitGauges waits until the agent at addr gives these lines.
func awaitGauges(t *testing.T, addr string, lines ...string) {
	t.Helper()
	site.Eventually(t, strings.Join(lines, ", "), func() bool {
		text := scrape(t, addr)
		for _, line := range lines {
			if !strings.Contains(text, "\nfairlead_agent_"+line+"\n") {
				return false
			}
		}
		return true
	})
}
