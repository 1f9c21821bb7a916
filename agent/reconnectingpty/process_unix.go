//go:build unix

package reconnectingpty

import "syscall"

// hangUp asks a process group to end; one that is stopped would not notice.
func hangUp(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGHUP)
	_ = syscall.Kill(-pid, syscall.SIGCONT)
}

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
