package client

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

func TestExitCodes(t *testing.T) {
	for command, want := range map[string]struct {
		code   int
		reason disconnect.Reason
		detail string
	}{
		"true":               {0, disconnect.Graceful, "normal exit"},
		"exit 7":             {7, disconnect.ProcessExited, "error status: 7"},
		"exit 255":           {255, disconnect.ProcessExited, "error status: 255"},
		"kill -TERM $$":      {128 + 15, disconnect.ProcessSignaled, "SIGTERM"},
		"kill -KILL $$":      {128 + 9, disconnect.ProcessSignaled, "SIGKILL"},
		"/no/such/program":   {127, disconnect.ProcessExited, "127"},
		"sh -c 'exit 3'":     {3, disconnect.ProcessExited, "3"},
		"echo 'a b' | wc -w": {0, disconnect.Graceful, ""},
	} {
		t.Run(command, func(t *testing.T) {
			b := open(t)
			_, end := b.run(t.Context(), SessionOptions{Command: command})
			got := <-end
			b.requireEnd(t, got, want.code, want.reason, disconnect.Agent, want.detail)
			require.True(t, got.Exited)
			require.Equal(t, disconnect.Graceful, got.Goodbye().Reason)
			require.Equal(t, want.reason, (<-b.agent.ended).Reason)
		})
	}
}

func TestStreamsArePassed(t *testing.T) {
	b := open(t)
	var stdout, stderr output
	end := b.RunSession(t.Context(), SessionOptions{
		Command: "cat; echo after; echo oops >&2; echo $FAIRLEAD_APP",
		Env:     map[string]string{"FAIRLEAD_APP": "test"},
		Stdin:   strings.NewReader("in\n"), Stdout: &stdout, Stderr: &stderr,
	})
	b.requireEnd(t, end, 0, disconnect.Graceful, disconnect.Agent, "normal exit")
	require.Equal(t, "in\nafter\ntest\n", stdout.String(), "the end of the input is not the end of the session")
	require.Equal(t, "oops\n", stderr.String())
}

func TestNoStdinIsEmpty(t *testing.T) {
	b := open(t)
	out, end := b.run(t.Context(), SessionOptions{Command: "wc -c"})
	b.requireEnd(t, <-end, 0, disconnect.Graceful, disconnect.Agent, "")
	require.Equal(t, "0", strings.TrimSpace(out.String()))
}

func TestMuchOutputArrivesWhole(t *testing.T) {
	b := open(t)
	out, end := b.run(t.Context(), SessionOptions{Command: "head -c 10000000 /dev/zero; exit 4"})
	require.Equal(t, 4, (<-end).ExitCode)
	require.Len(t, out.String(), 10_000_000)
}

func TestTerminal(t *testing.T) {
	b := open(t)
	in, keys := io.Pipe()
	defer in.Close()
	resize := make(chan Size)
	out, end := b.run(t.Context(), SessionOptions{
		Shell: true, PTY: true, Term: "xterm-test", Size: Size{Columns: 91, Rows: 37}, Resize: resize,
		Stdin: NewEscapeReader(in, nil),
	})
	say := func(line string) {
		_, err := keys.Write([]byte(line + "\r"))
		require.NoError(t, err)
	}
	say("PS1=; stty size; echo $TERM.")
	out.await(t, "37 91")
	out.await(t, "xterm-test.")
	resize <- Size{Columns: 120, Rows: 50}
	close(resize)
	say("for i in 1 2 3 4 5 6 7 8 9; do stty size; sleep 0.1; done")
	out.await(t, "50 120")
	say("exit 5")
	got := <-end
	require.NotEmpty(t, got.ConnectionID)
	b.requireEnd(t, got, 5, disconnect.ProcessExited, disconnect.Agent, "5")
}

func TestSignalsArePassed(t *testing.T) {
	b := open(t)
	signals := make(chan os.Signal, 1)
	out, end := b.run(t.Context(), SessionOptions{
		Command: "trap 'exit 3' USR1; echo ready; while :; do sleep 0.02; done", Signals: signals,
	})
	out.await(t, "ready")
	signals <- syscall.SIGWINCH // SSH has no name for it
	signals <- syscall.SIGUSR1
	close(signals)
	b.requireEnd(t, <-end, 3, disconnect.ProcessExited, disconnect.Agent, "")
}

func TestEscapeLeaves(t *testing.T) {
	b := open(t)
	in, keys := io.Pipe()
	defer in.Close()
	out, end := b.run(t.Context(), SessionOptions{Shell: true, PTY: true, Stdin: NewEscapeReader(in, nil)})
	_, err := keys.Write([]byte("PS1=; echo re''ady\r"))
	require.NoError(t, err)
	out.await(t, "ready")
	_, err = keys.Write([]byte("~."))
	require.NoError(t, err)
	got := <-end
	b.requireEnd(t, got, 255, disconnect.ClientClosed, disconnect.Client, "~.")
	require.Equal(t, disconnect.ClientClosed, got.Goodbye().Reason)
	a := <-b.agent.ended
	require.Equal(t, disconnect.ClientClosed, a.Reason, a.String())
	require.Equal(t, disconnect.Client, a.Initiator)
	require.Equal(t, "~.", a.Detail, "the agent knows it from the client itself")
}

func TestCancelledContextLeaves(t *testing.T) {
	for name, test := range map[string]struct {
		cause  error
		reason disconnect.Reason
		detail string
	}{
		"bare": {nil, disconnect.ClientClosed, "told to stop"},
		"signal": {&disconnect.EndedError{Attribution: disconnect.Attribution{
			Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "SIGTERM",
		}}, disconnect.ClientClosed, "SIGTERM"},
		"another end": {&disconnect.EndedError{Attribution: disconnect.Attribution{
			Reason: disconnect.InternalError, Initiator: disconnect.Client, Detail: "panic",
		}}, disconnect.InternalError, "panic"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			out, end := b.run(ctx, SessionOptions{Command: "echo ready; sleep 60"})
			out.await(t, "ready")
			cancel(test.cause)
			b.requireEnd(t, <-end, 255, test.reason, disconnect.Client, test.detail)
			a := <-b.agent.ended
			require.Equal(t, test.reason, a.Reason, a.String())
		})
	}
}

// brokenWriter is a reader's end that went away, as in `fairlead ssh dev -- yes | head -1`.
type brokenWriter struct{ after int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
	}
	return len(p), nil
}

// stuckWriter is a reader's end that reads nothing, as a pager does until a key is hit.
type stuckWriter struct{ entered, release chan struct{} }

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.entered <- struct{}{}
	<-w.release
	return len(p), nil
}

func TestStuckLocalOutputDoesNotKeepTheSession(t *testing.T) {
	b := open(t)
	w := &stuckWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	defer close(w.release)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end := make(chan SessionEnd, 1)
	go func() { end <- b.RunSession(ctx, SessionOptions{Command: "echo ready; sleep 60", Stdout: w}) }()
	<-w.entered
	cancel()
	select {
	case e := <-end:
		b.requireEnd(t, e, 255, disconnect.ClientClosed, disconnect.Client, "told to stop")
	case <-testutil.Context(t, 20*time.Second).Done():
		t.Fatal("the session waits for its output")
	}
}

func TestBrokenLocalOutputLeaves(t *testing.T) {
	b := open(t)
	_, end := b.run(t.Context(), SessionOptions{Command: "yes", Stdout: &brokenWriter{after: 1 << 20}})
	b.requireEnd(t, <-end, 255, disconnect.ClientClosed, disconnect.Client, "broken pipe")
	require.Equal(t, disconnect.ClientClosed, (<-b.agent.ended).Reason)
}

func TestAgentStops(t *testing.T) {
	b := open(t)
	out, end := b.run(t.Context(), SessionOptions{Command: "echo ready; sleep 60"})
	out.await(t, "ready")
	b.agent.stop(stopping)
	b.requireEnd(t, <-end, 255, disconnect.ServerShutdown, disconnect.Agent, "SIGTERM")
	require.Equal(t, disconnect.ServerShutdown, (<-b.agent.ended).Reason)
}

// TestAgentStopsWithoutCompanion: the agent's last word over SSH alone is believed.
func TestAgentSpeaksOverSSHOnly(t *testing.T) {
	b := open(t)
	out, end := b.run(t.Context(), SessionOptions{Command: "echo ready; sleep 60"})
	out.await(t, "ready")
	b.path.mu.Lock()
	b.path.to = nil // the companion cannot come back
	b.path.mu.Unlock()
	b.agent.reset(func(c net.Conn) bool { return c.LocalAddr().String() == b.agent.sshAddr })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	require.NoError(t, b.agent.ssh.Close(ctx, stopping))
	b.requireEnd(t, <-end, 255, disconnect.ServerShutdown, disconnect.Agent, "SIGTERM")
}

// TestOnlySSHBreaks: the agent lives, and its account explains the session's end.
func TestOnlySSHBreaks(t *testing.T) {
	b := open(t)
	out, end := b.run(t.Context(), SessionOptions{Command: "echo ready; sleep 60"})
	out.await(t, "ready")
	b.agent.reset(func(c net.Conn) bool { return c.LocalAddr().String() != b.agent.sshAddr })
	got := <-end
	require.Equal(t, 255, got.ExitCode)
	require.False(t, got.Exited)
	a := <-b.agent.ended
	require.Equal(t, a.Reason, got.Attribution.Reason, "the agent's account is the session's ending")
	require.False(t, got.Attribution.Expected())
	require.Zero(t, b.Ending(), "the agent itself is well")
}

// TestAgentIsKilled: its sockets break, a new process answers in its place.
func TestAgentIsKilled(t *testing.T) {
	for name, test := range map[string]struct {
		told   func(w *Workspace)
		reason disconnect.Reason
		by     disconnect.Initiator
		detail string
	}{
		"server saw the crash": {func(w *Workspace) {
			w.presence("agent-1", false, false, disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
		}, disconnect.PeerCrashed, disconnect.Agent, "new agent process"},
		"server heard a goodbye": {func(w *Workspace) {
			w.presence("agent-1", false, true, stopping.On(disconnect.ServerToAgent))
		}, disconnect.ServerShutdown, disconnect.Agent, "SIGTERM"},
		"server says nothing": {func(*Workspace) {}, disconnect.NetworkError, disconnect.Network, "has not said"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			out, end := b.run(t.Context(), SessionOptions{Command: "echo ready; sleep 60"})
			out.await(t, "ready")
			b.path.lead(startAgent(t, "agent-2"))
			test.told(b.Workspace)
			b.agent.reset(nil)
			b.requireEnd(t, <-end, 255, test.reason, test.by, test.detail)
		})
	}
}

func TestOutageLimit(t *testing.T) {
	b := open(t)
	out, end := b.run(t.Context(), SessionOptions{Command: "echo ready; sleep 60"})
	out.await(t, "ready")
	start := time.Now()
	b.path.hole.Store(true)
	b.requireEnd(t, <-end, 255, disconnect.NetworkTimeout, disconnect.Network, "nothing heard from the agent for 2s")
	require.GreaterOrEqual(t, time.Since(start), testLimit-2*testHeartbeat)
	a := <-b.agent.ended
	require.Equal(t, disconnect.NetworkTimeout, a.Reason, a.String())
}

// TestAgentIsGoneBeforeTheSessionBegan: nobody answers, and the transport does not fail
// either. Nothing waits for ever.
func TestAgentIsGoneBeforeTheSessionBegan(t *testing.T) {
	for _, when := range []string{"handshake", "request"} {
		t.Run(when, func(t *testing.T) {
			b := open(t)
			gone := func() { b.path.hole.Store(true) }
			if when == "request" {
				b.agent.onBegin.Store(&gone)
			} else {
				gone()
			}
			_, ended := b.run(t.Context(), SessionOptions{Command: "sleep 60"})
			end := <-ended
			b.requireEnd(t, end, 255, disconnect.NetworkTimeout, disconnect.Network, "nothing heard from the agent for 2s")
			require.ErrorContains(t, end.Err, "nothing heard from the agent")
		})
	}
}

func TestLeavingASilentAgentIsNotAChoice(t *testing.T) {
	b := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	out, end := b.run(ctx, SessionOptions{Command: "echo ready; sleep 60"})
	out.await(t, "ready")
	b.path.hole.Store(true)
	require.Eventually(t, func() bool { _, silent := b.Interrupted(); return silent }, testLimit, time.Millisecond)
	cancel()
	b.requireEnd(t, <-end, 255, disconnect.NetworkTimeout, disconnect.Network, "when the user gave up")
}

// TestWhatIsKnownOfASilence: this machine knows best, and who does not hear the server has
// old news of it.
func TestWhatIsKnownOfASilence(t *testing.T) {
	b := open(t)
	require.Empty(t, b.Known())
	b.presence("agent-1", true, false, disconnect.Attribution{})
	require.Equal(t, "server hears it", b.Known())
	b.config.serverSilent = func() bool { return true }
	require.Equal(t, "the server too", b.Known())
}

func TestSessionSurvivesALostCompanionStream(t *testing.T) {
	b := open(t)
	in, keys := io.Pipe()
	out, end := b.run(t.Context(), SessionOptions{Command: "echo ready; cat; exit 6", Stdin: in})
	out.await(t, "ready")
	b.agent.reset(func(c net.Conn) bool { return c.LocalAddr().String() == b.agent.sshAddr })
	require.True(t, b.watch.Heard(t.Context(), time.Now()))
	require.NoError(t, keys.Close())
	b.requireEnd(t, <-end, 6, disconnect.ProcessExited, disconnect.Agent, "6")
}

func TestHostKeyMismatch(t *testing.T) {
	for name, pinned := range map[string]ssh.PublicKey{"another key": newSigner(t).PublicKey(), "no key": nil} {
		t.Run(name, func(t *testing.T) {
			agent, p := startAgent(t, "agent-1"), new(path)
			p.lead(agent)
			config := testConfig(agent, p, new(records))
			config.hostKey = pinned
			w, err := openWorkspace(t.Context(), config, nil)
			require.NoError(t, err)
			defer w.Goodbye(t.Context(), disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client})
			end := w.RunSession(t.Context(), SessionOptions{Command: "true"})
			require.Equal(t, 255, end.ExitCode)
			require.Equal(t, disconnect.TLSFailure, end.Attribution.Reason)
			var mismatch *HostKeyError
			require.ErrorAs(t, end.Err, &mismatch)
			require.Equal(t, ssh.FingerprintSHA256(agent.signer.PublicKey()), mismatch.Got)
			require.Equal(t, mismatch.Error(), end.Err.Error(), "one clear sentence")
			require.Contains(t, end.Err.Error(), "refuse to connect to workspace dev: its SSH host key is SHA256:")
			_, err = w.SSH(t.Context())
			require.ErrorAs(t, err, &mismatch)
		})
	}
}

func TestSSHClientForOthers(t *testing.T) {
	b := open(t)
	conn, err := b.SSH(t.Context())
	require.NoError(t, err)
	session, err := conn.NewSession()
	require.NoError(t, err)
	out, err := session.Output("echo hello")
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(out))
	require.NoError(t, conn.Close())
}

// TestSomethingElseAnswers on the SSH port.
func TestSomethingElseAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		says   string
		reason disconnect.Reason
	}{
		"a web server": {"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", disconnect.NetworkError},
		"noise":        {strings.Repeat("\xff", 70000), disconnect.ProtocolError},
		"nothing":      {"", disconnect.NetworkError},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, test.says)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
			config := testConfig(startAgent(t, "agent-1"), new(path), new(records))
			config.dialSSH = func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
			}
			w, err := openWorkspace(t.Context(), config, nil)
			require.NoError(t, err)
			end := w.RunSession(t.Context(), SessionOptions{Command: "true"})
			require.Error(t, end.Err)
			require.Contains(t, end.Err.Error(), "open ssh connection to workspace dev: ")
			require.Equal(t, test.reason, end.Attribution.Reason, end.Attribution.String())
			w.Goodbye(t.Context(), disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client})
			require.NoError(t, l.Close())
			<-done
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	config := testConfig(startAgent(t, "agent-1"), new(path), new(records))
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	config.dialSSH = func(context.Context) (net.Conn, error) { return nil, refused }
	_, err := openWorkspace(t.Context(), config, nil)
	require.ErrorContains(t, err, "connect to workspace dev: ")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	a, ok := disconnect.FromError(err)
	require.True(t, ok)
	require.Equal(t, disconnect.ConnectionRefused, a.Reason)

	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, gaveUp)
	defer cancel()
	config.dialSSH = new(path).dial(nil)
	_, err = openWorkspace(ctx, config, nil)
	require.ErrorContains(t, err, "gave up")
}
