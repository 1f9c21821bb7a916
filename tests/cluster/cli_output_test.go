package cluster

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestLogFile: server, agent and client log to files of their own mode, and keep what
// was there.
func TestLogFile(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	h.Write("up.log", "a line of before\n")
	require.NoError(t, os.Chmod(h.Path("up.log"), 0o640))
	up, _ := site.StartUp(h, "--log-file", h.Path("up.log"), "--log-level", "info")

	r := h.Run("ssh", "local", "--log-file", h.Path("ssh.log"), "--log-format", "json", "--", "exit 3")
	require.Equal(t, site.Result{Code: 3}, r, "the log is not on the terminal")
	info, err := os.Stat(h.Path("ssh.log"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for range 2 {
		h.Run("ssh", "local", "--log-file", h.Path("ssh.log"), "--log-format", "json", "--", "true")
	}
	log := site.NewOutput()
	_, _ = log.Write([]byte(read(t, h.Path("ssh.log"))))
	require.Len(t, log.Endings(t, "session ended"), 3, "each run appends, its ending has five fields")

	r = h.Run("ssh", "local", "--log-file", h.Path("no/such/dir"), "--", "true")
	require.Equal(t, 1, r.Code)
	require.Equal(t, "fairlead: open log file: open "+h.Path("no/such/dir")+": no such file or directory\n", r.Stderr)

	up.Stop()
	require.Empty(t, up.Stderr.String())
	text := read(t, h.Path("up.log"))
	require.True(t, strings.HasPrefix(text, "a line of before\n"))
	require.Contains(t, text, `"role":"server"`)
	require.Contains(t, text, `"role":"agent"`)
	info, err = os.Stat(h.Path("up.log"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm(), "whose file it was decides")
}

// TestOutputForPrograms: JSON alone on standard output, messages on standard error,
// and no question where nobody can answer.
func TestOutputForPrograms(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	for _, args := range [][]string{{"ls"}, {"version"}, {"whoami"}, {"user", "list"}, {"token", "list"}, {"ping", "--once", "dev"}} {
		r := s.Run(append(args, "--output", "json")...)
		require.Equal(t, 0, r.Code, "%q: %s", args, r.Stderr)
		require.Empty(t, r.Stderr, "%q", args)
		for line := range strings.Lines(r.Stdout) {
			require.True(t, json.Valid([]byte(line)), "%q: %s", args, line)
		}
		require.NotEmpty(t, r.Stdout, "%q", args)
	}

	t.Run("failures keep standard output empty", func(t *testing.T) {
		h := site.NewHome(t)
		for _, args := range [][]string{{"ls"}, {"whoami"}, {"ping", "dev"}} {
			r := h.Run(append(args, "-o", "json")...)
			require.Equal(t, 4, r.Code, "%q", args)
			require.Empty(t, r.Stdout, "%q", args)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), "%q: %s", args, r.Stderr)
		}
	})
	t.Run("no terminal, no question", func(t *testing.T) {
		r := site.NewHome(t).Run("login", s.URL)
		require.Equal(t, 2, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, "there is no terminal")
	})
	t.Run("no colour on a terminal", func(t *testing.T) {
		for _, args := range [][]string{{"ls"}, {"ping", "--once", "dev"}, {"--help"}, {"nope"}} {
			require.NotRegexp(t, regexp.MustCompile(`\x1b\[[0-9;]*m`), shown(t, s.Home.With(t), args...))
		}
	})
}

// shown runs a command on a terminal and returns all that it shows.
func shown(t *testing.T, h *site.Home, args ...string) string {
	t.Helper()
	term := h.OnTerminal(args...)
	term.Wait() // the code is not the question
	require.NotEmpty(t, term.Out.String())
	return term.Out.String()
}
