package inject

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

func TestDrop(t *testing.T) {
	t.Parallel()
	lab := build(t, "drop")
	agent, server := serveEcho(t, lab.Agent), serveEcho(t, lab.Server)
	toAgent, toServer, between := newPinger(t, lab.Client, agent), newPinger(t, lab.Client, server), newPinger(t, lab.Agent, server)

	// Both ways between two, and nobody else.
	drop := done[*Injection](t)(Drop(t.Context(), lab, Both(lab.Client, lab.Agent)...))
	toAgent.silent()
	toServer.reaches()
	between.reaches()
	hit, err := Filtered(t.Context(), lab)
	require.NoError(t, err)
	require.GreaterOrEqual(t, hit, int64(3))
	undo(t, drop)
	toAgent.reaches()

	// One way: the question arrives, the answer does not.
	drop = done[*Injection](t)(Drop(t.Context(), lab, Flow{From: lab.Server, To: lab.Agent}))
	before := server.lastPeer()
	fresh := newPinger(t, lab.Agent, server)
	fresh.silent()
	require.NotEqual(t, before, server.lastPeer())
	require.Equal(t, fresh.conn.LocalAddr().String(), server.lastPeer())
	undo(t, drop)
	between.reaches()

	// One protocol.
	c := dial(t, lab.Client, agent)
	drop = done[*Injection](t)(Drop(t.Context(), lab, With(Both(lab.Client, lab.Agent), "tcp", 7777)...))
	toAgent.reaches()
	require.ErrorContains(t, exchange(c, time.Second), "i/o timeout", "silence, no error of the network")
	undo(t, drop)
	require.NoError(t, exchange(dial(t, lab.Client, agent), patience))

	_, err = Drop(t.Context(), lab, Flow{From: lab.Switch})
	require.Error(t, err)
	_, err = Drop(t.Context(), lab, Flow{Port: 7})
	require.Error(t, err)
}

func TestBlockUDP(t *testing.T) {
	t.Parallel()
	lab := build(t, "udp")
	e := serveEcho(t, lab.Agent)
	p := newPinger(t, lab.Client, e)
	p.reaches()
	blocked := done[*Injection](t)(BlockUDP(t.Context(), lab))
	p.silent()
	dial(t, lab.Client, e)
	_, err := lab.Client.Run(t.Context(), "getent", "ahostsv4", lab.Server.DNSName())
	require.NoError(t, err)
	undo(t, blocked)
	p.reaches()
}

func TestDropSome(t *testing.T) {
	t.Parallel()
	lab := build(t, "some")
	p := newPinger(t, lab.Client, serveEcho(t, lab.Agent))
	p.reaches()
	some := done[*Injection](t)(DropSome(t.Context(), lab, 50, Flow{From: lab.Client}))
	came := 0
	for range 40 {
		if ok, _, _ := p.ping(10, 100*time.Millisecond); ok {
			came++
		}
	}
	require.InDelta(t, 20, came, 14)
	undo(t, some)
	p.reaches()
}

func TestBlackholeMTU(t *testing.T) {
	t.Parallel()
	lab := build(t, "mtu")
	e := serveEcho(t, lab.Agent)
	p := newPinger(t, lab.Client, e)
	p.reaches()
	hole := done[*Injection](t)(BlackholeMTU(t.Context(), lab, 1280))
	ok, _, err := p.ping(1280-28, patience)
	require.NoError(t, err)
	require.True(t, ok, "as large as may pass")
	for range 3 {
		ok, _, err = p.ping(1280-28+1, 300*time.Millisecond)
		require.NoError(t, err)
		require.False(t, ok)
	}
	undo(t, hole)
	ok, _, err = p.ping(1400, patience)
	require.NoError(t, err)
	require.True(t, ok)
}

func TestReset(t *testing.T) {
	t.Parallel()
	lab := build(t, "reset")
	e := serveEcho(t, lab.Agent)
	live := dial(t, lab.Client, e)
	reset := done[*Injection](t)(Reset(t.Context(), lab, Both(lab.Client, lab.Agent)...))
	require.ErrorIs(t, exchange(live, patience), syscall.ECONNRESET)
	_, err := lab.Client.Dial(t.Context(), "tcp4", e.addr)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	newPinger(t, lab.Client, e).reaches()
	undo(t, reset)
	dial(t, lab.Client, e)
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	lab := build(t, "icmp")
	e := serveEcho(t, lab.Agent)
	for kind, errno := range map[string]syscall.Errno{
		"host-unreachable": syscall.EHOSTUNREACH, "admin-prohibited": syscall.EHOSTUNREACH,
		"net-unreachable": syscall.ENETUNREACH, "port-unreachable": syscall.ECONNREFUSED,
	} {
		live := dial(t, lab.Server, e)
		bad := done[*Injection](t)(Unreachable(t.Context(), lab, kind, Both(lab.Server, lab.Agent)...))
		_, err := lab.Server.Dial(t.Context(), "tcp4", e.addr)
		require.ErrorIs(t, err, errno, kind)
		require.ErrorContains(t, exchange(live, time.Second), "i/o timeout", "one that lives hears nothing of it")
		undo(t, bad)
		dial(t, lab.Server, e)
	}
}

func TestKillSockets(t *testing.T) {
	t.Parallel()
	lab := build(t, "sockets")
	e := serveEcho(t, lab.Agent)
	c, other := dial(t, lab.Server, e), dial(t, lab.Relay, e)
	killed, err := KillSockets(t.Context(), lab.Server, "dst", e.addr)
	done[*Injection](t)(killed, err)
	require.ErrorIs(t, exchange(c, patience), syscall.ECONNABORTED)
	require.NoError(t, exchange(other, patience))
	_, err = KillSockets(t.Context(), lab.Server, "dst", e.addr)
	require.ErrorContains(t, err, "no such socket")
	_, err = KillSockets(t.Context(), lab.Server)
	require.Error(t, err)
}

func TestBreakDNS(t *testing.T) {
	t.Parallel()
	lab := build(t, "dns")
	resolves := func() bool {
		_, err := lab.Agent.Run(t.Context(), "getent", "ahostsv4", lab.Server.DNSName())
		return err == nil
	}
	require.True(t, resolves())
	for _, how := range []netlab.DNSAnswer{netlab.DNSNoSuch, netlab.DNSServFail, netlab.DNSSilent} {
		bad := done[*Injection](t)(BreakDNS(t.Context(), lab, how))
		require.False(t, resolves(), how)
		undo(t, bad)
		require.True(t, resolves())
	}
}
