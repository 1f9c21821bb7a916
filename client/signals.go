package client

import (
	"os"
	"syscall"
)

// signals that SSH has names for (RFC 4254 section 6.10), and a few that it has not.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	"BUS": syscall.SIGBUS, "SYS": syscall.SIGSYS, "TRAP": syscall.SIGTRAP,
	"XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ,
}

// signalName returns the SSH name of a signal, or "".
func signalName(s os.Signal) string {
	for name, number := range signals {
		if s == number {
			return name
		}
	}
	return ""
}

// signalNumber returns the number of a signal by its SSH name; 0 when it is not
// known, so that 128 + it is still the code of a signal's ending.
func signalNumber(name string) int { return int(signals[name]) }
