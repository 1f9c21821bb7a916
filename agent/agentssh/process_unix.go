//go:build unix

package agentssh

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"fairlead.dev/fairlead/sshend"
)

// canSend reports whether name is a signal that this platform can send.
func canSend(name string) bool {
	_, ok := sshend.Signal(name)
	return ok
}

func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func statusOf(state *os.ProcessState) exitStatus {
	if state == nil {
		return exitStatus{code: 255} // Wait failed: someone else took the child's status
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return exitStatus{code: state.ExitCode()}
	}
	sig := ws.Signal()
	name := sshend.SignalName(sig)
	if name == "" {
		name = strconv.Itoa(int(sig))
	}
	return exitStatus{code: 128 + int(sig), signal: name, core: ws.CoreDump()}
}

func signalGroup(pid int, name string) error {
	sig, ok := sshend.Signal(name)
	if !ok {
		return errors.ErrUnsupported
	}
	return syscall.Kill(-pid, sig)
}

// groupAlive reports whether any process of the group is left.
func groupAlive(pid int) bool { return syscall.Kill(-pid, 0) != syscall.ESRCH }
