package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestWorkspaceSettings: sessions begin where and how their workspace says, which its
// owner may change while the agent is there or away, and nobody else.
func TestWorkspaceSettings(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	require.Equal(t, "directory: ~\nmotd file: none\n", s.Must("workspace", "set", "dev"))
	require.NoError(t, os.Mkdir(s.Path("app"), 0o700))
	put(t, s.Home, "app/AGENTS.md", "in the app")
	s.Write("motd", "welcome aboard\n")

	require.Equal(t, "directory: app\nmotd file: "+s.Path("motd")+"\nenv:       A=1=2\nenv:       B=\n",
		s.Must("workspace", "set", "dev", "--directory", "app", "--env", "A=1=2", "-e", "B=", "--motd-file", s.Path("motd")))
	begins := func(want string) {
		t.Helper()
		site.Eventually(t, "sessions that begin as set", func() bool {
			return s.Must("ssh", "dev", "--", `echo "$PWD,$A,${B-unset}"`) == want+"\n"
		})
	}
	begins(s.Path("app") + ",1=2,")
	s.OpenShell("dev").Out.AwaitText(t, "welcome aboard\r\n")
	require.Equal(t, "in the app", contextOf(t, s.Home, "dev").Parts[0].Content, "what coding agents are told follows")

	s.Agent.Stop()
	s.Must("workspace", "set", "dev", "--directory", "", "--unset-env", "B", "--motd-file", "")
	s.StartAgent()
	begins(s.Dir + ",1=2,unset")

	bob := s.NewUser("bob")
	require.Equal(t, 1, bob.Run("workspace", "set", "admin/dev").Code)
	s.Must("workspace", "share", "dev", "bob")
	require.Contains(t, bob.Must("workspace", "set", "admin/dev"), "A=1=2")
	require.Equal(t, 1, bob.Run("workspace", "set", "admin/dev", "--env", "A=3").Code)
	for _, args := range [][]string{{"--env", "A"}, {"--env", "A-B=1"}, {"--motd-file", "etc/motd"}, {"--directory", "a\x1b[2J"}, {"--env", "A=" + strings.Repeat("x", 40000)}} {
		r := s.Run(append([]string{"workspace", "set", "dev"}, args...)...)
		require.Equal(t, 2, r.Code, "%.20q: %s", args, r.Stderr)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
	}
	onServer := s.With(t)
	onServer.Setenv("FAIRLEAD_DIRECTORY=app", "FAIRLEAD_ENV=C=1")
	require.Equal(t, "directory: ~\nmotd file: none\nenv:       A=1=2\n", onServer.Must("workspace", "set", "dev"), "variables change no workspace")
}
