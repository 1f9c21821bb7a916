package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/disconnect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testHeartbeat = 250 * time.Millisecond
	testLimit     = 2 * time.Second
)

// testAgent is what an agent serves to its clients, over loopback TCP: its real SSH
// server and its real companion host, wired as an agent wires them.
type testAgent struct {
	t       *testing.T
	ssh     *agentssh.Server
	host    *companion.Host
	signer  ssh.Signer
	sshAddr string
	compAt  string
	tasks   sync.WaitGroup
	ended   chan disconnect.Attribution // the agent's view of each session's end
	onBegin atomic.Pointer[func()]      // called when a session begins, before its client knows

	mu    sync.Mutex // guards conns
	conns []net.Conn // accepted ones
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return signer
}

func startAgent(t *testing.T, instance string) *testAgent {
	t.Helper()
	a := &testAgent{t: t, signer: newSigner(t), ended: make(chan disconnect.Attribution, 1024)}
	a.host = companion.NewHost(companion.HostConfig{
		Instance: instance, Heartbeat: testHeartbeat, OutageLimit: testLimit,
		OnGoodbye: func(peer netip.Addr, g disconnect.Goodbye) { a.ssh.EndPeer(peer, g.On(disconnect.AgentToClient)) },
		OnSilence: func(peer netip.Addr, at disconnect.Attribution) { a.ssh.EndPeer(peer, at) },
	})
	a.ssh = agentssh.New(agentssh.Config{
		HostKey: a.signer, KillGrace: 200 * time.Millisecond,
		PeerEnding: func(remote net.Addr) (disconnect.Attribution, bool) {
			return a.host.Ending(remote.(*net.TCPAddr).AddrPort().Addr())
		},
		Track: func(s agentssh.Session) (string, func(agentssh.Ended)) {
			id, client := uuid.NewString(), s.RemoteAddr.(*net.TCPAddr).AddrPort()
			a.host.Flow(client, id)
			if f := a.onBegin.Load(); f != nil {
				(*f)()
			}
			return id, func(e agentssh.Ended) {
				a.host.Ended(client, id, e.Attribution, e.ExitCode)
				a.ended <- e.Attribution
			}
		},
	})
	a.sshAddr = a.serve(a.ssh.Serve)
	a.compAt = a.serve(a.host.Serve)
	t.Cleanup(func() { a.stop(stopping) })
	return a
}

func (a *testAgent) serve(serve func(net.Listener) error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(a.t, err)
	a.tasks.Go(func() { _ = serve(&trackingListener{Listener: l, agent: a}) })
	return l.Addr().String()
}

type trackingListener struct {
	net.Listener
	agent *testAgent
}

func (l *trackingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.agent.mu.Lock()
		l.agent.conns = append(l.agent.conns, c)
		l.agent.mu.Unlock()
	}
	return c, err
}

var stopping = disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "SIGTERM"}

// stop is an agent that ends in order. Stopping twice is as good as once.
func (a *testAgent) stop(g disconnect.Goodbye) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = a.ssh.Close(ctx, g)
	a.host.Close(ctx, g)
	a.tasks.Wait()
}

// reset breaks all connections of which keep does not hold, as the kernel of a
// killed process may do.
func (a *testAgent) reset(keep func(net.Conn) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		if keep == nil || !keep(c) {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}
}

// path is the client's way to an agent. It can be cut off in silence, and led to
// another agent.
type path struct {
	hole atomic.Bool
	mu   sync.Mutex // guards agent
	to   *testAgent
}

func (p *path) lead(to *testAgent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

func (p *path) dial(addr func(*testAgent) string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		p.mu.Lock()
		to := p.to
		p.mu.Unlock()
		if p.hole.Load() || to == nil {
			<-ctx.Done()
			return nil, os.ErrDeadlineExceeded
		}
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr(to))
		if err != nil {
			return nil, err
		}
		return &pathConn{TCPConn: c.(*net.TCPConn), path: p, closed: make(chan struct{})}, nil
	}
}

// pathConn swallows everything in both directions while its path is a hole, the end of the
// stream too.
type pathConn struct {
	*net.TCPConn
	path      *path
	closed    chan struct{}
	closeOnce sync.Once
}

func (c *pathConn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}

func (c *pathConn) Read(b []byte) (int, error) {
	for {
		n, err := c.TCPConn.Read(b)
		if !c.path.hole.Load() || errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if err != nil {
			<-c.closed
			return 0, net.ErrClosed
		}
	}
}

func (c *pathConn) Write(b []byte) (int, error) {
	if c.path.hole.Load() {
		return len(b), nil
	}
	return c.TCPConn.Write(b)
}

// records keeps log records' attributes by key, one map each.
type records struct {
	mu  sync.Mutex // guards all
	all []map[string]any
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	fields := map[string]any{"msg": rec.Message}
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == "" && a.Value.Kind() == slog.KindGroup {
			for _, inner := range a.Value.Group() {
				fields[inner.Key] = inner.Value.Any()
			}
			return true
		}
		fields[a.Key] = a.Value.Any()
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, fields)
	return nil
}

func (r *records) of(msg string) (found []map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, fields := range r.all {
		if fields["msg"] == msg {
			found = append(found, fields)
		}
	}
	return found
}

// bench is a workspace that is open to an agent.
type bench struct {
	*Workspace
	agent *testAgent
	path  *path
	log   *records
}

func testConfig(a *testAgent, p *path, log *records) workspaceConfig {
	return workspaceConfig{
		name: "dev", hostKey: a.signer.PublicKey(), instance: "client-1",
		dialSSH:       p.dial(func(a *testAgent) string { return a.sshAddr }),
		dialCompanion: p.dial(func(a *testAgent) string { return a.compAt }),
		heartbeat:     testHeartbeat, outageLimit: testLimit, logger: slog.New(log),
	}
}

func open(t *testing.T) *bench {
	t.Helper()
	t.Parallel() // these tests wait more than they work
	b := &bench{agent: startAgent(t, "agent-1"), path: new(path), log: new(records)}
	b.path.lead(b.agent)
	var err error
	b.Workspace, err = openWorkspace(t.Context(), testConfig(b.agent, b.path, b.log), nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		b.Goodbye(context.Background(), disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Client})
	})
	require.NoError(t, b.watch.WaitHello(t.Context()))
	return b
}

// output is a buffer that is safe to look at while it grows.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// await waits until the output contains text.
func (o *output) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(o.String(), text) }, 5*time.Second, time.Millisecond)
}

// run starts a session and returns what it says, and its end.
func (b *bench) run(ctx context.Context, options SessionOptions) (*output, <-chan SessionEnd) {
	out, end := new(output), make(chan SessionEnd, 1)
	if options.Stdout == nil {
		options.Stdout = out
	}
	options.Stderr = out
	go func() { end <- b.RunSession(ctx, options) }()
	return out, end
}

// requireEnd compares the whole ending, its log record included.
func (b *bench) requireEnd(t *testing.T, end SessionEnd, code int, r disconnect.Reason, i disconnect.Initiator, detail string) {
	t.Helper()
	require.Equal(t, r, end.Attribution.Reason, end.Attribution.String())
	require.Equal(t, i, end.Attribution.Initiator, end.Attribution.String())
	require.Contains(t, end.Attribution.Detail, detail)
	require.Equal(t, disconnect.AgentToClient, end.Attribution.ConnectType)
	require.Equal(t, code, end.ExitCode)
	logged := b.log.of("session ended")
	require.Len(t, logged, 1, "an ending is logged once")
	require.Equal(t, map[string]any{
		"msg": "session ended", "workspace": "dev", "connection_id": end.ConnectionID, "exit_code": int64(code),
		disconnect.KeyConnectType: "agent_to_client",
		disconnect.KeyReason:      r.String(),
		disconnect.KeyInitiator:   i.String(),
		disconnect.KeyExpected:    r.Expected(),
		disconnect.KeyDetail:      end.Attribution.Detail,
	}, logged[0])
}
