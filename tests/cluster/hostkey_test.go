package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestHostKeyChange: an agent with another host key is refused until the owner allows
// it; clients that know the old key follow the owner's word, and nothing else.
func TestHostKeyChange(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	hello := func() site.Result { return s.Run("ssh", "dev", "--", "echo hello") }
	require.Equal(t, site.Result{Stdout: "hello\n"}, hello())
	known, err := os.ReadFile(s.Path("config/known_hosts.json"))
	require.NoError(t, err)
	require.Contains(t, string(known), `"admin/dev": "ssh-ed25519 `)

	s.Agent.Stop()
	require.NoError(t, os.RemoveAll(s.Path("agent")))
	s.Agent = s.Start("agent", s.URL, "--token-file", s.AgentToken, "--state-dir", s.Path("agent"), "--log-format", "json")
	s.Agent.Stderr.AwaitText(t, "registered with another SSH host key")
	require.Contains(t, hello().Stderr, "the agent of workspace dev is offline")

	s.Must("workspace", "rekey", "dev")
	s.AwaitAgent("online")
	require.Equal(t, site.Result{Stdout: "hello\n"}, hello(), "the change is on record")
	changed, err := os.ReadFile(s.Path("config/known_hosts.json"))
	require.NoError(t, err)
	require.NotEqual(t, known, changed)

	// A key that nobody allowed to change: what is known here is of an agent that never was.
	other := `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f`
	from := strings.Index(string(changed), "ssh-ed25519 ")
	to := from + strings.Index(string(changed[from:]), `"`)
	require.NoError(t, os.WriteFile(s.Path("config/known_hosts.json"), []byte(string(changed[:from])+other+string(changed[to:])), 0o600))
	for _, args := range [][]string{{"ssh", "dev", "--", "echo hello"}, {"ssh", "--stdio", "dev"}} {
		r := s.Run(args...)
		require.Equal(t, 255, r.Code)
		require.Empty(t, r.Stdout)
		require.Contains(t, r.Stderr, "refuse to connect to workspace dev: its SSH host key is SHA256:")
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
	}
	s.Must("workspace", "forget", "dev")
	require.Equal(t, site.Result{Stdout: "hello\n"}, hello())

	s.Write("config/known_hosts.json", "{")
	require.Contains(t, hello().Stderr, "known_hosts.json is damaged")
}
