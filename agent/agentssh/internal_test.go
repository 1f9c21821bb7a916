//go:build unix

package agentssh

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

func TestJudgeDisconnect(t *testing.T) {
	for code, want := range map[uint32]disconnect.Reason{
		1: disconnect.AuthFailed, 2: disconnect.ProtocolError, 3: disconnect.VersionMismatch,
		4: disconnect.ProtocolError, 5: disconnect.ProtocolError, 6: disconnect.ProtocolError,
		7: disconnect.ResourceExhausted, 8: disconnect.VersionMismatch, 9: disconnect.TLSFailure,
		10: disconnect.NetworkError, 11: disconnect.ClientClosed, 12: disconnect.LimitExceeded,
		13: disconnect.ClientClosed, 14: disconnect.AuthFailed, 15: disconnect.AuthFailed,
		4000: disconnect.ProtocolError,
	} {
		a := judgeDisconnect(code, "te\x1bxt")
		require.Equal(t, want, a.Reason, "code %d", code)
		require.NotEqual(t, disconnect.InitiatorUnknown, a.Initiator)
		require.Equal(t, disconnect.AgentToClient, a.ConnectType)
		require.Equal(t, fmt.Sprintf("ssh disconnect %d: te xt", code), a.Detail)
	}
}

func TestDisconnectCode(t *testing.T) {
	code, text, ok := disconnectCode(errors.New(`ssh: disconnect, reason 11: "dis\"connected\x1b"`))
	require.True(t, ok)
	require.EqualValues(t, 11, code)
	require.Equal(t, "dis\"connected\x1b", text)
	for _, err := range []error{
		nil, io.EOF, &ssh.ExitMissingError{},
		errors.New("ssh: disconnect, reason x: y"), errors.New(`read: ssh: disconnect, reason 11: "a"`),
	} {
		_, _, ok := disconnectCode(err)
		require.False(t, ok, "%v", err)
	}
}

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

// failingConn fails as it is told to.
type failingConn struct {
	net.Conn
	read, write error
}

func (f *failingConn) Read([]byte) (int, error)  { return 0, f.read }
func (f *failingConn) Write([]byte) (int, error) { return 0, f.write }
func (f *failingConn) Close() error              { return nil }

func TestWhichErrorOfTheTransportCounts(t *testing.T) {
	const w, r, x = "write", "read", "close"
	for _, tc := range []struct {
		read, write error
		order       []string
		want        error
	}{
		{io.EOF, syscall.ECONNRESET, []string{w, r}, syscall.ECONNRESET},
		{io.EOF, syscall.ECONNRESET, []string{r, w}, syscall.ECONNRESET},
		{io.EOF, syscall.EPIPE, []string{r, w}, io.EOF},
		{syscall.ECONNRESET, syscall.EPIPE, []string{w, r}, syscall.ECONNRESET},
		{io.EOF, syscall.EPIPE, []string{w}, syscall.EPIPE},
		{net.ErrClosed, syscall.ETIMEDOUT, []string{w, r}, syscall.ETIMEDOUT},
		{net.ErrClosed, net.ErrClosed, []string{x, w, r}, nil},
		{io.EOF, nil, []string{r, x}, io.EOF},
	} {
		c := newRecordingConn(&failingConn{read: tc.read, write: tc.write}, time.Hour)
		for _, op := range tc.order {
			switch op {
			case w:
				_, _ = c.Write(nil)
			case r:
				_, _ = c.Read(nil)
			case x:
				_ = c.Close()
			}
		}
		require.Equal(t, tc.want, c.err(), "%v", tc.order)
	}
}
