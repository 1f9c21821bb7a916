package cluster

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestWorkspacePolicyBlocks: what an owner blocks is refused to our own client and to stock
// ones, who say why, and the log says the same; what they allow again works at once.
func TestWorkspacePolicyBlocks(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Must("config-ssh", "--ssh-config-file", s.Path(".ssh/config"))
	file := s.Write("file", "content")
	out := s.Must("workspace", "policy", "dev", "--file-transfer", "blocked", "--remote-forwarding", "blocked", "--accept-env", "LANG,LC_*")
	require.Contains(t, out, "file transfer:     blocked\nlocal forwarding:  allowed\nremote forwarding: blocked\naccepted env:      LANG,LC_*\n")

	const files = "policy_denied: file transfer is blocked by the workspace's policy"
	var r site.Result
	site.Eventually(t, "an agent that obeys", func() bool {
		r = s.Run("cp", file, "dev:"+s.Path("copy"))
		return r.Code != 0
	})
	require.Contains(t, r.Stderr, "file transfer is blocked by the workspace's policy")
	site.Eventually(t, "a row", func() bool {
		all := rows(s.Home, "--connect-type", "agent_to_client", "--reason", "policy_denied")
		return len(all) > 0 && all[0].words() == words{"agent_to_client", "policy_denied", "agent", true, "file transfer is blocked by the workspace's policy"}
	})
	if scp, err := exec.LookPath("scp"); err == nil {
		r := s.Execute(nil, scp, "-F", s.Path(".ssh/config"), file, "dev.fairlead:"+s.Path("copy"))
		require.NotZero(t, r.Code)
		require.Contains(t, r.Stderr, files)
	}
	require.NoFileExists(t, s.Path("copy"))
	r = s.Run("port-forward", "dev", "-R", "127.0.0.1:0:127.0.0.1:1")
	require.NotZero(t, r.Code)
	require.Contains(t, r.Stdout+r.Stderr, "remote forwarding is blocked by the workspace's policy")
	require.Equal(t, "ok\n", s.Must("ssh", "dev", "--", "echo", "ok"))

	s.Must("workspace", "policy", "dev", "--file-transfer", "allowed")
	site.Eventually(t, "an agent that obeys", func() bool { return s.Run("cp", file, "dev:"+s.Path("copy")).Code == 0 })
	require.FileExists(t, s.Path("copy"))
	require.NotZero(t, s.Run("workspace", "policy", "dev", "--file-transfer", "maybe").Code)
}
