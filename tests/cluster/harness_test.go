package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// patience bounds anything that should happen soon on a loaded machine.
const patience = 60 * time.Second

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fairlead-cluster-")
	if err != nil {
		log.Fatal(err)
	}
	binary = filepath.Join(dir, "fairlead")
	build := exec.Command("go", "build", "-race", "-tags", "grpcnotrace", "-o", binary, "fairlead.dev/fairlead/cmd/fairlead")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		log.Fatalf("build the program under test: %v", err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// home is one user's machine: its own configuration and state, nothing inherited.
type home struct {
	t   *testing.T
	dir string
	env []string
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	h := &home{t: t, dir: dir}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "FAIRLEAD_") && !strings.HasPrefix(kv, "XDG_") {
			h.env = append(h.env, kv)
		}
	}
	// atexit_sleep_ms: the race runtime would otherwise sleep a second at each exit.
	h.env = append(h.env, "HOME="+dir, "SHELL=/bin/sh", "FAIRLEAD_CONFIG_DIR="+filepath.Join(dir, "config"),
		"GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return h
}

func (h *home) path(name string) string { return filepath.Join(h.dir, name) }

// write makes a file that only its user can read.
func (h *home) write(name, content string) string {
	h.t.Helper()
	require.NoError(h.t, os.WriteFile(h.path(name), []byte(content), 0o600))
	return h.path(name)
}

// result is what one finished command did.
type result struct {
	code           int
	stdout, stderr string
}

// run executes fairlead to its end.
func (h *home) run(args ...string) result { return h.runWith(nil, args...) }

func (h *home) runWith(stdin io.Reader, args ...string) result {
	h.t.Helper()
	return h.execute(stdin, binary, args...)
}

func (h *home) execute(stdin io.Reader, name string, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir, cmd.Stdin = h.env, h.dir, stdin
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("run %s %q: %v\n%s", name, args, err, errOut.String())
	}
	require.NoError(h.t, ctx.Err(), "%s %q did not end\nstdout: %s\nstderr: %s", name, args, out.String(), errOut.String())
	r := result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
	require.NotContains(h.t, r.stderr, "DATA RACE")
	return r
}

// process is a running fairlead.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *output
	stderr *output
	done   chan struct{} // closed when the process has ended and its output is read
}

// start runs fairlead in the background. Whatever still runs at the end of the test
// is killed, and a failed test shows what it said.
func (h *home) start(args ...string) *process {
	h.t.Helper()
	return h.startCommand(exec.Command(binary, args...))
}

func (h *home) startCommand(cmd *exec.Cmd) *process {
	h.t.Helper()
	cmd.Env, cmd.Dir = h.env, h.dir
	p := &process{t: h.t, cmd: cmd, stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	var err error
	p.stdin, err = cmd.StdinPipe()
	require.NoError(h.t, err)
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	require.NoError(h.t, cmd.Start())
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // the code is read from ProcessState
		p.stdout.close()
		p.stderr.close()
	}()
	name := strings.Join(cmd.Args[1:], " ")
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if h.t.Failed() {
			h.t.Logf("%s: stdout:\n%s\nstderr:\n%s", name, p.stdout, p.stderr)
		}
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			h.t.Errorf("%s: data race:\n%s", name, p.stderr)
		}
	})
	return p
}

// signal sends sig to the process.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(sig))
}

// wait returns the exit code; -1 when a signal ended the process.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%q did not end\nstdout: %s\nstderr: %s", p.cmd.Args, p.stdout, p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

// kill ends the process as a crash does.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.wait()
}

// output collects what a process writes and lets a test wait for a part of it.
type output struct {
	mu      sync.Mutex // guards data, closed and changed
	data    bytes.Buffer
	closed  bool
	changed chan struct{} // closed and renewed at every change
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data.Write(b)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// await returns once ok is satisfied by all that was written.
func (o *output) await(t *testing.T, what string, ok func(string) bool) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		o.mu.Lock()
		text, closed, changed := o.data.String(), o.closed, o.changed
		o.mu.Unlock()
		if ok(text) {
			return text
		}
		if closed {
			t.Fatalf("waiting for %s: the process ended with:\n%s", what, text)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waiting for %s: not seen in:\n%s", what, text)
		}
	}
}

// awaitText waits for a part of the output.
func (o *output) awaitText(t *testing.T, part string) string {
	t.Helper()
	return o.await(t, fmt.Sprintf("%q", part), func(s string) bool { return strings.Contains(s, part) })
}

// records parses a JSON log.
func (o *output) records(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	lines := bufio.NewScanner(strings.NewReader(o.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var record map[string]any
		if json.Unmarshal(lines.Bytes(), &record) == nil {
			all = append(all, record)
		}
	}
	return all
}

var endingKeys = []string{
	disconnect.KeyConnectType, disconnect.KeyReason, disconnect.KeyExpected,
	disconnect.KeyInitiator, disconnect.KeyDetail,
}

// endings returns the records with msg, each checked to have all five fields.
func (o *output) endings(t *testing.T, msg string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for _, record := range o.records(t) {
		if record["msg"] == msg {
			for _, key := range endingKeys {
				require.Contains(t, record, key, "%q without all five fields", msg)
			}
			found = append(found, record)
		}
	}
	return found
}

// ending waits for exactly one record with msg and checks its words.
func (p *process) ending(msg, connectType, reason, initiator string, expected bool) map[string]any {
	p.t.Helper()
	p.stderr.awaitText(p.t, fmt.Sprintf("%q", msg))
	found := p.stderr.endings(p.t, msg)
	require.Len(p.t, found, 1, "%q", msg)
	got := found[0]
	require.Equal(p.t, []any{connectType, reason, initiator, expected},
		[]any{got["connect_type"], got["disconnect_reason"], got["disconnect_initiator"], got["disconnect_expected"]},
		"%q: %v", msg, got)
	return got
}

func itoa(n int) string { return strconv.Itoa(n) }

func parseHex(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 16, 64)
	require.NoError(t, err)
	return n
}

// testEventually asks again until ok says yes. Each question is a process of its own
// or a look at collected output, so it needs no pause but a short one.
func testEventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waiting for %s: it did not happen", what)
		case <-tick.C:
		}
	}
}

// testWait waits for done.
func testWait(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waiting for %s: it did not happen", what)
	}
}
