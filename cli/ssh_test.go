package cli

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRemoteCommandIsWhatTheShellSees: several arguments reach the remote command as
// they are, whatever they contain; a real shell is the judge.
func TestRemoteCommandIsWhatTheShellSees(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"printf", "%s|", "a b", "", "it's", `"q"`, "$HOME", "`id`", "a;b", "x\ny", "*", "~", "-n", "ünï", `\`},
		{"printf", "%s|", "plain", "a/b.c", "k=v", "user@host"},
	} {
		out, err := exec.Command("sh", "-c", remoteCommand(args)).Output()
		require.NoError(t, err)
		want := ""
		for _, arg := range args[2:] {
			want += arg + "|"
		}
		require.Equal(t, want, string(out))
	}
}

func TestOneArgumentIsACommandLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "echo $HOME; exit 7", remoteCommand([]string{"echo $HOME; exit 7"}))
	require.Empty(t, remoteCommand(nil))
}

func TestValidWorkspace(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"dev": true, "ada/dev": true, "0-x": true,
		"": false, "/": false, "ada/": false, "/dev": false, "a/b/c": false, "Dev": false, "-x": false, "../x": false, "d\x1b": false,
	} {
		require.Equal(t, want, validWorkspace(name), "%q", name)
	}
}
