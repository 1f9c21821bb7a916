package cluster

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// TestStandstillIsAnInterruption: a client's process, and an agent's, stand still for a
// while. The session goes on, and its row says what that was.
func TestStandstillIsAnInterruption(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	sh := s.OpenShell("dev", "--log-file", s.Path("ssh.log"), "--log-level", "info")
	const standstill = 12 * time.Second
	awaitInterruptions := func(n int) (all []sdk.Interruption) {
		site.Eventually(t, "the interruption", func() bool {
			rows := connections(t, s.Home, "--connect-type", "agent_to_client")
			require.Len(t, rows, 1)
			require.NotEqual(t, "closed", rows[0].Status)
			all = rows[0].Interruptions
			return len(all) == n
		})
		return all
	}

	sh.Freeze()
	<-time.After(standstill)
	sh.Signal(syscall.SIGCONT)
	got := awaitInterruptions(1)[0]
	typesAgain(t, sh, "client-is-back")
	require.Equal(t, []any{"agent_to_client", "suspended", "client", true}, []any{got.ConnectType, got.Reason, got.Initiator, got.Expected}, got.Detail)
	require.InDelta(t, standstill.Seconds(), got.Seconds, 8)

	s.Agent.Freeze()
	<-time.After(standstill)
	s.Agent.Signal(syscall.SIGCONT)
	got = awaitInterruptions(2)[1]
	typesAgain(t, sh, "agent-is-back")
	require.Equal(t, []any{"host_paused", "agent", false}, []any{got.Reason, got.Initiator, got.Expected}, got.Detail)

	id := connections(t, s.Home, "--connect-type", "agent_to_client")[0].ID
	shown := s.Must("connections", "show", id)
	require.Contains(t, shown, "suspended by client, expected=true, the client's process stood still")
	require.Contains(t, shown, "host_paused by agent, expected=false, the agent's process stood still")
	require.Len(t, s.Agent.Stderr.Endings(t, "connection interrupted"), 2)
	require.Empty(t, s.Agent.Stderr.Endings(t, "ssh session closed"))
	require.Empty(t, connections(t, s.Home, "--connect-type", "agent_to_client", "--expected", "false"), "an interruption is no disconnect")
}

// typesAgain types until it is echoed: keys are not sent before the terminal shows that the
// silence is over.
func typesAgain(t *testing.T, sh *site.Terminal, word string) {
	t.Helper()
	site.Eventually(t, "the echo of "+word, func() bool {
		sh.Type("printf '<%s>\\n' " + word + "\r")
		return strings.Contains(sh.Out.String(), "<"+word+">")
	})
}

// TestServerTellsTheOutageLimit: an agent without a limit of its own has the server's.
func TestServerTellsTheOutageLimit(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer("--outage-limit", "3s")
	s.Settle()
	s.StartAgent()
	sh := s.OpenShell("dev")
	sh.Kill()
	ended := s.Agent.Ending("ssh session closed", "agent_to_client", "network_timeout", "network", false)
	require.Contains(t, ended["disconnect_detail"], "3s")
	r := s.Run("server", "--outage-limit", "25h", "--state-dir", s.Path("none"))
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, "24 hours")
}
