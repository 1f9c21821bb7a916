package cluster

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

func TestCompletion(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	require.Equal(t, 0, s.Run("workspace", "create", "spare", "--token-file", s.Path("spare-token")).Code)

	t.Run("workspaces", func(t *testing.T) {
		for _, command := range []string{"ssh", "ping"} {
			require.Equal(t, "dev\tonline\nspare\tnever\n:4\n", s.Run("__complete", command, "").Stdout)
			require.Equal(t, "spare\n:4\n", s.Run("__completeNoDesc", command, "sp").Stdout)
			require.Equal(t, ":4\n", s.Run("__complete", command, "dev", "").Stdout, "there is one workspace")
		}
	})
	t.Run("flags", func(t *testing.T) {
		require.Equal(t, "table\njson\n:4\n", s.Run("__complete", "ls", "--output", "").Stdout)
		require.Equal(t, "member\nadmin\n:4\n", s.Run("__complete", "user", "role", "bob", "").Stdout)
		require.Equal(t, "default\t"+s.URL+"\n:4\n", s.Run("__complete", "ssh", "--profile", "").Stdout)
	})
	t.Run("commands", func(t *testing.T) {
		r := s.Run("__completeNoDesc", "")
		for _, command := range []string{"config-ssh", "ls", "ping", "ssh"} {
			require.Contains(t, r.Stdout, command+"\n")
		}
	})
	t.Run("what is in the way is not told", func(t *testing.T) {
		require.Equal(t, ":4\n", site.NewHome(t).Run("__complete", "ssh", "").Stdout, "no login")
		l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
		require.NoError(t, err)
		defer l.Close()
		h := site.NewHome(t)
		h.Setenv("FAIRLEAD_URL=http://"+l.Addr().String(), "FAIRLEAD_TOKEN=fl_x")
		r := h.Run("__complete", "ssh", "")
		require.Equal(t, ":4\n", r.Stdout)
		require.Equal(t, 0, r.Code)
	})
	t.Run("scripts", func(t *testing.T) {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			r := s.Run("completion", shell)
			require.Equal(t, 0, r.Code, r.Stderr)
			require.Contains(t, r.Stdout, "fairlead")
			require.Empty(t, r.Stderr)
			path, err := exec.LookPath(shell)
			if err != nil {
				continue // the syntax is checked where the shell is
			}
			checked := s.Execute(strings.NewReader(r.Stdout), path, "-n")
			require.Equal(t, site.Result{}, checked, shell)
		}
	})
}

// TestCompletionInBash presses the tab key in a real bash.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	s := site.New(t)
	script := s.Write("completion.bash", s.Run("completion", "bash").Stdout)
	// What bash-completion would provide: the words of the line.
	r := s.Execute(nil, bash, "--norc", "-c", `
		_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
		source "$1"
		COMP_WORDS=("$2" ssh d) COMP_CWORD=2 COMP_LINE="$2 ssh d" COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_KEY=9
		compopt() { :; }
		__start_fairlead
		printf '%s\n' "${COMPREPLY[@]}"`, "bash", script, site.Binary)
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Equal(t, "dev", strings.TrimSpace(r.Stdout), r.Stderr)
}
