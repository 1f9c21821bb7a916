//go:build unix

package agentssh

import (
	"os"
	"strconv"
	"syscall"
)

// signalNames are the signals that have a name in RFC 4254 section 6.10, and those
// that a process may die of besides.
var signalNames = map[syscall.Signal]string{
	syscall.SIGABRT: "ABRT", syscall.SIGALRM: "ALRM", syscall.SIGFPE: "FPE", syscall.SIGHUP: "HUP",
	syscall.SIGILL: "ILL", syscall.SIGINT: "INT", syscall.SIGKILL: "KILL", syscall.SIGPIPE: "PIPE",
	syscall.SIGQUIT: "QUIT", syscall.SIGSEGV: "SEGV", syscall.SIGTERM: "TERM", syscall.SIGUSR1: "USR1",
	syscall.SIGUSR2: "USR2",
	syscall.SIGBUS:  "BUS", syscall.SIGTRAP: "TRAP", syscall.SIGSYS: "SYS", syscall.SIGXCPU: "XCPU",
	syscall.SIGXFSZ: "XFSZ", syscall.SIGVTALRM: "VTALRM", syscall.SIGPROF: "PROF", syscall.SIGCONT: "CONT",
}

var signalsByName = func() map[string]syscall.Signal {
	m := make(map[string]syscall.Signal, len(signalNames))
	for sig, name := range signalNames {
		m[name] = sig
	}
	return m
}()

// clientMaySend reports whether name is a signal that this platform can send.
func clientMaySend(name string) bool {
	_, ok := signalsByName[name]
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
	name, ok := signalNames[sig]
	if !ok {
		name = strconv.Itoa(int(sig))
	}
	return exitStatus{code: 128 + int(sig), signal: name, core: ws.CoreDump()}
}

func signalGroup(pid int, name string) error {
	return syscall.Kill(-pid, signalsByName[name])
}

// groupAlive reports whether any process of the group is left.
func groupAlive(pid int) bool { return syscall.Kill(-pid, 0) != syscall.ESRCH }
