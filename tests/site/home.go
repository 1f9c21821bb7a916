package site

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Home is one user's machine: its own configuration and state, nothing inherited.
type Home struct {
	T   T
	Dir string
	Env []string // of every process that starts here from now on
	// In makes the commands of a machine that is not this one; nil: it is.
	In func(ctx context.Context, name string, args ...string) *exec.Cmd
}

// NewHome returns an empty home that lasts as long as the test.
func NewHome(t T) *Home {
	t.Helper()
	h := &Home{T: t, Dir: t.TempDir()}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(strings.ToUpper(kv), "=")
		if !strings.HasPrefix(name, "FAIRLEAD_") && !strings.HasPrefix(name, "XDG_") && !strings.HasPrefix(name, "OTEL_") && !strings.HasSuffix(name, "_PROXY") {
			h.Env = append(h.Env, kv)
		}
	}
	// HISTFILE: a remote shell that hangs up would write its history while the directory
	// is removed. atexit_sleep_ms: the race runtime would sleep a second at each exit.
	h.Setenv("HOME="+h.Dir, "SHELL=/bin/sh", "HISTFILE=/dev/null", "FAIRLEAD_CONFIG_DIR="+h.Path("config"),
		"GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return h
}

// Setenv adds NAME=value to the environment; the last one of a name counts.
func (h *Home) Setenv(pairs ...string) { h.Env = append(h.Env[:len(h.Env):len(h.Env)], pairs...) }

// With is the same machine in a part of a test.
func (h *Home) With(t *testing.T) *Home {
	t.Helper()
	part := *h
	part.T = t
	return &part
}

// Path returns where a file of that name is, or would be.
func (h *Home) Path(name string) string { return filepath.Join(h.Dir, name) }

// Write makes a file that only its user can read, and returns its path.
func (h *Home) Write(name, content string) string {
	h.T.Helper()
	require.NoError(h.T, os.WriteFile(h.Path(name), []byte(content), 0o600))
	return h.Path(name)
}

// Result is what one finished command did.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Run executes fairlead to its end.
func (h *Home) Run(args ...string) Result {
	h.T.Helper()
	return h.Execute(nil, Binary, args...)
}

// RunWith is Run with something to read on standard input.
func (h *Home) RunWith(stdin io.Reader, args ...string) Result {
	h.T.Helper()
	return h.Execute(stdin, Binary, args...)
}

// Must runs fairlead and returns what it said on standard output; it must have worked.
func (h *Home) Must(args ...string) string {
	h.T.Helper()
	r := h.Run(args...)
	require.Equal(h.T, 0, r.Code, "%q: %s%s", args, r.Stdout, r.Stderr)
	return r.Stdout
}

// Execute runs any program to its end, which must come in twice the Patience.
func (h *Home) Execute(stdin io.Reader, name string, args ...string) Result {
	h.T.Helper()
	ctx, cancel := context.WithTimeout(h.T.Context(), 2*Patience)
	defer cancel()
	cmd := h.program(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		fatalf(h.T, "run %s %q: %v\n%s", name, args, err, errOut.String())
	}
	require.NoError(h.T, ctx.Err(), "%s %q did not end\nstdout: %s\nstderr: %s", name, args, out.String(), errOut.String())
	require.NotContains(h.T, errOut.String(), "DATA RACE")
	return Result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// Command returns a fairlead command of this home that has not been started.
func (h *Home) Command(ctx context.Context, args ...string) *exec.Cmd {
	return h.program(ctx, Binary, args...)
}

// program returns a command of any program that has not been started.
func (h *Home) program(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h.In != nil {
		return h.command(h.In(ctx, name, args...))
	}
	return h.command(exec.CommandContext(ctx, name, args...))
}

func (h *Home) command(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env, cmd.Dir = h.Env, h.Dir
	return cmd
}

func fatalf(t T, format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
	t.FailNow()
}

// AwaitRecords waits for this machine's records of a session and of its client's control
// link, which are both open. From then on the session's client can die and be missed.
func (h *Home) AwaitRecords() {
	h.T.Helper()
	Eventually(h.T, "the records of the open session and of the control link", func() bool {
		found, err := filepath.Glob(h.Path("config/sessions/*/*/journal"))
		require.NoError(h.T, err)
		var text string
		for _, name := range found {
			b, _ := os.ReadFile(name)
			text += string(b)
		}
		return strings.Contains(text, "open dev") && strings.Contains(text, "link")
	})
}
