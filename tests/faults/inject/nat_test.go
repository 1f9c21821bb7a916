package inject

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRebind(t *testing.T) {
	t.Parallel()
	lab := build(t, "rebind")
	e := serveEcho(t, lab.Agent)
	p := newPinger(t, lab.Client, e)
	p.reaches()
	before := e.lastPeer()
	for range 2 { // again, and again another one
		c := dial(t, lab.Client, e)
		rebound := done[*Injection](t)(Rebind(t.Context(), lab))
		require.Error(t, exchange(c, 5*time.Second))
		dial(t, lab.Client, e)
		p.reaches()
		hostBefore, portBefore, _ := net.SplitHostPort(before)
		host, port, _ := net.SplitHostPort(e.lastPeer())
		require.Equal(t, hostBefore, host)
		require.NotEqual(t, portBefore, port)
		before = e.lastPeer()
		undo(t, rebound)
		p.reaches()
		require.Equal(t, before, e.lastPeer(), "what flows stays as it is")
	}
}

func TestRenumber(t *testing.T) {
	t.Parallel()
	lab := build(t, "renumber")
	e := serveEcho(t, lab.Agent)
	p, c := newPinger(t, lab.Client, e), dial(t, lab.Client, e)
	p.reaches()
	require.Contains(t, e.lastPeer(), "10.77.9.2:")
	renumbered := done[*Injection](t)(Renumber(t.Context(), lab))
	p.reaches()
	require.Contains(t, e.lastPeer(), "10.77.9.3:")
	require.Error(t, exchange(c, 2*time.Second))
	undo(t, renumbered)
	p.reaches()
	require.Contains(t, e.lastPeer(), "10.77.9.2:")
}

// TestForgetFlows: TCP from inside is not taken up again, and new flows begin.
func TestForgetFlows(t *testing.T) {
	t.Parallel()
	lab := build(t, "forget")
	e := serveEcho(t, lab.Agent)
	c, p := dial(t, lab.Client, e), newPinger(t, lab.Client, e)
	forgotten := done[*Injection](t)(ForgetFlows(t.Context(), lab))
	require.ErrorContains(t, exchange(c, 2*time.Second), "i/o timeout")
	dial(t, lab.Client, e)
	p.reaches()
	undo(t, forgotten)
	require.NoError(t, exchange(c, patience), "TCP sends again what was lost")
}
