//go:build unix

package agentssh_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

// socketDir returns a directory whose name is short enough for a socket in it.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fwd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serveEcho takes what arrives at l until it is closed.
func serveEcho(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			echo(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// TestForwardBack: what connects to a port or a socket here reaches the client, each
// connection with its row, and the listening ends with its request and with the connection.
func TestForwardBack(t *testing.T) {
	t.Parallel()
	for network, address := range map[string]string{"tcp": "localhost:0", "tcp4": "127.0.0.1:0", "unix": filepath.Join(socketDir(t), "s")} {
		h := newHost(t, nil)
		client, raw := h.dial()
		l, err := client.Listen(strings.TrimSuffix(network, "4"), address)
		require.NoError(t, err)
		serveEcho(t, l)
		if network != "unix" {
			address = net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		} else {
			info, err := os.Stat(address)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		}
		network = strings.TrimSuffix(network, "4")
		c, err := net.Dial(network, address)
		require.NoError(t, err)
		say(t, c, "over and back")
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		h.expect(disconnect.Graceful, disconnect.Agent, "normal close", -1)
		require.NoError(t, c.Close())
		require.Equal(t, "port forward closed", h.rec.Endings()[0].Message)

		open, err := net.Dial(network, address)
		require.NoError(t, err)
		say(t, open, "still there")
		_ = raw.Close()
		lost := h.endings(2)[1].A
		require.Equal(t, []any{disconnect.NetworkError, disconnect.Network}, []any{lost.Reason, lost.Initiator})
		_, err = open.Read(make([]byte, 1))
		require.Error(t, err)
		if network == "tcp" {
			require.NotErrorIs(t, err, io.EOF, "what was cut off does not look whole")
		}
		_ = open.Close()
		require.Eventually(t, func() bool {
			c, err := net.Dial(network, address)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, patience, time.Millisecond, "nobody listens any more")
	}
}

// TestForwardBackRefused: what cannot be listened on is refused with the reason, for a
// client that reads it.
func TestForwardBackRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	taken := listener(t, "tcp", "127.0.0.1:0", echo)
	_, text, _ := net.SplitHostPort(taken)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	type tcp struct {
		Host string
		Port uint32
	}
	type unix struct{ Path string }
	ask := func(kind string, payload any) (bool, string) {
		ok, answer, err := client.SendRequest(kind, true, ssh.Marshal(payload))
		require.NoError(t, err)
		return ok, string(answer)
	}
	const tcpForward, socketForward = "tcpip-forward", "streamlocal-forward@openssh.com"
	for _, tc := range []struct {
		kind    string
		payload any
		want    string
	}{
		{tcpForward, tcp{"127.0.0.1", uint32(port)}, "resource_exhausted: the port or the socket's path is in use there"},
		{tcpForward, tcp{"127.0.0.1", 1 << 16}, "protocol_error: malformed request"},
		{tcpForward, tcp{"192.0.2.1", 0}, "connection_refused: "},
		{socketForward, unix{"relative"}, "protocol_error: the path of a socket must be absolute"},
		{socketForward, unix{"/tmp/" + strings.Repeat("x", 103)}, "protocol_error: the path of a socket has at most 107 bytes, and this one has 108"},
		{socketForward, unix{"/nowhere/at/all"}, "connection_refused: "},
		{"cancel-tcpip-forward", tcp{"127.0.0.1", 1}, ""},
	} {
		ok, answer := ask(tc.kind, tc.payload)
		require.False(t, ok, "%v", tc)
		require.Contains(t, answer, tc.want)
	}
	dead := filepath.Join(socketDir(t), "dead")
	l, err := net.Listen("unix", dead)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	ok, answer := ask(socketForward, unix{dead})
	require.True(t, ok, "a socket that a dead process left: %s", answer)
	for range 63 {
		ok, answer := ask(tcpForward, tcp{"127.0.0.1", 0})
		require.True(t, ok, answer)
	}
	ok, answer = ask(tcpForward, tcp{"127.0.0.1", 0})
	require.False(t, ok)
	require.Equal(t, "limit_exceeded: this connection listens on this already, or on 64 others", answer)
	ok, _ = ask("cancel-streamlocal-forward@openssh.com", unix{dead})
	require.True(t, ok)
	ok, answer = ask(tcpForward, tcp{"127.0.0.1", 0})
	require.True(t, ok, answer)

	require.Empty(t, h.rec.Endings(), "nothing connected")
}

// TestForwardBackNotTaken: a client that takes nothing of what it asked for; the program
// here sees a failure, and the row says whose refusal it was. A client that never answers
// does not keep the agent from stopping.
func TestForwardBackNotTaken(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	address := func() string {
		ok, answer, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{"127.0.0.1", 0}))
		require.NoError(t, err)
		require.True(t, ok)
		var m struct{ Port uint32 }
		require.NoError(t, ssh.Unmarshal(answer, &m))
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(m.Port)))
	}()
	channels := client.HandleChannelOpen("forwarded-tcpip")
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	require.NoError(t, (<-channels).Reject(ssh.ConnectionFailed, "connection_refused: nobody here"))
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
	_ = c.Close()
	h.expect(disconnect.ConnectionRefused, disconnect.Client, "nobody here", -1)

	c, err = net.Dial("tcp", address)
	require.NoError(t, err)
	<-channels // and no word
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	stopped := h.endings(2)[1].A
	require.Equal(t, []any{disconnect.ServerShutdown, disconnect.Agent}, []any{stopped.Reason, stopped.Initiator})
	_ = c.Close()
}

// TestOpenSSHForwardBack: the stock client's -R.
func TestOpenSSHForwardBack(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	local := listener(t, "tcp", "127.0.0.1:0", echo)
	there := filepath.Join(socketDir(t), "s")
	cmd := h.openSSH("-N", "-o", "ExitOnForwardFailure=yes", "-R", there+":"+local, "127.0.0.1")
	require.NoError(t, cmd.Start())
	var c net.Conn
	require.Eventually(t, func() (ok bool) {
		var err error
		c, err = net.Dial("unix", there)
		return err == nil
	}, patience, time.Millisecond)
	say(t, c, "by the stock client")
	require.NoError(t, c.Close())
	h.expect(disconnect.Graceful, disconnect.Agent, "normal close", -1)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
}
