package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

// local is the local SSH client at the other end of our standard streams: real pipes.
type local struct {
	toUs, fromUs *os.File // its ends
	in, out      *os.File // ours
	end          chan SessionEnd
}

func (b *bench) stdioStart(t *testing.T, ctx context.Context, parentGone func() bool) *local {
	t.Helper()
	l := &local{end: make(chan SessionEnd, 1)}
	var err error
	l.in, l.toUs, err = os.Pipe()
	require.NoError(t, err)
	l.fromUs, l.out, err = os.Pipe()
	require.NoError(t, err)
	var done sync.WaitGroup
	done.Go(func() {
		end := b.stdio(ctx, l.in, l.out, parentGone)
		b.logEnd(ctx, &end)
		_ = l.out.Close() // the process ends
		l.end <- end
	})
	t.Cleanup(func() {
		_, _ = l.toUs.Close(), l.fromUs.Close()
		done.Wait()
		_ = l.in.Close()
	})
	return l
}

func alive() bool { return false }
func gone() bool  { return true }

// pipeConn makes the two pipes a connection for an SSH client.
type pipeConn struct {
	net.Conn
	l *local
}

func (c *pipeConn) Read(p []byte) (int, error)  { return c.l.fromUs.Read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.l.toUs.Write(p) }
func (c *pipeConn) Close() error                { return errors.Join(c.l.toUs.Close(), c.l.fromUs.Close()) }
func (c *pipeConn) RemoteAddr() net.Addr        { return &net.TCPAddr{} }
func (c *pipeConn) LocalAddr() net.Addr         { return &net.TCPAddr{} }

func (l *local) ssh(t *testing.T) *ssh.Client {
	t.Helper()
	conn, channels, requests, err := ssh.NewClientConn(&pipeConn{l: l}, "dev", &ssh.ClientConfig{
		User: "me", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	require.NoError(t, err)
	client := ssh.NewClient(conn, channels, requests)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// readyCommand runs a command that goes on for long, and waits until it does.
func readyCommand(t *testing.T, client *ssh.Client) {
	t.Helper()
	session, err := client.NewSession()
	require.NoError(t, err)
	out, err := session.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, session.Start("echo ready; sleep 60"))
	_, err = io.ReadFull(out, make([]byte, 6))
	require.NoError(t, err)
}

// TestStdioKilledParent: the pipes close while the SSH connection is in use, and the
// parent is gone. That was nobody's choice, and the agent hears so.
func TestStdioKilledParent(t *testing.T) {
	b := open(t)
	l := b.stdioStart(t, t.Context(), gone)
	readyCommand(t, l.ssh(t))
	require.NoError(t, errors.Join(l.toUs.Close(), l.fromUs.Close()))
	b.requireEnd(t, <-l.end, 255, disconnect.PeerCrashed, disconnect.Client, "local ssh client went away")
	a := <-b.agent.ended
	require.Equal(t, disconnect.PeerCrashed, a.Reason, a.String())
	require.Equal(t, disconnect.Client, a.Initiator)
}

// TestStdioOrderlyExit: the account of the agent is the ending, though the
// local client closes first.
func TestStdioOrderlyExit(t *testing.T) {
	b := open(t)
	l := b.stdioStart(t, t.Context(), gone)
	session, err := l.ssh(t).NewSession()
	require.NoError(t, err)
	var exit *ssh.ExitError
	require.ErrorAs(t, session.Run("exit 3"), &exit)
	require.NoError(t, errors.Join(l.toUs.Close(), l.fromUs.Close()))
	end := <-l.end
	require.Equal(t, disconnect.ProcessExited, (<-b.agent.ended).Reason)
	require.Equal(t, disconnect.ProcessExited, end.Attribution.Reason, end.Attribution.String())
	require.Zero(t, end.ExitCode, "the local client passes the status on")
}

func TestStdioSignalLeaves(t *testing.T) {
	b := open(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	l := b.stdioStart(t, ctx, alive)
	readyCommand(t, l.ssh(t))
	cancel(&disconnect.EndedError{Attribution: disconnect.Attribution{
		Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "SIGHUP",
	}})
	b.requireEnd(t, <-l.end, 0, disconnect.ClientClosed, disconnect.Client, "SIGHUP")
	a := <-b.agent.ended
	require.Equal(t, disconnect.ClientClosed, a.Reason)
	require.Equal(t, "SIGHUP", a.Detail)
}

// TestStdioHangupOfAKilledParent: the terminal of a killed ssh hangs up, which is nobody's
// choice either.
func TestStdioHangupOfAKilledParent(t *testing.T) {
	b := open(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	l := b.stdioStart(t, ctx, gone)
	readyCommand(t, l.ssh(t))
	cancel(&disconnect.EndedError{Attribution: disconnect.Attribution{
		Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "SIGHUP",
	}})
	b.requireEnd(t, <-l.end, 255, disconnect.PeerCrashed, disconnect.Client, "local ssh client went away")
	require.Equal(t, disconnect.PeerCrashed, (<-b.agent.ended).Reason)
}

func TestStdioAgentStops(t *testing.T) {
	b := open(t)
	l := b.stdioStart(t, t.Context(), alive)
	readyCommand(t, l.ssh(t))
	b.agent.stop(stopping)
	b.requireEnd(t, <-l.end, 255, disconnect.ServerShutdown, disconnect.Agent, "SIGTERM")
}

func TestStdioOutageLimit(t *testing.T) {
	b := open(t)
	l := b.stdioStart(t, t.Context(), alive)
	readyCommand(t, l.ssh(t))
	b.path.hole.Store(true)
	b.requireEnd(t, <-l.end, 255, disconnect.NetworkTimeout, disconnect.Network, "nothing heard")
}

// TestStdioHalfClose: the end of the input is passed on as such, and what comes after
// it from the other side arrives whole.
func TestStdioHalfClose(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var server sync.WaitGroup
	server.Go(func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(c)
		_, _ = c.Write(all)
		_ = c.Close()
	})
	defer server.Wait()
	defer listener.Close()

	b := &bench{agent: startAgent(t, "agent-1"), path: new(path), log: new(records)}
	b.path.lead(b.agent)
	config := testConfig(b.agent, b.path, b.log)
	config.dialSSH = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}
	b.Workspace, err = openWorkspace(t.Context(), config, nil)
	require.NoError(t, err)
	defer b.Goodbye(context.Background(), disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Client})

	l := b.stdioStart(t, t.Context(), alive)
	sent := make([]byte, 10<<20)
	_, _ = rand.Read(sent)
	server.Go(func() {
		_, _ = l.toUs.Write(sent)
		_ = l.toUs.Close()
	})
	got, err := io.ReadAll(l.fromUs)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	b.requireEnd(t, <-l.end, 0, disconnect.ClientClosed, disconnect.Client, "the input ended")
}

// TestStdioClosedOutput: nobody takes the agent's bytes any more.
func TestStdioClosedOutput(t *testing.T) {
	b := open(t)
	in, keys := io.Pipe()
	defer keys.Close()
	end := b.stdio(t.Context(), in, &brokenWriter{}, alive)
	b.logEnd(t.Context(), &end)
	b.requireEnd(t, end, 255, disconnect.PeerCrashed, disconnect.Client, "went away")
}

// TestStdioStuckOutput: a local client that reads nothing does not keep a command that
// was told to stop.
func TestStdioStuckOutput(t *testing.T) {
	b := open(t)
	in, keys := io.Pipe()
	defer keys.Close()
	w := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	defer close(w.release)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end := make(chan SessionEnd, 1)
	go func() { end <- b.stdio(ctx, in, w, alive) }()
	<-w.entered // the agent's version
	cancel()
	select {
	case e := <-end:
		require.Equal(t, disconnect.ClientClosed, e.Attribution.Reason)
	case <-testutil.Context(t, 20*time.Second).Done():
		t.Fatal("the command waits for its output")
	}
}

func TestStdioNotConnected(t *testing.T) {
	b := open(t)
	first, err := b.DialSSH(t.Context())
	require.NoError(t, err)
	defer first.Close()
	b.path.lead(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	end := b.Stdio(ctx, bytes.NewReader(nil), io.Discard)
	require.ErrorContains(t, end.Err, "connect to workspace dev: ")
	require.Equal(t, 255, end.ExitCode)
	require.Len(t, b.log.of("session ended"), 1)
}

func TestTransferTellsTheEndsApart(t *testing.T) {
	broken := errors.New("broken")
	readErr, writeErr := transfer(io.Discard, io.MultiReader(bytes.NewReader([]byte("x")), &failing{broken}))
	require.ErrorIs(t, readErr, broken)
	require.NoError(t, writeErr)
	readErr, writeErr = transfer(&brokenWriter{}, bytes.NewReader([]byte("x")))
	require.NoError(t, readErr)
	require.Error(t, writeErr)
	readErr, writeErr = transfer(io.Discard, bytes.NewReader([]byte("x")))
	require.NoError(t, readErr)
	require.NoError(t, writeErr)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }
