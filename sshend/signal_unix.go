//go:build unix

package sshend

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// SignalName returns the name of a signal of this system, without SIG; "" for one that
// SSH does not carry.
func SignalName(s os.Signal) string {
	number, ok := s.(syscall.Signal)
	if !ok {
		return ""
	}
	name := strings.TrimPrefix(unix.SignalName(number), "SIG")
	if _, known := signals[name]; !known {
		return ""
	}
	return name
}

// Signal returns this system's signal of that name, if SSH carries it.
func Signal(name string) (syscall.Signal, bool) {
	if _, known := signals[name]; !known {
		return 0, false
	}
	number := unix.SignalNum("SIG" + name)
	return number, number != 0
}
