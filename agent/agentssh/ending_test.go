//go:build unix

package agentssh_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
	"fairlead.dev/fairlead/testutil"
)

var goodbye = disconnect.Goodbye{
	Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "agent is stopping",
}

// start runs command, which prints "ready" when it is.
func (h *host) start(command string, terminal bool) (*ssh.Session, *ssh.Client, net.Conn, *bufio.Reader) {
	h.t.Helper()
	s, client, raw := h.session()
	if terminal {
		require.NoError(h.t, s.RequestPty("vt100", 24, 80, nil))
	}
	_, err := s.StdinPipe() // nothing comes, but it does not end either
	require.NoError(h.t, err)
	out, err := s.StdoutPipe()
	require.NoError(h.t, err)
	require.NoError(h.t, s.Start(command))
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	require.NoError(h.t, err)
	require.Equal(h.t, "ready", strings.TrimSpace(line))
	return s, client, raw, r
}

// TestSeedS8 has every way in which a session's process ends.
func TestSeedS8(t *testing.T) {
	t.Parallel()
	const agent = disconnect.Agent
	for _, tc := range []struct {
		command string
		reason  disconnect.Reason
		detail  string
		code    int
		signal  string
	}{
		{"true", disconnect.Graceful, "normal exit", 0, ""},
		{"exit 42", disconnect.ProcessExited, "process exited with error status: 42", 42, ""},
		{"/nonexistent/x", disconnect.ProcessExited, "process exited with error status: 127 (not_found)", 127, ""},
		{"/etc/passwd", disconnect.ProcessExited, "process exited with error status: 126 (not_executable)", 126, ""},
		{"sh -c 'kill -9 $$'; exit $?", disconnect.ProcessExited, "process exited with error status: 137 (signal_9_in_shell)", 137, ""},
		{"kill -9 $$", disconnect.ProcessSignaled, "process killed by signal: SIGKILL", 137, "KILL"},
		{"kill -TERM $$", disconnect.ProcessSignaled, "process killed by signal: SIGTERM", 143, "TERM"},
		{"ulimit -c 0; kill -SEGV $$", disconnect.ProcessSignaled, "crash: process killed by signal: SIGSEGV", 139, "SEGV"},
		{"kill -XCPU $$", disconnect.ResourceExhausted, "process killed by signal: SIGXCPU", 152, "XCPU"},
		{"kill -PIPE $$", disconnect.ProcessExited, "process exited on signal: SIGPIPE (its own pipe)", 141, "PIPE"},
	} {
		t.Run(tc.command, func(t *testing.T) {
			h := newHost(t, nil)
			s, _, _ := h.session()
			err := s.Run(tc.command)
			if tc.code == 0 {
				require.NoError(t, err)
			} else {
				var exit *ssh.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, tc.signal, exit.Signal())
				if tc.signal == "" {
					require.Equal(t, tc.code, exit.ExitStatus())
				}
			}
			h.expect(tc.reason, agent, tc.detail, tc.code)
		})
	}
}

func TestSignalsThatAreNoFailure(t *testing.T) {
	t.Parallel()
	t.Run("client's request", func(t *testing.T) {
		h := newHost(t, nil)
		s, _, _, _ := h.start("echo ready; sleep 1000; echo not reached", false)
		require.NoError(t, s.Signal(ssh.SIGTERM))
		var exit *ssh.ExitError
		require.ErrorAs(t, s.Wait(), &exit)
		require.Equal(t, "TERM", exit.Signal())
		h.expect(disconnect.ProcessExited, disconnect.Agent, "process exited on signal: SIGTERM (requested by the client)", 143)
	})
	t.Run("typed at the terminal", func(t *testing.T) {
		h := newHost(t, nil)
		s, client, _ := h.session()
		require.NoError(t, s.RequestPty("vt100", 24, 80, nil))
		in, err := s.StdinPipe()
		require.NoError(t, err)
		out, err := s.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, s.Start("echo ready; exec sleep 1000"))
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		_, err = io.WriteString(in, "\x03")
		require.NoError(t, err)
		var exit *ssh.ExitError
		require.ErrorAs(t, s.Wait(), &exit)
		require.Equal(t, "INT", exit.Signal())
		h.expect(disconnect.ProcessExited, disconnect.Agent, "process exited on signal: SIGINT (typed at the terminal)", 130)
		require.NoError(t, client.Close())
	})
	t.Run("unknown signal", func(t *testing.T) {
		h := newHost(t, nil)
		s, _, _, _ := h.start("echo ready; sleep 1000", false)
		require.NoError(t, s.Signal("NONSENSE"))
		require.NoError(t, s.Close())
		h.expect(disconnect.ClientClosed, disconnect.Client, "", -1)
	})
}

func TestClientClosesTheChannel(t *testing.T) {
	t.Parallel()
	for _, terminal := range []bool{false, true} {
		h := newHost(t, nil)
		line := newLifeline(t)
		s, client, _, _ := h.start("exec 9>"+line.path+"; sleep 1000 & echo ready; sleep 1000", terminal)
		require.NoError(t, s.Close())
		h.expect(disconnect.ClientClosed, disconnect.Client, "client closed the session", -1)
		line.wait(t)
		_, err := client.NewSession()
		require.NoError(t, err, "the connection lives")
	}
}

// The client closes the channel and the connection in one breath; the process sees
// the end of its input and exits well. Neither the broken transport nor the exit was
// first.
func TestClientClosesChannelAndConnection(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	const n = 50
	for range n {
		s, client, _ := h.session()
		in, err := s.StdinPipe()
		require.NoError(t, err)
		out, err := s.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, s.Start("echo ready; cat"))
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		_ = in
		require.NoError(t, s.Close())
		require.NoError(t, client.Close())
	}
	for _, e := range h.endings(n) {
		require.Equal(t, "client_closed", e.A.Reason.String(), e.A.String())
	}
}

// A program that ends when its input does must not make a lost connection look well.
func TestTransportLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		cut    func(*net.TCPConn) error
		reason disconnect.Reason
	}{
		{"end of file", (*net.TCPConn).Close, disconnect.NetworkError},
		{"reset", func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }, disconnect.ConnectionReset},
	} {
		for _, command := range []string{"cat", "yes", "sleep 1000", "trap '' HUP; cat; exit 3"} {
			t.Run(tc.name+"/"+command, func(t *testing.T) {
				h := newHost(t, func(c *agentssh.Config) { c.KillGrace = 50 * time.Millisecond })
				line := newLifeline(t)
				_, _, raw, out := h.start("exec 9>"+line.path+"; echo ready; "+command, false)
				if command == "yes" {
					_, err := out.ReadByte()
					require.NoError(t, err)
				}
				require.NoError(t, tc.cut(raw.(*net.TCPConn)))
				e := h.ending()
				if tc.name == "end of file" && e.A.Reason == disconnect.ConnectionReset {
					require.Equal(t, "yes", command, "only unread data turns a close into a reset")
				} else {
					require.Equal(t, tc.reason.String(), e.A.Reason.String())
				}
				require.Equal(t, disconnect.Network, e.A.Initiator)
				require.Equal(t, -1, e.ExitCode)
				line.wait(t)
			})
		}
	}
}

func TestPeerDeclaredItsEnding(t *testing.T) {
	t.Parallel()
	declared := disconnect.Attribution{
		Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "window closed",
	}
	var asked atomic.Value
	h := newHost(t, func(c *agentssh.Config) {
		c.PeerEnding = func(remote net.Addr) (disconnect.Attribution, bool) {
			asked.Store(remote.String())
			return declared, true
		}
	})
	_, _, raw, _ := h.start("echo ready; sleep 1000", false)
	local := raw.LocalAddr().String()
	require.NoError(t, raw.Close())
	h.expect(disconnect.ClientClosed, disconnect.Client, "window closed", -1)
	require.Equal(t, local, asked.Load())
}

func TestBytesThatAreNotSSH(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	_, _, raw, _ := h.start("echo ready; sleep 1000", false)
	_, err := raw.Write(bytes.Repeat([]byte{0xff}, 64))
	require.NoError(t, err)
	h.expect(disconnect.ProtocolError, disconnect.Client, "", -1)
}

func TestEndPeer(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	_, client, _, _ := h.start("echo ready; sleep 1000", false)
	h.EndPeer(netip.MustParseAddr("127.0.0.2"), disconnect.Attribution{
		Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "someone else",
	})
	cause := disconnect.Attribution{
		Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "silent for 30m0s",
	}
	h.EndPeer(netip.MustParseAddr("127.0.0.1"), cause)
	require.Error(t, client.Wait())
	h.expect(disconnect.NetworkTimeout, disconnect.Network, "silent for 30m0s", -1)
	// The peer may come back.
	s, _, _ := h.session()
	require.NoError(t, s.Run("true"))
}

func TestCloseTellsWhy(t *testing.T) {
	t.Parallel()
	const said = "fairlead: session ended by agent: server_shutdown: agent is stopping"
	for _, tc := range []struct {
		terminal     bool
		client, said string
	}{
		{false, "SSH-2.0-Go", said},
		{true, "SSH-2.0-Go", said},
		{false, "SSH-2.0-Fairlead", ""}, // it tells its user itself
	} {
		h := newHost(t, nil)
		line := newLifeline(t)
		raw, err := net.Dial("tcp", h.addr)
		require.NoError(t, err)
		sc, channels, requests, err := ssh.NewClientConn(raw, h.addr, &ssh.ClientConfig{
			HostKeyCallback: ssh.FixedHostKey(h.key.PublicKey()),
			ClientVersion:   tc.client,
		})
		require.NoError(t, err)
		told := make(chan *ssh.Request, 1)
		passed := make(chan *ssh.Request)
		go func() {
			defer close(passed)
			for r := range requests {
				if r.Type == sshend.Request {
					told <- r
					_ = r.Reply(true, nil)
				}
			}
		}()
		client := ssh.NewClient(sc, channels, passed)
		s, err := client.NewSession()
		require.NoError(t, err)
		if tc.terminal {
			require.NoError(t, s.RequestPty("vt100", 24, 80, nil))
		}
		out, err := s.StdoutPipe()
		require.NoError(t, err)
		var stderr bytes.Buffer
		s.Stderr = &stderr
		require.NoError(t, s.Start("exec 9>"+line.path+"; echo ready; sleep 1000"))
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)

		require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
		h.expect(disconnect.ServerShutdown, disconnect.Agent, "agent is stopping", -1)
		line.wait(t)
		var missing *ssh.ExitMissingError
		require.ErrorAs(t, s.Wait(), &missing, "our own signal is no exit status")
		require.Equal(t, tc.said, strings.TrimSpace(stderr.String()))
		r := wait(t, told, "no global request")
		var payload struct {
			Reason, Initiator uint32
			Detail            string
		}
		require.NoError(t, ssh.Unmarshal(r.Payload, &payload))
		require.EqualValues(t, disconnect.ServerShutdown, payload.Reason)
		require.EqualValues(t, disconnect.Agent, payload.Initiator)
		require.Equal(t, "agent is stopping", payload.Detail)
		require.True(t, r.WantReply)
		_ = client.Wait()
		wait(t, passed, "requests are still served")
	}
}

func TestCloseOverlooksNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(c *agentssh.Config) { c.KillGrace = 50 * time.Millisecond })
	line := newLifeline(t)
	// Ignores SIGHUP, and its client reads nothing.
	s, client, _, _ := h.start("exec 9>"+line.path+"; trap '' HUP; echo ready; while :; do yes; done", false)
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	h.expect(disconnect.ServerShutdown, disconnect.Agent, "agent is stopping", -1)
	line.wait(t)
	_, err := net.Dial("tcp", h.addr)
	require.Error(t, err, "nobody listens")
	_ = s.Wait()
	require.Error(t, client.Wait())
	require.NoError(t, h.Close(context.Background(), disconnect.Goodbye{Reason: disconnect.InternalError}))
}

func TestCloseWithoutTime(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil) // its grace is long
	line := newLifeline(t)
	_, _, _, _ = h.start("exec 9>"+line.path+"; trap '' HUP; echo ready; while :; do sleep 1; done", false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.Close(ctx, goodbye); err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	h.expect(disconnect.ServerShutdown, disconnect.Agent, "agent is stopping", -1)
	line.wait(t)
}

// A peer whose socket takes nothing more cannot hold the agent up.
func TestCloseWithAStuckTransport(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(c *agentssh.Config) { c.KillGrace = 50 * time.Millisecond })
	gate := &gatedConn{shut: make(chan struct{}), closed: make(chan struct{})}
	ours, served := h.serveConn(func(nc net.Conn) net.Conn { gate.Conn = nc; return gate })
	client := h.client(ours)
	s, err := client.NewSession()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("echo ready; yes"))
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	close(gate.shut)
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	wait(t, served, "connection is still served")
	h.expect(disconnect.ServerShutdown, disconnect.Agent, "agent is stopping", -1)
}

// gatedConn takes nothing more once shut is closed.
type gatedConn struct {
	net.Conn
	shut, closed chan struct{}
	once         sync.Once
}

func (g *gatedConn) Write(b []byte) (int, error) {
	select {
	case <-g.shut:
		<-g.closed
		return 0, net.ErrClosed
	default:
		return g.Conn.Write(b)
	}
}

func (g *gatedConn) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Conn.Close()
}

// The process ended, its grandchild holds the pipe: a shutdown then is only what
// followed.
func TestShutdownDoesNotRelabel(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, client, _ := h.session()
	_, err := s.StdinPipe() // so that its input does not end
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	line := newLifeline(t)
	require.NoError(t, s.Start("exec 9>"+line.path+"; sleep 1000 & echo $$; exit 5"))
	pid, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	h.waitGone(strings.TrimSpace(pid))
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	h.expect(disconnect.ProcessExited, disconnect.Agent, "process exited with error status: 5", 5)
	var exit *ssh.ExitError
	require.ErrorAs(t, s.Wait(), &exit)
	require.Equal(t, 5, exit.ExitStatus())
	line.wait(t)
	_ = client.Wait()
}

func TestProcessThatDoesNotStart(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(c *agentssh.Config) {
		c.Settings = func() agentssh.Settings {
			// The kernel takes no string of this size.
			return agentssh.Settings{Environment: map[string]string{"BIG": strings.Repeat("x", 4<<20)}}
		}
	})
	for _, terminal := range []bool{false, true} {
		s, _, _ := h.session()
		if terminal {
			require.NoError(t, s.RequestPty("vt100", 24, 80, nil))
		}
		var stderr bytes.Buffer
		s.Stderr = &stderr
		var exit *ssh.ExitError
		require.ErrorAs(t, s.Run("true"), &exit)
		require.Equal(t, 126, exit.ExitStatus())
		require.Contains(t, stderr.String(), "fairlead: cannot start: limit_exceeded: the command and its environment are too long for this host: ")
	}
	for _, e := range h.endings(2) {
		require.Equal(t, disconnect.LimitExceeded, e.A.Reason)
		require.Equal(t, disconnect.Agent, e.A.Initiator, "it is the workspace's environment")
		require.Equal(t, -1, e.ExitCode)
	}
}

func TestPanicEndsOneSessionOnly(t *testing.T) {
	t.Parallel()
	var boom atomic.Bool
	h := newHost(t, func(c *agentssh.Config) {
		c.Settings = func() agentssh.Settings {
			if boom.Load() {
				panic("settings are broken")
			}
			return agentssh.Settings{}
		}
	})
	other, client, _, _ := h.start("echo ready; sleep 1000", false)
	boom.Store(true)
	s, err := client.NewSession()
	require.NoError(t, err)
	require.Error(t, s.Run("true"))
	h.expect(disconnect.InternalError, disconnect.Agent, "panic: settings are broken", -1)
	boom.Store(false)
	s, err = client.NewSession()
	require.NoError(t, err)
	require.NoError(t, s.Run("true"))
	require.NoError(t, other.Close())
	require.Equal(t, disconnect.ClientClosed, h.endings(3)[2].A.Reason)
}

func TestSlowHandshake(t *testing.T) {
	key := newHost(t, nil).key
	synctest.Test(t, func(t *testing.T) {
		logger, rec := testutil.NewLogRecorder(t)
		s := agentssh.New(agentssh.Config{Logger: logger, HostKey: key})
		ours, theirs := net.Pipe()
		start := time.Now()
		s.ServeConn(theirs)
		require.Equal(t, 30*time.Second, time.Since(start))
		_ = ours.Close()
		ends := rec.Endings()
		require.Len(t, ends, 1)
		require.Equal(t, "ssh handshake failed", ends[0].Message)
		require.Equal(t, disconnect.SlowPeer, ends[0].Attribution.Reason)
		require.Equal(t, disconnect.Client, ends[0].Attribution.Initiator)
	})
}

func TestHandshakeWithSomethingElse(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	for text, reason := range map[string]disconnect.Reason{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + strings.Repeat("x", 1000): disconnect.ProtocolError,
		"SSH-2.0-x\r\n" + strings.Repeat("\xff", 100):                   disconnect.ProtocolError,
		"": disconnect.NetworkError,
	} {
		raw, err := net.Dial("tcp", h.addr)
		require.NoError(t, err)
		_, err = io.WriteString(raw, text)
		require.NoError(t, err)
		_ = raw.(*net.TCPConn).CloseWrite() // fails if the host has cut it already
		_, _ = io.Copy(io.Discard, raw)
		_ = raw.Close()
		e := h.rec.WaitFor(testutil.Context(t, patience), func(e testutil.Ending) bool {
			return e.Attribution.Reason == reason
		})
		require.Equal(t, "ssh handshake failed", e.Message)
		require.EqualValues(t, -4, e.Level, "debug")
	}
}

func TestCloseDuringHandshake(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	raw, err := net.Dial("tcp", h.addr)
	require.NoError(t, err)
	defer raw.Close()
	_, err = bufio.NewReader(raw).ReadString('\n') // its version: the handshake began
	require.NoError(t, err)
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
}

func TestServeReturnsTheListenersError(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	require.ErrorIs(t, h.Serve(brokenListener{err: syscall.EINVAL}), syscall.EINVAL)
	l := brokenListener{err: syscall.EMFILE, then: syscall.EINVAL, calls: new(atomic.Int32)}
	require.ErrorIs(t, h.Serve(l), syscall.EINVAL, "it tried again")
}

type brokenListener struct {
	err, then error
	calls     *atomic.Int32
}

func (b brokenListener) Accept() (net.Conn, error) {
	if b.then != nil && b.calls != nil && b.calls.Add(1) > 1 {
		return nil, b.then
	}
	return nil, b.err
}
func (brokenListener) Close() error   { return nil }
func (brokenListener) Addr() net.Addr { return nil }

// TestLongCommands: commands and variables of a client are taken up to what the host's
// kernel takes, and stock ssh is told what is too long.
func TestLongCommands(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	long := strings.Repeat("x", 100<<10)
	out, err := h.openSSH("127.0.0.1", "echo "+long).Output()
	require.NoError(t, err)
	require.Equal(t, long+"\n", string(out))
	s, _, _ := h.session()
	for i := range 50 {
		require.NoError(t, s.Setenv("LONG"+strconv.Itoa(i), long[:32<<10]))
	}
	out, err = s.Output(`echo "${#LONG49}"`)
	require.NoError(t, err)
	require.Equal(t, "32768\n", string(out))
	h.endings(2)

	var stderr bytes.Buffer
	s, _, _ = h.session() // stock ssh cannot be started with so much
	s.Stderr = &stderr
	var exit *ssh.ExitError
	require.ErrorAs(t, s.Run("echo "+long+long), &exit)
	require.Equal(t, 126, exit.ExitStatus())
	require.Regexp(t, `^fairlead: cannot start: limit_exceeded: the command and its environment are too long for this host: [0-9]+ bytes, the longest part of which has 204805\n$`, stderr.String())
	e := h.endings(3)[2]
	require.Equal(t, []any{disconnect.LimitExceeded, disconnect.Client, -1}, []any{e.A.Reason, e.A.Initiator, e.ExitCode}, e.A)
}
