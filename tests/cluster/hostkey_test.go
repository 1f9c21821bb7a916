package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHostKeyChange: an agent with another host key is refused until the owner allows
// it; clients that know the old key follow the owner's word, and nothing else.
func TestHostKeyChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	hello := func() result { return s.h.run("ssh", "dev", "--", "echo hello") }
	require.Equal(t, result{0, "hello\n", ""}, hello())
	known, err := os.ReadFile(s.h.path("config/known_hosts.json"))
	require.NoError(t, err)
	require.Contains(t, string(known), `"admin/dev": "ssh-ed25519 `)

	s.agent.signal(15)
	require.Equal(t, 0, s.agent.wait())
	require.NoError(t, os.RemoveAll(s.h.path("agent")))
	s.agent = s.h.start("agent", s.url, "--token-file", s.agentEnv, "--state-dir", s.h.path("agent"), "--log-format", "json")
	s.agent.stderr.awaitText(t, "registered with another SSH host key")
	require.Contains(t, hello().stderr, "the agent of workspace dev is offline")

	s.h.must("workspace", "rekey", "dev")
	s.awaitAgent("online")
	require.Equal(t, result{0, "hello\n", ""}, hello(), "the change is on record")
	changed, err := os.ReadFile(s.h.path("config/known_hosts.json"))
	require.NoError(t, err)
	require.NotEqual(t, known, changed)

	// A key that nobody allowed to change: what is known here is of an agent that never was.
	other := `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f`
	from := strings.Index(string(changed), "ssh-ed25519 ")
	to := from + strings.Index(string(changed[from:]), `"`)
	require.NoError(t, os.WriteFile(s.h.path("config/known_hosts.json"), []byte(string(changed[:from])+other+string(changed[to:])), 0o600))
	for _, args := range [][]string{{"ssh", "dev", "--", "echo hello"}, {"ssh", "--stdio", "dev"}} {
		r := s.h.run(args...)
		require.Equal(t, 255, r.code)
		require.Empty(t, r.stdout)
		require.Contains(t, r.stderr, "refuse to connect to workspace dev: its SSH host key is SHA256:")
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	}
	s.h.must("workspace", "forget", "dev")
	require.Equal(t, result{0, "hello\n", ""}, hello())

	s.h.write("config/known_hosts.json", "{")
	require.Contains(t, hello().stderr, "known_hosts.json is damaged")
}
