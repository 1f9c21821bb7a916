//go:build !unix

package agentssh

import (
	"errors"
	"os"
	"syscall"
)

func canSend(string) bool { return false }

func ownSession() *syscall.SysProcAttr { return nil }

func statusOf(state *os.ProcessState) exitStatus {
	if state == nil {
		return exitStatus{code: 255}
	}
	return exitStatus{code: state.ExitCode()}
}

// signalGroup can only kill, and only the leader.
func signalGroup(pid int, name string) error {
	if name != "KILL" && name != "HUP" {
		return errors.ErrUnsupported
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

func groupAlive(int) bool { return false }
