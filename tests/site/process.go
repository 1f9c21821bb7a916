package site

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
)

// Process is a program that runs in the background.
type Process struct {
	T      T
	Cmd    *exec.Cmd
	Stdin  io.WriteCloser
	Stdout *Output
	Stderr *Output
	Done   <-chan struct{} // closed when the process has ended and its output is read
}

// Start runs fairlead in the background. Whatever still runs at the end of the test
// is killed, and a failed test shows what it said.
func (h *Home) Start(args ...string) *Process {
	h.T.Helper()
	return h.StartCommand(h.Command(context.Background(), args...))
}

// StartCommand is Start for any program.
func (h *Home) StartCommand(cmd *exec.Cmd) *Process {
	h.T.Helper()
	p := &Process{T: h.T, Cmd: h.command(cmd), Stdout: NewOutput(), Stderr: NewOutput()}
	var err error
	p.Stdin, err = cmd.StdinPipe()
	require.NoError(h.T, err)
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	require.NoError(h.T, cmd.Start())
	done := make(chan struct{})
	p.Done = done
	go func() {
		defer close(done)
		_ = cmd.Wait() // the code is read from ProcessState
		p.Stdout.end()
		p.Stderr.end()
	}()
	name := strings.Join(cmd.Args, " ")
	h.T.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if h.T.Failed() {
			h.T.Logf("%s: stdout:\n%s\nstderr:\n%s", name, p.Stdout, p.Stderr)
		}
		if strings.Contains(p.Stderr.String(), "DATA RACE") {
			h.T.Errorf("%s: data race:\n%s", name, p.Stderr)
		}
	})
	return p
}

// Signal sends sig to the process.
func (p *Process) Signal(sig syscall.Signal) {
	p.T.Helper()
	require.NoError(p.T, p.Cmd.Process.Signal(sig))
}

// Freeze stops the process where it is, as a machine that hangs, and waits until it
// stands still; SIGCONT lets it go on.
func (p *Process) Freeze() {
	p.T.Helper()
	freeze(p.T, p.Cmd.Process)
}

func freeze(t T, process *os.Process) {
	t.Helper()
	require.NoError(t, process.Signal(syscall.SIGSTOP))
	Eventually(t, "a process that stands still", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", process.Pid))
		require.NoError(t, err)
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil || !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return true
	})
}

// Wait returns the exit code; -1 when a signal ended the process.
func (p *Process) Wait() int {
	p.T.Helper()
	select {
	case <-p.Done:
	case <-time.After(Patience):
		fatalf(p.T, "%q did not end\nstdout: %s\nstderr: %s", p.Cmd.Args, p.Stdout, p.Stderr)
	}
	return p.Cmd.ProcessState.ExitCode()
}

// Kill ends the process as a crash does.
func (p *Process) Kill() {
	p.T.Helper()
	p.Signal(syscall.SIGKILL)
	p.Wait()
}

// Stop ends the process as its operator does; it must leave cleanly.
func (p *Process) Stop() {
	p.T.Helper()
	p.Signal(syscall.SIGTERM)
	require.Equal(p.T, 0, p.Wait(), p.Stderr)
}

// Ending waits for exactly one record with msg in the log and checks its words.
func (p *Process) Ending(msg, connectType, reason, initiator string, expected bool) map[string]any {
	p.T.Helper()
	p.Stderr.AwaitText(p.T, fmt.Sprintf("%q", msg))
	found := p.Stderr.Endings(p.T, msg)
	require.Len(p.T, found, 1, "%q", msg)
	got := found[0]
	require.Equal(p.T, []any{connectType, reason, initiator, expected},
		[]any{got["connect_type"], got["disconnect_reason"], got["disconnect_initiator"], got["disconnect_expected"]},
		"%q: %v", msg, got)
	return got
}
