//go:build unix

package sshend_test

import (
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sshend"
)

// TestSignals: names and numbers are those of this system.
func TestSignals(t *testing.T) {
	for _, name := range []string{
		"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2",
		"BUS", "TRAP", "SYS", "XCPU", "XFSZ", "VTALRM", "PROF", "CONT",
	} {
		s, ok := sshend.Signal(name)
		require.True(t, ok, name)
		require.Equal(t, name, sshend.SignalName(s))
		if runtime.GOOS == "linux" {
			require.Equal(t, int(s), sshend.SignalNumber(name), name)
		}
	}
	for _, name := range []string{"WINCH", "STOP", "SIGTERM", "term", ""} {
		_, ok := sshend.Signal(name)
		require.False(t, ok, name)
		require.Zero(t, sshend.SignalNumber(name), name)
	}
	require.Empty(t, sshend.SignalName(syscall.SIGWINCH))
}
