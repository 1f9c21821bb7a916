package inject

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/linkem"
	"fairlead.dev/fairlead/tests/faults/netlab"
)

type impairer func(context.Context, *netlab.Host, linkem.Impairment, linkem.Impairment) (*Impaired, error)

// TestImpair: both engines do the same to the cables of site hosts, and of the client.
func TestImpair(t *testing.T) {
	t.Parallel()
	for name, impair := range map[string]impairer{"emulator": ImpairByEmulator, "netem": ImpairByNetem} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "netem" && !hasNetem(t.Context()) {
				t.Skip("this kernel has no netem")
			}
			lab := build(t, "impair-"+name)
			e := serveEcho(t, lab.Agent)
			testImpair(t, lab.Agent, impair, newPinger(t, lab.Client, e), newPinger(t, lab.Server, e))
			testImpair(t, lab.Client, impair, newPinger(t, lab.Client, e), newPinger(t, lab.Client, e))
		})
	}
}

func testImpair(t *testing.T, h *netlab.Host, impair impairer, p, q *pinger) {
	p.reaches()
	q.reaches()
	const slow = 60 * time.Millisecond
	bad := done[*Impaired](t)(impair(t.Context(), h, linkem.Impairment{Delay: slow}, linkem.Impairment{Delay: slow}))
	for range 5 {
		ok, took, err := p.ping(100, patience)
		require.NoError(t, err)
		require.True(t, ok)
		require.GreaterOrEqual(t, took, 2*slow)
	}
	change := func(toHost, fromHost linkem.Impairment) {
		t.Helper()
		i, err := bad.Set(t.Context(), toHost, fromHost)
		done[*Injection](t)(i, err)
	}
	share := func(count int) (came int) {
		t.Helper()
		for range count {
			if ok, _, _ := q.ping(100, 100*time.Millisecond); ok {
				came++
			}
		}
		return came
	}
	change(linkem.Impairment{Loss: 100}, linkem.Impairment{})
	require.Zero(t, share(3), "one way is enough to lose an answer")
	change(linkem.Impairment{}, linkem.Impairment{Corrupt: 100})
	require.Zero(t, share(3), "the checksum finds it")
	change(linkem.Impairment{Loss: 50}, linkem.Impairment{})
	require.InDelta(t, 20, share(40), 14)
	change(linkem.Impairment{}, linkem.Impairment{})
	require.GreaterOrEqual(t, share(20), 15, "a good cable, on a busy machine")

	// 1400 bytes of payload are 11.5 kbit: a tenth of a second each way at this rate.
	change(linkem.Impairment{Rate: 115_000}, linkem.Impairment{Rate: 115_000})
	ok, took, err := p.ping(1400, patience)
	require.NoError(t, err)
	require.True(t, ok)
	require.Greater(t, took, 150*time.Millisecond)
	undo(t, bad)
	p.reaches()
	q.reaches()
}

// TestMangle: TCP believes it, and only who reads it sees that it is wrong.
func TestMangle(t *testing.T) {
	t.Parallel()
	lab := build(t, "mangle")
	e := serveEcho(t, lab.Agent)
	c := dial(t, lab.Client, e)
	bad := done[*Impaired](t)(ImpairByEmulator(t.Context(), lab.Agent, linkem.Impairment{}, linkem.Impairment{}))
	require.NoError(t, exchange(c, patience), "a connection that is open stays so")

	_, err := bad.Set(t.Context(), linkem.Impairment{}, linkem.Impairment{Mangle: 100})
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Write([]byte("abcdefgh"))
	require.NoError(t, err)
	got := make([]byte, 8)
	_, err = c.Read(got)
	require.NoError(t, err, "it arrives")
	require.NotEqual(t, "abcdefgh", string(got), "as something else")
	require.ElementsMatch(t, []byte("abcdefgh"), got)
	undo(t, bad)
	require.NoError(t, exchange(c, patience))
}

func TestNetemArgs(t *testing.T) {
	args, err := netemArgs(linkem.Impairment{Delay: time.Second, Jitter: time.Millisecond, Loss: 1.5, Duplicate: 2, Reorder: 3, Corrupt: 4, Rate: 5})
	require.NoError(t, err)
	require.Equal(t, []string{"delay", "1000000us", "1000us", "loss", "1.5%", "duplicate", "2%", "reorder", "3%", "corrupt", "4%", "rate", "5bit"}, args)
	_, err = netemArgs(linkem.Impairment{Mangle: 1})
	require.Error(t, err)
	_, err = netemArgs(linkem.Impairment{Reorder: 1})
	require.Error(t, err)
}
