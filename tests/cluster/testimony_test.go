package cluster

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// verdictOf returns a row with its verdict, which say the same.
func verdictOf(t *testing.T, h *site.Home, id string) (row sdk.Connection, v verdict.Verdict) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(h.Must("connections", "show", id, "--output", "json")), &row))
	require.NotEmpty(t, row.Verdict)
	text, err := json.Marshal(row.Verdict)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	require.Equal(t, *row.Reason, v.Reason.String())
	require.Equal(t, *row.Initiator, v.Initiator.String())
	require.Equal(t, *row.Detail, v.Detail)
	return row, v
}

// TestTestimonies: what parties testify of an end is on the row, with its evidence.
func TestTestimonies(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	require.Equal(t, 3, s.Run("ssh", "dev", "--", "exit 3").Code)
	rows := awaitClosed(t, s.Home, 1)
	_, v := verdictOf(t, s.Home, rows[0].ID)
	require.Equal(t, verdict.R1, v.Rule)
	require.Equal(t, verdict.ProcessExit, v.Used[0].Fact.Kind)
	require.EqualValues(t, 3, *v.ExitCode)

	require.Equal(t, 137, s.Run("ssh", "dev", "--", "kill -9 $$").Code)
	rows = awaitClosed(t, s.Home, 2)
	_, v = verdictOf(t, s.Home, rows[0].ID)
	require.Equal(t, verdict.R1, v.Rule)
	require.Equal(t, "process_signaled", v.Reason.String())
	require.Equal(t, "KILL", v.ExitSignal)

	sh := s.OpenShell("dev", "--outage-limit", "120s")
	s.Agent.Kill()
	// The kernel closes its socket, or resets it if there was something to read.
	s.Server.Stderr.AwaitText(t, `"agent control link ended"`)
	s.StartAgent()
	require.Equal(t, 255, sh.Wait())
	rows = awaitClosed(t, s.Home, 3)
	_, v = verdictOf(t, s.Home, rows[0].ID)
	require.Equal(t, "peer_crashed", v.Reason.String())
	require.Equal(t, "agent", v.Initiator.String())
	require.Equal(t, verdict.R3, v.Rule)
	require.Equal(t, "agent", v.Locus)
	kinds := map[verdict.FactKind]bool{}
	for _, item := range append(v.Used, v.Kept...) {
		kinds[item.Fact.Kind] = true
	}
	require.True(t, kinds[verdict.Obituary], "the agent's journal")
	require.True(t, kinds[verdict.SocketClosed] || kinds[verdict.SocketReset], "the server saw its kernel clean up")
	site.Eventually(t, "the session and the agent's link were lost together", func() bool {
		row, _ := verdictOf(t, s.Home, rows[0].ID)
		return row.Incident != nil && row.Incident.Element == sdk.IncidentElement{Kind: "agent", Name: "admin/dev"} &&
			row.Incident.Reason == "peer_crashed" && len(row.Incident.Connections) == 2
	})
	require.Contains(t, s.Must("why", rows[0].ID), "1 other connection was lost by the same event; all needed the agent of admin/dev")

	s.Server.Kill()
	s.StartServer()
	links := connections(t, s.Home, "--connect-type", "server_to_agent", "--reason", "peer_crashed", "--initiator", "server")
	require.NotEmpty(t, links)
	_, v = verdictOf(t, s.Home, links[0].ID)
	require.Equal(t, verdict.R3, v.Rule)
	require.Equal(t, verdict.Obituary, v.Used[0].Fact.Kind)
}

// TestClientsObituary: a client that was killed is reported by the next command on its
// machine, and the agent's silence gets its name.
func TestClientsObituary(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--outage-limit", "3s")
	sh := s.OpenShell("dev")
	s.AwaitRecords()
	sh.Kill()
	s.Agent.Ending("ssh session closed", "agent_to_client", "network_timeout", "network", false)
	var rows []sdk.Connection
	var row sdk.Connection
	var v verdict.Verdict
	site.Eventually(t, "the client's word", func() bool {
		rows = awaitClosed(t, s.Home, 1)
		row, v = verdictOf(t, s.Home, rows[0].ID)
		return slices.ContainsFunc(v.Used, func(i verdict.Item) bool { return i.Fact.Kind == verdict.Obituary })
	})
	require.Equal(t, "peer_crashed", *row.Reason)
	require.Equal(t, "client", *row.Initiator)
	require.LessOrEqual(t, row.Revision, 1) // 0 if the client spoke before the agent
	require.Equal(t, verdict.R3, v.Rule)
	var links []sdk.Connection
	site.Eventually(t, "its control link died with it", func() bool {
		links = connections(t, s.Home, "--connect-type", "client_to_server", "--reason", "peer_crashed", "--initiator", "client")
		return len(links) == 1
	})
	_, v = verdictOf(t, s.Home, links[0].ID)
	require.Equal(t, verdict.R3, v.Rule)
	site.Eventually(t, "no need to ask further: the verdicts are final", func() bool {
		s.Must("connections")
		left, err := filepath.Glob(s.Path("config/sessions/*/*-*-*-*-*"))
		require.NoError(t, err)
		return len(left) == 0
	})

	site.Eventually(t, "both records end the same", func() bool {
		corrections := s.Agent.Stderr.Endings(t, "ending corrected by the server's verdict")
		if len(corrections) == 0 {
			return false
		}
		last := corrections[len(corrections)-1] // before the client spoke, the server had only what its kernel did
		require.Equal(t, rows[0].ID, last["connection_id"])
		return last["disconnect_reason"] == "peer_crashed" && last["disconnect_detail"] == *row.Detail
	})

	// A client that lives tells by itself.
	sh = s.OpenShell("dev")
	sh.Type("\r~.")
	require.Equal(t, 255, sh.Wait())
	rows = awaitClosed(t, s.Home, 2)
	_, v = verdictOf(t, s.Home, rows[0].ID)
	require.Equal(t, "client_closed", v.Reason.String())
	site.Eventually(t, "both ends' words", func() bool {
		_, v := verdictOf(t, s.Home, rows[0].ID)
		return len(v.Waiting) == 0 && v.Final
	})
}

// TestStdioObituary: a `fairlead ssh --stdio` that was killed is reported too, and one
// whose ssh was killed says so by itself.
func TestStdioObituary(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--outage-limit", "3s")
	proxy := s.Write("proxy", "echo $$ >"+s.Path("pid")+"; exec "+site.Binary+" ssh --stdio dev")
	stock := func() *site.Process {
		cmd := exec.Command("ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+s.Path("known_hosts"),
			"-o", "ProxyCommand=sh "+proxy, "dev", "echo up; exec sleep 300")
		p := s.StartCommand(cmd)
		p.Stdout.AwaitText(t, "up")
		s.AwaitRecords()
		return p
	}
	ssh := stock()
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, s.Path("pid"))))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	ssh.Wait()
	var rows []sdk.Connection
	site.Eventually(t, "the client's word", func() bool {
		rows = awaitClosed(t, s.Home, 1)
		return *rows[0].Reason == "peer_crashed"
	})
	_, v := verdictOf(t, s.Home, rows[0].ID)
	require.Equal(t, verdict.Obituary, v.Used[0].Fact.Kind)
	require.Equal(t, "client", v.Initiator.String())

	ssh = stock()
	ssh.Kill()
	site.Eventually(t, "both ends' words", func() bool {
		rows = awaitClosed(t, s.Home, 2)
		_, v = verdictOf(t, s.Home, rows[0].ID)
		return v.Final
	})
	require.Equal(t, "peer_crashed", v.Reason.String())
	require.Equal(t, "client", v.Initiator.String())
	require.Equal(t, verdict.ParentKilled, v.Used[0].Fact.Kind)
}

// TestProvisionalSentence: an unexpected end is told at once in plain language, and the
// next command says what turned out to be wrong, once.
func TestProvisionalSentence(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--outage-limit", "120s")
	sh := s.OpenShell("dev", "--outage-limit", "5s")
	s.AwaitRecords() // from now on the client knows the connection's id
	s.Agent.Freeze()
	require.Equal(t, 255, sh.Wait())
	require.Contains(t, sh.Out.String(), "reason=network_timeout")
	require.Contains(t, sh.Out.String(), "This is provisional")
	rows := connections(t, s.Home, "--connect-type", "agent_to_client")
	require.Len(t, rows, 1)
	s.Agent.Signal(syscall.SIGCONT)
	var said []string
	site.Eventually(t, "the correction", func() bool {
		r := s.Run("connections")
		if strings.Contains(r.Stderr, "it is known better now why the session with dev ended") {
			said = append(said, r.Stderr)
		}
		return len(said) > 0
	})
	require.Equal(t, 1, strings.Count(said[0], "\n"), said[0])
	require.Empty(t, s.Run("connections").Stderr, "it is said once")
}
