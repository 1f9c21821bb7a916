//go:build unix

package agentssh_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

// say sends a line through a forward and reads its echo.
func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	_, err := io.WriteString(c, line+"\n")
	require.NoError(t, err)
	got, err := bufio.NewReader(io.LimitReader(c, int64(len(line))+1)).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, line+"\n", got)
}

// TestSeedS10 has every way in which a channel to a JetBrains backend closes.
func TestSeedS10(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the process behind a port is looked up on Linux")
	}
	for _, test := range []struct {
		name      string
		end       func(t *testing.T, h *host, b *backend, channel net.Conn, raw net.Conn)
		reason    disconnect.Reason
		initiator disconnect.Initiator
		detail    string
	}{
		{"client first", func(t *testing.T, _ *host, _ *backend, c, _ net.Conn) {
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}, disconnect.Graceful, disconnect.Client, "normal close"},
		{"client closes", func(t *testing.T, _ *host, _ *backend, c, _ net.Conn) {
			require.NoError(t, c.Close())
		}, disconnect.Graceful, disconnect.Client, "normal close"},
		{"backend first", func(t *testing.T, _ *host, _ *backend, c, _ net.Conn) {
			_, err := io.WriteString(c, "close\n")
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, c.Close())
		}, disconnect.Graceful, disconnect.Agent, "normal close"},
		{"backend resets", func(t *testing.T, _ *host, _ *backend, c, _ net.Conn) {
			_, err := io.WriteString(c, "reset\n")
			require.NoError(t, err)
		}, disconnect.ConnectionReset, disconnect.Agent, "connection reset by peer"},
		{"network", func(_ *testing.T, _ *host, _ *backend, _, raw net.Conn) {
			_ = raw.Close()
		}, disconnect.NetworkError, disconnect.Network, "EOF"},
		{"agent", func(t *testing.T, h *host, _ *backend, _, _ net.Conn) {
			require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
		}, disconnect.ServerShutdown, disconnect.Agent, goodbye.Detail},
		{"ended by an admin", func(_ *testing.T, h *host, _ *backend, _, _ net.Conn) {
			h.mu.Lock()
			end := h.sessions[0].End
			h.mu.Unlock()
			end(disconnect.Attribution{Reason: disconnect.AdminTerminated, Initiator: disconnect.Server, Detail: "enough"})
		}, disconnect.AdminTerminated, disconnect.Server, "enough"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, nil)
			b := newBackend(t, anyPort, jetBrainsArgs...)
			client, raw := h.dial()
			c, err := client.Dial("tcp", b.addr)
			require.NoError(t, err)
			defer c.Close()
			say(t, c, "hello")
			test.end(t, h, b, c, raw)
			h.expect(test.reason, test.initiator, test.detail, -1)
			line := h.rec.Endings()[0]
			require.Equal(t, "jetbrains channel closed", line.Message)
			require.Equal(t, "jetbrains", line.Attrs["app"])
			require.Equal(t, "process", line.Attrs["app_source"])
			require.Equal(t, b.addr, line.Attrs["target"])
			require.Equal(t, "jetbrains", h.sessions[0].Behind)
			require.Equal(t, agentssh.KindForward, h.sessions[0].Kind)
		})
	}
}

// A channel to a backend that has gone is refused, and still the backend's.
func TestSeedS10Refused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the process behind a port is looked up on Linux")
	}
	h := newHost(t, nil)
	b := newBackend(t, anyPort, jetBrainsArgs...)
	client, _ := h.dial()
	c, err := client.Dial("tcp", b.addr)
	require.NoError(t, err)
	b.kill()
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, c.Close())
	_, err = client.Dial("tcp", b.addr)
	require.ErrorContains(t, err, "connection refused")
	for _, e := range h.endings(2) {
		require.Equal(t, disconnect.Agent, e.A.Initiator)
		if e.A.Reason != disconnect.Graceful {
			require.Equal(t, disconnect.ConnectionRefused, e.A.Reason)
			require.Contains(t, e.A.Detail, b.addr+": connect: connection refused")
		}
	}
	for _, e := range h.rec.Endings() {
		require.Equal(t, "jetbrains channel closed", e.Message)
	}
}

// listener accepts connections of the test's own process and hands them to serve.
func listener(t *testing.T, network, address string, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// TestForward: what arrives is what was sent, both ways at once, over TCP and over a unix
// socket, and each direction ends on its own.
func TestForward(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "fwd") // short: it is a socket's path
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(dir, "s")} {
		h := newHost(t, nil)
		address = listener(t, network, address, echo)
		client, _ := h.dial()
		c, err := client.Dial(network, address)
		require.NoError(t, err)
		const size = 8 << 20
		want, got := sha256.New(), sha256.New()
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = io.Copy(io.MultiWriter(c, want), io.LimitReader(&counter{}, size))
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		})
		n, err := io.Copy(got, c)
		both.Wait()
		require.NoError(t, err)
		require.EqualValues(t, size, n)
		require.Equal(t, want.Sum(nil), got.Sum(nil))
		h.expect(disconnect.Graceful, disconnect.Client, "normal close", -1)
		line := h.rec.Endings()[0]
		require.Equal(t, "port forward closed", line.Message)
		require.Equal(t, "ssh", line.Attrs["app"])
		require.Equal(t, "default", line.Attrs["app_source"])
		require.Empty(t, h.sessions[0].Behind)
		_ = c.Close()
	}
}

// TestForwardRefused: one sentence for what cannot be reached, and a row where something
// was tried.
func TestForwardRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	open := func(kind string, payload any) string {
		_, _, err := client.OpenChannel(kind, ssh.Marshal(payload))
		var refusal *ssh.OpenChannelError
		require.ErrorAs(t, err, &refusal)
		return refusal.Message
	}
	type tcp struct {
		Host       string
		Port       uint32
		Originator string
		FromPort   uint32
	}
	type unix struct {
		Path, Reserved string
		Unused         uint32
	}
	require.Equal(t, "there is no such address", open("direct-tcpip", tcp{Host: "localhost"}))
	require.Equal(t, "there is no such address", open("direct-tcpip", tcp{Host: "localhost", Port: 1 << 16}))
	require.Equal(t, "there is no such address", open("direct-tcpip", tcp{Port: 80}))
	require.Equal(t, "malformed request", open("direct-tcpip", unix{}))
	require.Equal(t, "malformed request", open("direct-streamlocal@openssh.com", tcp{Host: "/x"}))
	require.Equal(t, "the path of a socket must be absolute", open("direct-streamlocal@openssh.com", unix{Path: "x"}))
	missing := filepath.Join(t.TempDir(), "missing")
	require.Contains(t, open("direct-streamlocal@openssh.com", unix{Path: missing}), "no such file")
	h.expect(disconnect.ConnectionRefused, disconnect.Agent, missing+": connect: no such file", -1)
	require.Len(t, h.sessions, 1, "what is no address was not tried")
}

// TestForwardsAreBounded: a client that opens 10,000 forwards gets as many as the limit
// says and a plain refusal for each of the others, has no more rows than the rate lets it,
// and harms nobody.
func TestForwardsAreBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	address := listener(t, "tcp", "127.0.0.1:0", echo)
	hostile, raw := h.dial()
	var open []net.Conn
	refused := 0
	begun := time.Now()
	for range 10_000 {
		c, err := hostile.Dial("tcp", address)
		var refusal *ssh.OpenChannelError
		switch {
		case err == nil:
			open = append(open, c)
		case errors.As(err, &refusal):
			require.Equal(t, ssh.ResourceShortage, refusal.Reason)
			require.Equal(t, "limit_exceeded: this connection has 256 forwards already", refusal.Message)
			refused++
		default:
			t.Fatal(err)
		}
	}
	require.Len(t, open, 256)
	require.Equal(t, 10_000-256, refused)
	other, _, _ := h.session()
	out, err := other.Output("echo served")
	require.NoError(t, err)
	require.Equal(t, "served\n", string(out))

	require.NoError(t, open[0].Close()) // makes room for one
	require.Eventually(t, func() bool {
		_, err := hostile.Dial("tcp", address)
		return err == nil
	}, patience, time.Millisecond)
	_ = raw.Close()
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	h.mu.Lock()
	defer h.mu.Unlock()
	rows := len(h.ends) - 1 // the session
	require.GreaterOrEqual(t, rows, 101, "those at once, and the one that others share")
	require.LessOrEqual(t, rows, 102+int(time.Since(begun)/time.Second))
}

// TestForwardsShareARow: what comes faster than the rate has one row for all, which says
// how many and what went wrong first.
func TestForwardsShareARow(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	address := listener(t, "tcp", "127.0.0.1:0", echo)
	client, _ := h.dial()
	for i := range 400 {
		to := address
		if i%2 == 1 {
			to = "127.0.0.1:1" // nobody listens
		}
		if c, err := client.Dial("tcp", to); err == nil {
			say(t, c, strconv.Itoa(i))
			_ = c.Close()
		}
	}
	_ = client.Close()
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	var shared *testutil.Ending
	for _, e := range h.rec.Endings() {
		if _, ok := e.Attrs["forwards"]; ok {
			require.Nil(t, shared, "there is one")
			shared = &e
		}
	}
	require.NotNil(t, shared)
	require.Equal(t, disconnect.ConnectionRefused, shared.Attribution.Reason)
	require.Equal(t, disconnect.Agent, shared.Attribution.Initiator)
	require.Regexp(t, `connection refused \(\d+ forwards, of which \d+ ended unexpectedly\)$`, shared.Attribution.Detail)
}

// TestForwardAlone: a connection without any session is ended like others when sessions
// are refused, and so are forwards that are being dialled.
func TestForwardAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	address := listener(t, "tcp", "127.0.0.1:0", echo)
	client, _ := h.dial()
	c, err := client.Dial("tcp", address)
	require.NoError(t, err)
	say(t, c, "hello")
	h.Refuse(disconnect.Attribution{Reason: disconnect.WorkspaceStopped, Initiator: disconnect.Server, Detail: "stopped"})
	h.expect(disconnect.WorkspaceStopped, disconnect.Server, "stopped", -1)
	other, _ := h.dial()
	_, err = other.Dial("tcp", address)
	require.ErrorContains(t, err, "workspace_stopped: stopped")
}

// TestForwardPolicy: a forward without traffic idles, and one with traffic keeps the
// session beside it.
func TestForwardPolicy(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	h.SetPolicy(agentssh.Policy{IdleTimeout: 4 * time.Second, IdleRule: "the test"})
	address := listener(t, "tcp", "127.0.0.1:0", echo)
	idle, _ := h.dial()
	_, err := idle.Dial("tcp", address)
	require.NoError(t, err)
	busy, _ := h.dial()
	s, err := busy.NewSession()
	require.NoError(t, err)
	require.NoError(t, s.Start("sleep 1000"))
	c, err := busy.Dial("tcp", address)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var talk sync.WaitGroup
	talk.Go(func() {
		for ctx.Err() == nil {
			_, _ = io.WriteString(c, "x")
			<-time.After(50 * time.Millisecond)
		}
	})
	h.expect(disconnect.IdleTimeout, disconnect.Agent, "nothing passed through", -1)
	require.Len(t, h.endings(1), 1)
	cancel()
	talk.Wait()
	for _, e := range h.endings(3) {
		require.Equal(t, disconnect.IdleTimeout, e.A.Reason)
	}
}

// TestForwardsRace: everything that can end a forward happens at about the same time.
// newHost's clean-up proves that each ended once.
func TestForwardsRace(t *testing.T) {
	t.Parallel()
	b := newBackend(t, anyPort, jetBrainsArgs...)
	for round := range 40 {
		h := newHost(t, nil)
		var wg sync.WaitGroup
		shake := func() { <-time.After(rand.N(5 * time.Millisecond)) }
		for i := range 4 {
			client, raw := h.dial()
			// x/crypto's client waits for ever for a channel that it opens in the very moment
			// in which its connection ends, so all are opened before anything does.
			var opened []net.Conn
			for range 4 {
				c, err := client.Dial("tcp", b.addr)
				require.NoError(t, err)
				opened = append(opened, c)
			}
			for _, c := range opened {
				wg.Go(func() {
					shake()
					switch (round + i) % 5 {
					case 0:
						_ = c.Close()
					case 1:
						_, _ = io.WriteString(c, "close\n")
					case 2:
						_, _ = io.WriteString(c, "reset\n")
					case 3:
						_ = client.Close()
					case 4:
						_ = raw.Close()
					}
				})
			}
		}
		wg.Go(func() {
			shake()
			require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
		})
		wg.Wait()
	}
}
