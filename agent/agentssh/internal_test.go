//go:build unix

package agentssh

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

func TestJudgeStart(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE} {
		a := judgeStart(fmt.Errorf("start process: %w", errno))
		require.Equal(t, disconnect.ResourceExhausted, a.Reason)
		require.Equal(t, disconnect.Agent, a.Initiator)
	}
	require.Equal(t, disconnect.InternalError, judgeStart(syscall.ENOENT).Reason)
}

func TestJudgeSignalDumpedCore(t *testing.T) {
	a := judgeExit(exitStatus{code: 134, signal: "ABRT", core: true}, sourceUnknown)
	require.Equal(t, "crash: process killed by signal: SIGABRT (core dumped)", a.Detail)
}

func TestParseModes(t *testing.T) {
	require.Equal(t, map[uint8]uint32{53: 1, 128: 38400}, parseModes("\x35\x00\x00\x00\x01\x80\x00\x00\x96\x00\x00\x01\x00\x00\x00\x01"))
	for _, bad := range []string{"", "\x35", "\x35\x00\x00", "\xa0\x00\x00\x00\x01"} {
		require.Empty(t, parseModes(bad))
	}
}

func TestFindAccount(t *testing.T) {
	file := []byte("# c:x:7:7::/a:/b\nbroken:line\nroot:x:0:0:root:/root:/bin/bash\nme:x:7:7:Me,,,:/home/me:/bin/zsh\nme2:x:7:7::/x:/y\n")
	a, ok := findAccount(file, 7)
	require.True(t, ok)
	require.Equal(t, account{name: "me", home: "/home/me", shell: "/bin/zsh"}, a)
	_, ok = findAccount(file, 8)
	require.False(t, ok)
	require.False(t, usableShell("/usr/sbin/nologin"))
	require.False(t, usableShell("bash"))
	require.False(t, usableShell(""))
	require.True(t, usableShell("/bin/sh"))
}

func TestStrippedNames(t *testing.T) {
	e := newEnvironment([]string{"SECRET", "PRE_", "STAR*"})
	e.add("SECRET=1", "SECRETS=2", "PRE_X=3", "PRE=4", "STARS=5", "STA=6", "EMPTY=", "=x", "BAD\x00=1")
	require.Equal(t, []string{"EMPTY=", "PRE=4", "SECRETS=2", "STA=6"}, e.list())
}
