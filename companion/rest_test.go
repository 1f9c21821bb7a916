package companion

import (
	"bytes"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// missedLines counts the lines of a log that say that the other end is not heard.
type missedLines struct{ atomic.Int64 }

func (m *missedLines) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("is not heard")) {
		m.Add(1)
	}
	return len(line), nil
}

// TestHeartbeatsRest: both ends send one in 15 s while nothing is open, and every 2 s from
// the moment on that something is; and neither takes the other's rest for silence.
func TestHeartbeatsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		defer h.stop(t)
		var kicks, interruptions atomic.Int64
		var missed missedLines
		w := NewWatch(WatchConfig{
			Dial: n.dial, Instance: "client-1", OutageLimit: 10 * time.Minute, Clock: newTestClock().now,
			Logger:         slog.New(slog.NewTextHandler(&missed, nil)),
			OnInterruption: func(Interruption) { interruptions.Add(1) }, Kick: func() { kicks.Add(1) },
		})
		defer w.Close()
		require.NoError(t, w.WaitHello(t.Context()))
		sent := func() (host, watch uint64) {
			w.mu.Lock()
			host = w.stream.seen.Load()
			w.mu.Unlock()
			h.mu.Lock()
			watch = h.peers[clientAddr].stream.seen.Load()
			h.mu.Unlock()
			return host, watch
		}
		in := func(d time.Duration) (host, watch float64) {
			h0, w0 := sent()
			elapse(d)
			h1, w1 := sent()
			return float64(h1 - h0), float64(w1 - w0)
		}
		elapse(time.Minute)
		host, watch := in(5 * time.Minute)
		require.InDelta(t, 20, host, 1)
		require.InDelta(t, 20, watch, 1)
		_, interrupted := w.Interrupted()
		require.False(t, interrupted)

		h.Flow(flowAddr(50001), "conn-1")
		elapse(time.Second)
		host, watch = in(time.Minute)
		require.InDelta(t, 30, host, 1)
		require.InDelta(t, 30, watch, 1)
		n.hole.Store(true)
		elapse(5 * time.Second)
		_, interrupted = w.Interrupted()
		require.True(t, interrupted, "with something open it is told after 4 s")
		n.hole.Store(false)
		elapse(time.Minute)
		require.Zero(t, interruptions.Load())

		kicks.Store(0)
		h.kicks.Store(0)
		h.Ended(flowAddr(50001), "conn-1", disconnect.Attribution{Reason: disconnect.Graceful}, 0)
		elapse(time.Minute)
		host, watch = in(5 * time.Minute)
		require.InDelta(t, 20, host, 1)
		require.InDelta(t, 20, watch, 1)
		require.Zero(t, kicks.Load()+h.kicks.Load(), "nobody is missed")
		require.Zero(t, interruptions.Load())
		requireAlive(t, w)

		// A new stream begins as the first did, and rests again.
		n.cut()
		elapse(time.Minute)
		host, _ = in(5 * time.Minute)
		require.InDelta(t, 20, host, 1)
		require.Zero(t, missed.Load())
		n.hole.Store(true)
		elapse(20 * time.Second)
		require.Zero(t, missed.Load(), "one that rests may be late")
		elapse(30 * time.Second)
		require.EqualValues(t, 1, missed.Load())
		elapse(10 * time.Minute)
		require.Equal(t, disconnect.NetworkTimeout, w.Ending().Reason, "rest is not for ever")
	})
}

// TestHeartbeatsDoNotRestWithOldClients: an end of the first protocol would miss them.
func TestHeartbeatsDoNotRestWithOldClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		defer h.stop(t)
		conn, err := n.dial(t.Context())
		require.NoError(t, err)
		s := newStream(conn, beat)
		defer func() { s.cut(); close(s.done) }()
		hello := helloFrame("client-1", "old", 0)
		hello.GetHello().Protocol = 1
		s.send(hello)
		go s.write(nil)
		for deadline := time.Now().Add(50 * time.Second); time.Now().Before(deadline); {
			frame, err := s.read()
			require.NoError(t, err)
			if b := frame.GetHeartbeat(); b != nil {
				require.Equal(t, beat, announced(b, time.Second))
			}
		}
	})
}

// TestAnnouncements: what an agent may announce is bounded.
func TestAnnouncements(t *testing.T) {
	for ms, want := range map[uint32]time.Duration{0: beat, 1: beat, 15_000: 15 * time.Second, 1 << 31: longestBeat} {
		require.Equal(t, want, announced(&proto.CompanionHeartbeat{NextMs: ms}, beat))
	}
}
