package companion

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// network carries streams from one client address to whichever listener holds the
// agent's address, inside a synctest bubble.
type network struct {
	hole atomic.Bool // swallow everything in both directions

	mu       sync.Mutex // guards listener and conns
	listener *pipeListener
	conns    []net.Conn // both ends
}

// testLimit is the outage limit of both ends, unless a test says otherwise.
const testLimit = time.Minute

var clientAddr = netip.MustParseAddr("fd66:6169:726c::c")

func (n *network) dial(ctx context.Context) (net.Conn, error) {
	if n.hole.Load() {
		<-ctx.Done()
		return nil, os.ErrDeadlineExceeded
	}
	n.mu.Lock()
	l := n.listener
	n.mu.Unlock()
	if l == nil {
		<-ctx.Done() // a dead agent's address does not answer
		return nil, os.ErrDeadlineExceeded
	}
	a, b := net.Pipe()
	near := &pipeConn{Conn: a, network: n}
	far := &pipeConn{Conn: b, network: n, from: net.TCPAddrFromAddrPort(netip.AddrPortFrom(clientAddr, 50000))}
	select {
	case l.accept <- far:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	n.mu.Lock()
	n.conns = append(n.conns, near, far)
	n.mu.Unlock()
	return near, nil
}

// cut breaks every stream without a word, as a reset would.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

func (n *network) listen() *pipeListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listener = &pipeListener{accept: make(chan net.Conn), closed: make(chan struct{})}
	return n.listener
}

// unplug makes the agent's address silent.
func (n *network) unplug() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listener = nil
}

type pipeConn struct {
	net.Conn
	network *network
	from    net.Addr
}

func (c *pipeConn) Write(p []byte) (int, error) {
	if c.network.hole.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *pipeConn) RemoteAddr() net.Addr {
	if c.from != nil {
		return c.from
	}
	return c.Conn.RemoteAddr()
}

type pipeListener struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// testClock is the clock of one machine in a bubble. It can stand still while the bubble's
// time goes on, as a machine does that sleeps, or a process that is stopped.
type testClock struct {
	mu     sync.Mutex // guards all below
	began  time.Time
	slept  time.Duration
	frozen Reading // not zero: it stands still
}

func newTestClock() *testClock { return &testClock{began: time.Now().Add(-time.Hour)} }

func (c *testClock) now() Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen != (Reading{}) {
		return c.frozen
	}
	boot := time.Since(c.began)
	return Reading{Boot: boot, Awake: boot - c.slept}
}

func (c *testClock) freeze() {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = now
}

// thaw goes on. If the machine slept, its clock without sleep has not moved.
func (c *testClock) thaw(slept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slept {
		c.slept += time.Since(c.began) - c.frozen.Boot
	}
	c.frozen = Reading{}
}

// testHost is a host with what it reported.
type testHost struct {
	*Host
	clock         *testClock
	interruptions chan Interruption
	kicks         atomic.Int64
	stones        atomic.Pointer[[]*proto.CompanionTombstone]
	goodbyes      chan disconnect.Goodbye
	silences      chan disconnect.Attribution
	served        chan struct{} // closed when Serve returned
	err           error         // what Serve returned
	listener      *pipeListener
}

func startHost(n *network, instance string) *testHost {
	h := &testHost{
		goodbyes: make(chan disconnect.Goodbye, 8),
		silences: make(chan disconnect.Attribution, 8),
		served:   make(chan struct{}),
		listener: n.listen(),
		clock:    newTestClock(), interruptions: make(chan Interruption, 64),
	}
	h.Host = NewHost(HostConfig{
		Instance: instance, OutageLimit: testLimit,
		OnGoodbye: func(_ netip.Addr, g disconnect.Goodbye) { h.goodbyes <- g },
		OnSilence: func(_ netip.Addr, a disconnect.Attribution) { h.silences <- a },
		Clock:     h.clock.now, Kick: func(netip.Addr) { h.kicks.Add(1) },
		Tombstones: func(netip.Addr) (stones []*proto.CompanionTombstone) {
			if all := h.stones.Load(); all != nil {
				stones = *all
			}
			return stones
		},
		Addresses:      func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, // of home
		OnInterruption: func(_ netip.Addr, i Interruption) { h.interruptions <- i },
	})
	go func() { defer close(h.served); h.err = h.Serve(h.listener) }()
	return h
}

// stop ends the host in order.
func (h *testHost) stop(t *testing.T) {
	t.Helper()
	h.Close(t.Context(), stopping)
	<-h.served
	require.NoError(t, h.err)
}

// kill is what kill -9 leaves: no word, no FIN, and the address unanswered.
func (h *testHost) kill(t *testing.T, n *network) {
	t.Helper()
	n.hole.Store(true)
	n.unplug()
	h.stop(t)
	n.cut()
	n.hole.Store(false)
}

var (
	stopping = disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "SIGTERM"}
	leaving  = disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "~."}
)

func startWatch(n *network) *Watch {
	return NewWatch(WatchConfig{Dial: n.dial, Instance: "client-1", OutageLimit: testLimit, Clock: newTestClock().now})
}

// session runs f in a bubble with a host "agent-1" and a watch that knows it.
func session(t *testing.T, f func(t *testing.T, n *network, h *testHost, w *Watch)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		w := startWatch(n)
		require.NoError(t, w.WaitHello(t.Context()))
		require.Equal(t, "agent-1", w.AgentInstance())
		synctest.Wait()
		defer h.stop(t)
		defer w.Close()
		f(t, n, h, w)
	})
}

// elapse lets d pass in the bubble.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func requireAlive(t *testing.T, w *Watch) {
	t.Helper()
	select {
	case <-w.Done():
		require.Fail(t, "ended", w.Ending().String())
	default:
	}
	require.Zero(t, w.Ending())
}

func requireEnded(t *testing.T, w *Watch, r disconnect.Reason, i disconnect.Initiator, detail string) {
	t.Helper()
	<-w.Done()
	a := w.Ending()
	require.Equal(t, r, a.Reason, a.String())
	require.Equal(t, i, a.Initiator, a.String())
	require.Equal(t, disconnect.AgentToClient, a.ConnectType)
	require.Contains(t, a.Detail, detail)
}
