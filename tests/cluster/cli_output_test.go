package cluster

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// TestLogFile: server, agent and client log to files of their own mode, and keep what
// was there.
func TestLogFile(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.write("up.log", "a line of before\n")
	require.NoError(t, os.Chmod(h.path("up.log"), 0o640))
	up, _ := startUp(t, h, "--log-file", h.path("up.log"), "--log-level", "info")

	r := h.run("ssh", "local", "--log-file", h.path("ssh.log"), "--log-format", "json", "--", "exit 3")
	require.Equal(t, result{code: 3}, r, "the log is not on the terminal")
	info, err := os.Stat(h.path("ssh.log"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for range 2 {
		h.run("ssh", "local", "--log-file", h.path("ssh.log"), "--log-format", "json", "--", "true")
	}
	log := newOutput()
	_, _ = log.Write([]byte(read(t, h.path("ssh.log"))))
	require.Len(t, log.endings(t, "session ended"), 3, "each run appends, its ending has five fields")

	r = h.run("ssh", "local", "--log-file", h.path("no/such/dir"), "--", "true")
	require.Equal(t, 1, r.code)
	require.Equal(t, "fairlead: open log file: open "+h.path("no/such/dir")+": no such file or directory\n", r.stderr)

	up.signal(syscall.SIGTERM)
	require.Equal(t, 0, up.wait())
	require.Empty(t, up.stderr.String())
	text := read(t, h.path("up.log"))
	require.True(t, strings.HasPrefix(text, "a line of before\n"))
	require.Contains(t, text, `"role":"server"`)
	require.Contains(t, text, `"role":"agent"`)
	info, err = os.Stat(h.path("up.log"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm(), "whose file it was decides")
}

// TestOutputForPrograms: JSON alone on standard output, messages on standard error,
// and no question where nobody can answer.
func TestOutputForPrograms(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, args := range [][]string{{"ls"}, {"version"}, {"whoami"}, {"user", "list"}, {"token", "list"}, {"ping", "--once", "dev"}} {
		r := s.h.run(append(args, "--output", "json")...)
		require.Equal(t, 0, r.code, "%q: %s", args, r.stderr)
		require.Empty(t, r.stderr, "%q", args)
		for line := range strings.Lines(r.stdout) {
			require.True(t, json.Valid([]byte(line)), "%q: %s", args, line)
		}
		require.NotEmpty(t, r.stdout, "%q", args)
	}

	t.Run("failures keep standard output empty", func(t *testing.T) {
		h := newHome(t)
		for _, args := range [][]string{{"ls"}, {"whoami"}, {"ping", "dev"}} {
			r := h.run(append(args, "-o", "json")...)
			require.Equal(t, 4, r.code, "%q", args)
			require.Empty(t, r.stdout, "%q", args)
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), "%q: %s", args, r.stderr)
		}
	})
	t.Run("no terminal, no question", func(t *testing.T) {
		r := newHome(t).run("login", s.url)
		require.Equal(t, 2, r.code, r.stderr)
		require.Contains(t, r.stderr, "there is no terminal")
	})
	t.Run("no colour on a terminal", func(t *testing.T) {
		for _, args := range [][]string{{"ls"}, {"ping", "--once", "dev"}, {"--help"}, {"nope"}} {
			require.NotRegexp(t, regexp.MustCompile(`\x1b\[[0-9;]*m`), s.onTerminal(t, args...))
		}
	})
}

// onTerminal runs a command on a terminal and returns all that it shows.
func (s *site) onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(s.h.env, "TERM=xterm-256color")
	tty, err := pty.Start(cmd)
	require.NoError(t, err)
	defer tty.Close()
	shown, _ := io.ReadAll(tty) // ends with EIO when the command does
	_ = cmd.Wait()              // its code is not the question
	require.NotEmpty(t, shown)
	return string(shown)
}
