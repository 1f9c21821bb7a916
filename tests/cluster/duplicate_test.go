package cluster

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// secondAgent starts another agent with the same token and a copy of the first one's
// keys, as of a machine that was cloned.
func (s *site) secondAgent() *process {
	s.t.Helper()
	require.NoError(s.t, os.CopyFS(s.h.path("clone"), os.DirFS(s.h.path("agent"))))
	return s.h.start("agent", s.url, "--token-file", s.agentEnv, "--state-dir", s.h.path("clone"), "--log-format", "json")
}

// TestTwoAgentsWithOneToken: the older one lives, is told, and stays away; its session
// ends for that reason.
func TestTwoAgentsWithOneToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := session(s.h, "dev")
	s.secondAgent()
	require.Equal(t, 3, s.agent.wait())
	require.Contains(t, s.agent.stderr.String(), "fairlead: another agent took over this workspace")
	s.agent.ending("disconnected from server", "server_to_agent", "duplicate_agent", "server", false)
	s.agent.ending("ssh session closed", "agent_to_client", "duplicate_agent", "server", false)
	require.Equal(t, 255, p.wait())
	require.Contains(t, p.stderr.String(), "reason=duplicate_agent initiator=server expected=false")
	s.awaitAgent("online")
	require.Equal(t, "hello\n", s.h.must("ssh", "dev", "--", "echo hello"))
	require.Equal(t, 1, strings.Count(s.server.stderr.String(), "two agents with one token"), "they do not take turns")
}

// TestAgentThatDoesNotAnswer: an older agent that does not answer is gone.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.agent.signal(syscall.SIGSTOP)
	s.secondAgent()
	testEventually(t, "the older link's end", func() bool {
		for _, e := range s.server.stderr.endings(t, "agent control link ended") {
			if e["disconnect_reason"] == "network_timeout" && e["disconnect_initiator"] == "network" {
				return true
			}
		}
		return false
	})
	s.awaitAgent("online")
	require.Equal(t, "hello\n", s.h.must("ssh", "dev", "--", "echo hello"))
	require.NotContains(t, s.server.stderr.String(), "two agents with one token")
}
