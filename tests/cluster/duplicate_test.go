package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// secondAgent starts another agent with the same token and a copy of the first one's
// keys, as of a machine that was cloned.
func secondAgent(s *site.Site) *site.Process {
	s.T.Helper()
	require.NoError(s.T, os.CopyFS(s.Path("clone"), os.DirFS(s.Path("agent"))))
	for _, key := range []string{"clone/ssh_host_ed25519_key", "clone/node_key"} {
		require.NoError(s.T, os.Chmod(s.Path(key), 0o600)) // the copy has lost its mode
	}
	return s.Start("agent", s.URL, "--token-file", s.AgentToken, "--state-dir", s.Path("clone"), "--log-format", "json")
}

// TestTwoAgentsWithOneToken: the older one lives, is told, and stays away; its session
// ends for that reason.
func TestTwoAgentsWithOneToken(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	p := session(s.Home, "dev")
	secondAgent(s)
	require.Equal(t, 3, s.Agent.Wait())
	require.Contains(t, s.Agent.Stderr.String(), "fairlead: another agent took over this workspace")
	s.Agent.Ending("disconnected from server", "server_to_agent", "duplicate_agent", "server", false)
	s.Agent.Ending("ssh session closed", "agent_to_client", "duplicate_agent", "server", false)
	require.Equal(t, 255, p.Wait())
	require.Contains(t, p.Stderr.String(), "reason=duplicate_agent initiator=server expected=false")
	s.AwaitAgent("online")
	require.Equal(t, "hello\n", s.Must("ssh", "dev", "--", "echo hello"))
	require.Equal(t, 1, strings.Count(s.Server.Stderr.String(), "two with one token"), "they do not take turns")
}

// TestAgentThatDoesNotAnswer: an older agent that does not answer is gone.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Agent.Freeze()
	secondAgent(s)
	site.Eventually(t, "the older link's end", func() bool {
		for _, e := range s.Server.Stderr.Endings(t, "agent control link ended") {
			if e["disconnect_reason"] == "network_timeout" && e["disconnect_initiator"] == "network" {
				return true
			}
		}
		return false
	})
	s.AwaitAgent("online")
	require.Equal(t, "hello\n", s.Must("ssh", "dev", "--", "echo hello"))
	require.NotContains(t, s.Server.Stderr.String(), "two with one token")
}
