package cluster

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompletion(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Equal(t, 0, s.h.run("workspace", "create", "spare", "--token-file", s.h.path("spare-token")).code)

	t.Run("workspaces", func(t *testing.T) {
		for _, command := range []string{"ssh", "ping"} {
			require.Equal(t, "dev\tonline\nspare\tnever\n:4\n", s.h.run("__complete", command, "").stdout)
			require.Equal(t, "spare\n:4\n", s.h.run("__completeNoDesc", command, "sp").stdout)
			require.Equal(t, ":4\n", s.h.run("__complete", command, "dev", "").stdout, "there is one workspace")
		}
	})
	t.Run("flags", func(t *testing.T) {
		require.Equal(t, "table\njson\n:4\n", s.h.run("__complete", "ls", "--output", "").stdout)
		require.Equal(t, "default\t"+s.url+"\n:4\n", s.h.run("__complete", "ssh", "--profile", "").stdout)
	})
	t.Run("commands", func(t *testing.T) {
		r := s.h.run("__completeNoDesc", "")
		for _, command := range []string{"config-ssh", "ls", "ping", "ssh"} {
			require.Contains(t, r.stdout, command+"\n")
		}
	})
	t.Run("what is in the way is not told", func(t *testing.T) {
		require.Equal(t, ":4\n", newHome(t).run("__complete", "ssh", "").stdout, "no login")
		l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
		require.NoError(t, err)
		defer l.Close()
		h := newHome(t)
		h.env = append(h.env, "FAIRLEAD_URL=http://"+l.Addr().String(), "FAIRLEAD_TOKEN=fl_x")
		r := h.run("__complete", "ssh", "")
		require.Equal(t, ":4\n", r.stdout)
		require.Equal(t, 0, r.code)
	})
	t.Run("scripts", func(t *testing.T) {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			r := s.h.run("completion", shell)
			require.Equal(t, 0, r.code, r.stderr)
			require.Contains(t, r.stdout, "fairlead")
			require.Empty(t, r.stderr)
			path, err := exec.LookPath(shell)
			if err != nil {
				continue // the syntax is checked where the shell is
			}
			checked := s.h.execute(strings.NewReader(r.stdout), path, "-n")
			require.Equal(t, result{}, checked, shell)
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
	s := newSite(t)
	script := s.h.write("completion.bash", s.h.run("completion", "bash").stdout)
	// What bash-completion would provide: the words of the line.
	r := s.h.execute(nil, bash, "--norc", "-c", `
		_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
		source "$1"
		COMP_WORDS=("$2" ssh d) COMP_CWORD=2 COMP_LINE="$2 ssh d" COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_KEY=9
		compopt() { :; }
		__start_fairlead
		printf '%s\n' "${COMPREPLY[@]}"`, "bash", script, binary)
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, "dev", strings.TrimSpace(r.stdout), r.stderr)
}
