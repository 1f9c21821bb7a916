//go:build unix

package agentssh_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/agent/reconnectingpty"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

// terminals is the agent's part: everybody is one user.
type terminals struct{ *reconnectingpty.Manager }

func (m terminals) Attach(r agentssh.AttachRequest) (agentssh.Viewer, error) {
	v, err := m.Manager.Attach(reconnectingpty.Request{
		User: "ann", Name: r.Name, TakeOver: r.TakeOver, Terminal: r.Terminal, Command: r.Cmd, Title: r.Command,
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (m terminals) Query(_ net.Addr, query proto.Attach) ([]byte, error) {
	if query.Action == proto.KillTerminal {
		return nil, m.Kill("ann", query.Name)
	}
	return json.Marshal(m.List("ann"))
}

func newTerminalHost(t *testing.T, cfg reconnectingpty.Config) (*host, terminals) {
	t.Helper()
	m := terminals{reconnectingpty.New(cfg)}
	t.Cleanup(func() { m.Close(testutil.Context(t, patience), goodbye.On(disconnect.AgentToClient)) })
	return newHost(t, func(c *agentssh.Config) { c.Terminals = m }), m
}

// attach begins a viewer's session.
func attach(t *testing.T, s *ssh.Session, request proto.Attach) (in io.Writer, out io.Reader) {
	t.Helper()
	require.NoError(t, s.RequestPty("vt100", 24, 80, nil))
	in, err := s.StdinPipe()
	require.NoError(t, err)
	out, err = s.StdoutPipe()
	require.NoError(t, err)
	options, err := json.Marshal(request)
	require.NoError(t, err)
	require.NoError(t, s.RequestSubsystem(proto.AttachSubsystem+" "+string(options)))
	return in, out
}

// readUntil reads up to a text.
func readUntil(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var all []byte
	b := make([]byte, 4096)
	for !bytes.Contains(all, []byte(text)) {
		n, err := r.Read(b)
		all = append(all, b[:n]...)
		require.NoError(t, err, "after %q", all)
	}
}

// TestSeedS9 has every way in which a reconnecting pty closes.
func TestSeedS9(t *testing.T) {
	for _, test := range []struct {
		name, command string
		end           func(h *host, m terminals, s *ssh.Session, raw net.Conn, in io.Writer)
		reason        disconnect.Reason
		initiator     disconnect.Initiator
		detail        string
		code          int
	}{
		{"shutdown", "echo re''ady; read x", func(h *host, _ terminals, _ *ssh.Session, _ net.Conn, _ io.Writer) {
			require.NoError(h.t, h.Close(testutil.Context(h.t, patience), goodbye))
		}, disconnect.ServerShutdown, disconnect.Agent, goodbye.Detail, -1},
		{"error", "echo re''ady; read x", func(_ *host, _ terminals, _ *ssh.Session, raw net.Conn, _ io.Writer) { _ = raw.Close() },
			disconnect.NetworkError, disconnect.Network, "EOF", -1},
		{"viewer closed", "echo re''ady; read x", func(_ *host, _ terminals, s *ssh.Session, _ net.Conn, _ io.Writer) { _ = s.Close() },
			disconnect.ClientClosed, disconnect.Client, "client closed the session", -1},
		{"program ended", "echo re''ady; read x", func(_ *host, _ terminals, _ *ssh.Session, _ net.Conn, in io.Writer) {
			_, _ = io.WriteString(in, "\r")
		}, disconnect.Graceful, disconnect.Agent, "normal exit", 0},
		{"program failed", "echo re''ady; read x; exit 3", func(_ *host, _ terminals, _ *ssh.Session, _ net.Conn, in io.Writer) {
			_, _ = io.WriteString(in, "\r")
		}, disconnect.ProcessExited, disconnect.Agent, "process exited with error status: 3", 3},
		{"killed", "echo re''ady; read x", func(h *host, m terminals, _ *ssh.Session, _ net.Conn, _ io.Writer) {
			require.NoError(h.t, m.Kill("ann", proto.DefaultTerminal))
		}, disconnect.ClientClosed, disconnect.Client, proto.TerminalKilled, -1},
		{"slow peer", "echo re''ady; exec yes", func(*host, terminals, *ssh.Session, net.Conn, io.Writer) {},
			disconnect.SlowPeer, disconnect.Client, "read nothing for", -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, m := newTerminalHost(t, reconnectingpty.Config{SlowLimit: 2 * time.Second})
			s, _, raw := h.session()
			in, out := attach(t, s, proto.Attach{Command: test.command})
			readUntil(t, out, "ready")
			test.end(h, m, s, raw, in)
			h.expect(test.reason, test.initiator, test.detail, test.code)
			require.Equal(t, agentssh.KindAttach, h.sessions[0].Kind)
			require.Equal(t, "reconnecting pty closed", h.rec.Endings()[0].Message)
		})
	}
}

// The loser of a terminal is told, and the terminal is the winner's.
func TestSeedS9TakeOver(t *testing.T) {
	h, _ := newTerminalHost(t, reconnectingpty.Config{})
	first, _, _ := h.session()
	_, out := attach(t, first, proto.Attach{Command: "echo re''ady; read x; echo got $x; read x"})
	readUntil(t, out, "ready")
	second, _, _ := h.session()
	in, shown := attach(t, second, proto.Attach{TakeOver: true})
	readUntil(t, shown, "ready")
	h.expect(disconnect.SessionReplaced, disconnect.Client, "took the terminal over", -1)
	_, err := io.WriteString(in, "it\r")
	require.NoError(t, err)
	readUntil(t, shown, "got it")
}

// TestSeedS9Race: viewer, program, network and shutdown end a thousand attachments at
// about the same time. Each has one line and one report, of which newHost's clean-up
// makes sure, and a reason that somebody gave.
func TestSeedS9Race(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	for group := range 4 {
		t.Run(strconv.Itoa(group), func(t *testing.T) {
			t.Parallel()
			for round := range rounds / 4 {
				raceViewers(t, round)
			}
		})
	}
}

func raceViewers(t *testing.T, round int) {
	h, m := newTerminalHost(t, reconnectingpty.Config{KillGrace: 100 * time.Millisecond})
	var wg sync.WaitGroup
	shake := func() {
		t := time.NewTimer(rand.N(15 * time.Millisecond))
		<-t.C
	}
	for i := range 10 {
		s, client, raw := h.session()
		_, out := attach(t, s, proto.Attach{Name: fmt.Sprint("t", i%7), Command: fmt.Sprintf("sleep 0.0%d; exit %d", rand.IntN(2), i%3)})
		wg.Go(func() { _, _ = io.Copy(io.Discard, out) })
		wg.Go(func() {
			shake()
			switch (round + i) % 5 {
			case 0:
				_ = s.Close()
			case 1:
				_ = client.Close()
			case 2:
				_ = raw.Close()
			case 3:
				_ = m.Kill("ann", fmt.Sprint("t", i%7))
			}
		})
	}
	wg.Go(func() {
		shake()
		if round%2 == 0 {
			h.EndPeer(netip.MustParseAddr("127.0.0.1"), disconnect.Attribution{
				Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "silent",
			})
		}
	})
	wg.Go(func() {
		shake()
		_ = h.Close(testutil.Context(t, patience), goodbye)
	})
	wg.Wait()
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	m.Close(testutil.Context(t, patience), goodbye.On(disconnect.AgentToClient))
	h.checkOnce()
}

func TestTerminalsAreListedAndKilledOverSSH(t *testing.T) {
	h, _ := newTerminalHost(t, reconnectingpty.Config{})
	s, client, _ := h.session()
	_, out := attach(t, s, proto.Attach{Name: "build", Command: "echo re''ady; read x"})
	readUntil(t, out, "ready")
	ask := func(options string) (answer, text string, status byte) {
		q, requests, err := client.OpenChannel("session", nil)
		require.NoError(t, err)
		defer q.Close()
		ok, err := q.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{proto.AttachSubsystem + " " + options}))
		require.NoError(t, err)
		require.True(t, ok)
		all, err := io.ReadAll(q)
		require.NoError(t, err)
		said, err := io.ReadAll(q.Stderr())
		require.NoError(t, err)
		for r := range requests {
			if r.Type == "exit-status" {
				status = r.Payload[3]
			}
		}
		return string(all), string(said), status
	}
	list, _, status := ask(`{"action":"list"}`)
	require.Zero(t, status)
	var all []proto.Terminal
	require.NoError(t, json.Unmarshal([]byte(list), &all))
	require.Len(t, all, 1)
	require.Equal(t, "build", all[0].Name)
	_, text, status := ask(`{"action":"kill","name":"other"}`)
	require.EqualValues(t, 1, status)
	require.Contains(t, text, "there is no terminal of that name")
	_, _, status = ask(`{"action":"kill","name":"build"}`)
	require.Zero(t, status)
	h.expect(disconnect.ClientClosed, disconnect.Client, proto.TerminalKilled, -1)

	q, err := client.NewSession()
	require.NoError(t, err)
	require.Error(t, q.RequestSubsystem(proto.AttachSubsystem+" not json"))
	require.NoError(t, q.Close())
}

// The stock client reaches the default terminal, is told when another takes it over, and
// gets the status of its program.
func TestOpenSSHAttaches(t *testing.T) {
	t.Parallel()
	h, m := newTerminalHost(t, reconnectingpty.Config{})
	tty, out, first := h.login("-t", "-s", "127.0.0.1", proto.AttachSubsystem)
	_, err := io.WriteString(tty, "echo re''ady\r")
	require.NoError(t, err)
	until(t, out, "ready\r\n")
	require.Equal(t, proto.DefaultTerminal, m.List("ann")[0].Name)

	tty2, out2, second := h.login("-t", "-s", "127.0.0.1", proto.AttachSubsystem+` {"take_over":true}`)
	until(t, out2, "ready\r\n")
	until(t, out, "session_replaced: another viewer took the terminal over")
	require.Equal(t, 255, exitCode(first.Wait()))
	_, err = io.WriteString(tty2, "exit 7\r")
	require.NoError(t, err)
	require.Equal(t, 7, exitCode(second.Wait()))
}
