package site

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/pty"
)

// Terminal is a fairlead command on a terminal.
type Terminal struct {
	TTY pty.PTY
	Out *Output // all that the terminal shows

	t    T
	cmd  *exec.Cmd
	done chan struct{} // closed when the command has ended and its output is read
}

// OnTerminal starts fairlead on a terminal of 80x24.
func (h *Home) OnTerminal(args ...string) *Terminal {
	h.T.Helper()
	cmd := h.Command(h.T.Context(), args...)
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "TERM=xterm-256color", "PS1=$ ")
	tty, err := pty.Open()
	require.NoError(h.T, err)
	require.NoError(h.T, tty.Resize(pty.Size{Cols: 80, Rows: 24}))
	require.NoError(h.T, tty.Start(cmd))
	term := &Terminal{TTY: tty, Out: NewOutput(), t: h.T, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(term.done)
		_, _ = io.Copy(term.Out, tty) // ends when the command has gone
		_ = cmd.Wait()                // the code is read from ProcessState
		term.Out.end()
	}()
	h.T.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = tty.Close()
		<-term.done
		if h.T.Failed() {
			h.T.Logf("terminal:\n%q", term.Out.String())
		}
	})
	return term
}

// OpenShell runs `fairlead ssh` on a terminal and waits for the remote shell.
func (h *Home) OpenShell(workspace string, args ...string) *Terminal {
	h.T.Helper()
	term := h.OnTerminal(append([]string{"ssh", workspace}, args...)...)
	term.Echo("ready")
	return term
}

// Kill ends the command as a crash does.
func (term *Terminal) Kill() {
	term.t.Helper()
	require.NoError(term.t, term.cmd.Process.Kill())
	term.Wait()
}

// Freeze stops the command where it is, and waits until it stands still.
func (term *Terminal) Freeze() {
	term.t.Helper()
	freeze(term.t, term.cmd.Process)
}

// Signal sends sig to the command.
func (term *Terminal) Signal(sig syscall.Signal) {
	term.t.Helper()
	require.NoError(term.t, term.cmd.Process.Signal(sig))
}

// Type presses keys.
func (term *Terminal) Type(keys string) {
	term.t.Helper()
	_, err := io.WriteString(term.TTY, keys)
	require.NoError(term.t, err)
}

// Echo has the remote shell compute a word that the echo of what was typed does not
// contain.
func (term *Terminal) Echo(word string) {
	term.t.Helper()
	term.Type(fmt.Sprintf("printf '<%%s>\\n' %s\r", word))
	term.Out.AwaitText(term.t, "<"+word+">")
}

// Wait returns the command's exit code; -1 when a signal ended it.
func (term *Terminal) Wait() int {
	term.t.Helper()
	select {
	case <-term.done:
	case <-time.After(Patience):
		fatalf(term.t, "%q did not end", term.cmd.Args)
	}
	return term.cmd.ProcessState.ExitCode()
}
