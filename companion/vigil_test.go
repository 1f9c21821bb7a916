package companion

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

const beat = DefaultHeartbeat

// life is a vigil and what a bystander knows of it.
type life struct {
	*vigil
	now      Reading
	heard    time.Duration
	expected []Interruption // in order; the reason is what a bystander would say
	got      []Interruption
	words    []disconnect.Attribution // for the other end
}

func newLife(self disconnect.Initiator) *life {
	now := Reading{Boot: time.Hour, Awake: time.Hour}
	other := disconnect.Client
	if self == disconnect.Client {
		other = disconnect.Agent
	}
	return &life{vigil: newVigil(self, other, beat, beat, now), now: now, heard: now.Boot}
}

// pass lets time pass while the process runs, and is looked after as its owners do.
func (l *life) pass(d time.Duration) {
	for d > 0 {
		step := min(d, beat)
		d -= step
		l.now.Boot += step
		l.now.Awake += step
		l.look(l.now)
		ready, word := l.ripe(l.now)
		l.got = append(l.got, ready...)
		if word != nil {
			l.words = append(l.words, *word)
		}
	}
}

func (l *life) stand(d time.Duration, asleep bool) {
	l.now.Boot += d
	if !asleep {
		l.now.Awake += d
	}
}

func (l *life) hears(why disconnect.Reason) *disconnect.Attribution {
	if d := l.now.Boot - l.heard; d >= interruptionAfter {
		l.expected = append(l.expected, Interruption{Duration: d, Attribution: disconnect.Attribution{Reason: why}})
	}
	l.heard = l.now.Boot
	return l.hear(l.now, func() []string { return []string{"conn-1"} })
}

// TestInterruptions walks lives at random: each silence of 8 s or more is recorded once,
// in order and as long as it was, and blamed on this end only if that stood still when
// the silence began.
func TestInterruptions(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
		l := newLife(disconnect.Client)
		for range 30 {
			why := disconnect.NetworkTimeout
			switch r.IntN(4) {
			case 0: // it is heard all the time
				l.pass(upTo(7 * time.Second))
			case 1: // it is not, for whatever reason
				l.pass(upTo(10 * time.Minute))
			case 2: // we do not run, from a moment after its last word on
				l.pass(upTo(beat))
				d := 5*time.Second + upTo(10*time.Minute)
				l.stand(d, r.IntN(2) == 0)
				why = disconnect.Suspended
			case 3: // it is silent long before that
				l.pass(10*time.Second + upTo(time.Minute))
				l.stand(5*time.Second+upTo(time.Minute), true)
			}
			confession := l.hears(why)
			require.Equal(t, why == disconnect.Suspended && l.interrupted(), confession != nil, "seed %d", seed)
		}
		l.pass(2 * explainWait)
		require.Empty(t, l.rest())
		require.Len(t, l.got, len(l.expected), "seed %d", seed)
		for i, got := range l.got {
			want := l.expected[i]
			require.Equal(t, want.Duration, got.Duration, "seed %d", seed)
			require.Equal(t, want.Attribution.Reason, got.Attribution.Reason, "seed %d: %v", seed, got)
			require.Equal(t, []string{"conn-1"}, got.Connections)
		}
	}
}

// interrupted reports whether the last word ended an interruption.
func (l *life) interrupted() bool {
	return len(l.waiting) > 0 && l.waiting[len(l.waiting)-1].until == l.now.Boot+explainWait
}

// TestExplanations: the other end may speak for itself, in time, and accuses nobody.
func TestExplanations(t *testing.T) {
	say := func(r disconnect.Reason, i disconnect.Initiator) *disconnect.Attribution {
		return &disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: r, Initiator: i, Detail: "it says"}
	}
	for name, test := range map[string]struct {
		own   bool // we stood still
		after time.Duration
		told  *disconnect.Attribution
		want  disconnect.Reason
		who   disconnect.Initiator
	}{
		"nothing":              {want: disconnect.NetworkTimeout, who: disconnect.Network},
		"it slept":             {told: say(disconnect.Suspended, disconnect.Client), want: disconnect.Suspended, who: disconnect.Client},
		"it slept, told late":  {after: explainWait, told: say(disconnect.Suspended, disconnect.Client), want: disconnect.NetworkTimeout, who: disconnect.Network},
		"it accuses us":        {told: say(disconnect.HostPaused, disconnect.Agent), want: disconnect.HostPaused, who: disconnect.Client},
		"we slept, so did it":  {own: true, told: say(disconnect.Suspended, disconnect.Client), want: disconnect.HostPaused, who: disconnect.Agent},
		"its link was down":    {told: say(disconnect.NetworkUnreachable, disconnect.Network), want: disconnect.NetworkUnreachable, who: disconnect.Network},
		"it calls that an end": {told: say(disconnect.Graceful, disconnect.Client), want: disconnect.NetworkTimeout, who: disconnect.Network},
		"of a newer version":   {told: say(disconnect.Unknown, disconnect.Client), want: disconnect.NetworkTimeout, who: disconnect.Network},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(disconnect.Agent)
			l.explained(*say(disconnect.Suspended, disconnect.Client)) // of nothing
			l.pass(time.Second)
			if test.own {
				l.stand(20*time.Second, true)
			} else {
				l.pass(20 * time.Second)
			}
			l.hears(test.want)
			l.pass(test.after)
			if test.told != nil {
				l.explained(*test.told)
			}
			l.pass(explainWait)
			require.Len(t, l.got, 1)
			a := l.got[0].Attribution
			require.Equal(t, []any{test.want, test.who, disconnect.AgentToClient}, []any{a.Reason, a.Initiator, a.ConnectType}, a.String())
			require.NotEmpty(t, a.Detail)
		})
	}
}

// TestAwakeTime: neither sleep nor standstill counts against the other end.
func TestAwakeTime(t *testing.T) {
	l := newLife(disconnect.Client)
	l.pass(20 * time.Second)
	l.stand(8*time.Hour, true)
	l.pass(10 * time.Second)
	l.stand(time.Hour, false)
	l.pass(3 * time.Second)
	require.InDelta(t, 33, l.awake.Seconds(), 5)
	require.Equal(t, 9*time.Hour+33*time.Second, l.silence(l.now))
	l.hears(disconnect.Suspended)
	require.Zero(t, l.awake)
}

// TestInterruptionIsRecordedByBothEnds: a hole in the network.
func TestInterruptionIsRecordedByBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		defer h.stop(t)
		seen := make(chan Interruption, 8)
		var kicks atomic.Int64
		w := NewWatch(WatchConfig{
			Dial: n.dial, Instance: "client-1", OutageLimit: testLimit, Clock: newTestClock().now,
			OnInterruption: func(i Interruption) { seen <- i }, Kick: func() { kicks.Add(1) },
		})
		defer w.Close()
		require.NoError(t, w.WaitHello(t.Context()))
		h.Flow(flowAddr(50001), "conn-1")
		elapse(time.Minute)
		require.Zero(t, kicks.Load(), "a peer that is heard needs no kick")
		for i, lasting := range []time.Duration{4 * time.Second, 30 * time.Second, 50 * time.Second} {
			start := time.Now()
			n.hole.Store(true)
			elapse(lasting)
			n.hole.Store(false)
			elapse(time.Minute)
			requireAlive(t, w)
			if i == 0 {
				require.Empty(t, h.interruptions, "too short to be one")
				require.Empty(t, seen)
				continue
			}
			for _, got := range []Interruption{<-h.interruptions, <-seen} {
				require.Equal(t, []string{"conn-1"}, got.Connections)
				require.Equal(t, disconnect.NetworkTimeout, got.Attribution.Reason)
				require.WithinDuration(t, start, got.Began, beat)
				require.InDelta(t, lasting.Seconds(), got.Duration.Seconds(), 7)
			}
		}
		require.Empty(t, h.interruptions)
		require.Empty(t, seen)
		require.InDelta(t, 80, kicks.Load(), 15, "one a second while it is silent")
		require.InDelta(t, 80, h.kicks.Load(), 15)
	})
}

// TestSleepIsConfessed: the machine of either end sleeps, or its process stands still;
// both ends record who that was.
func TestSleepIsConfessed(t *testing.T) {
	for _, slept := range []bool{true, false} {
		for _, sleeper := range []disconnect.Initiator{disconnect.Client, disconnect.Agent} {
			t.Run(fmt.Sprintf("%v, sleep %v", sleeper, slept), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := new(network)
					h := startHost(n, "agent-1")
					defer h.stop(t)
					seen, clock := make(chan Interruption, 8), newTestClock()
					w := NewWatch(WatchConfig{
						Dial: n.dial, Instance: "client-1", Clock: clock.now, OnInterruption: func(i Interruption) { seen <- i },
					})
					defer w.Close()
					require.NoError(t, w.WaitHello(t.Context()))
					h.Flow(flowAddr(50001), "conn-1")
					elapse(time.Minute)
					reason := disconnect.Suspended
					if sleeper == disconnect.Agent {
						clock, reason = h.clock, disconnect.HostPaused
					}
					n.hole.Store(true)
					clock.freeze()
					elapse(40 * time.Second)
					clock.thaw(slept)
					n.hole.Store(false)
					elapse(time.Minute)
					for _, got := range []Interruption{<-h.interruptions, <-seen} {
						require.Equal(t, []any{reason, sleeper}, []any{got.Attribution.Reason, got.Attribution.Initiator}, got.Attribution.String())
						require.InDelta(t, 40, got.Duration.Seconds(), 8)
						if slept {
							require.Contains(t, got.Attribution.Detail, "machine slept")
						} else {
							require.Contains(t, got.Attribution.Detail, "process stood still")
						}
					}
					requireAlive(t, w)
				})
			})
		}
	}
}

// TestSleepBeyondTheLimit: the agent's clock counts sleep, the client's does not.
func TestSleepBeyondTheLimit(t *testing.T) {
	t.Run("of the client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := new(network)
			h := startHost(n, "agent-1")
			defer h.stop(t)
			clock := newTestClock()
			w := NewWatch(WatchConfig{Dial: n.dial, Instance: "client-1", OutageLimit: testLimit, Clock: clock.now})
			defer w.Close()
			require.NoError(t, w.WaitHello(t.Context()))
			h.Flow(flowAddr(50001), "conn-1")
			elapse(time.Second)
			n.hole.Store(true)
			clock.freeze()
			a := <-h.silences
			require.Equal(t, disconnect.NetworkTimeout, a.Reason)
			requireAlive(t, w)
			elapse(time.Minute)
			clock.thaw(true)
			n.hole.Store(false)
			requireEnded(t, w, disconnect.Suspended, disconnect.Client, "machine slept for ")
			require.Contains(t, w.Ending().Detail, "nothing heard from the client for 1m0s")
		})
	})
	t.Run("of the agent", func(t *testing.T) {
		session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
			h.Flow(flowAddr(50001), "conn-1")
			elapse(time.Second)
			n.hole.Store(true)
			h.clock.freeze()
			elapse(testLimit - 20*time.Second)
			requireAlive(t, w)
			require.Empty(t, h.silences)
			elapse(4 * time.Second)
			h.clock.thaw(true)
			n.hole.Store(false)
			elapse(10 * time.Second)
			requireAlive(t, w)

			n.hole.Store(true)
			h.clock.freeze()
			elapse(testLimit + time.Second)
			h.clock.thaw(true)
			a := <-h.silences
			require.Equal(t, disconnect.HostPaused, a.Reason)
			require.Contains(t, a.Detail, "longer than the outage limit of 1m0s")
		})
	})
}

// TestInterruptionThatIsNotExplainedYet is recorded when the session ends before.
func TestInterruptionThatIsNotExplainedYet(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		h.Flow(flowAddr(50001), "conn-1")
		elapse(time.Second)
		n.hole.Store(true)
		elapse(30 * time.Second)
		n.hole.Store(false)
		require.True(t, w.Heard(t.Context(), time.Now()))
		elapse(time.Second)
		require.Empty(t, h.interruptions)
		w.Goodbye(t.Context(), leaving)
		elapse(0)
		require.Len(t, h.interruptions, 1)
	})
}

// TestOutageLimitIsTold: the agent's clock decides; its client waits a minute longer, of
// the time in which it was awake. What changes is told.
func TestOutageLimitIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		defer h.stop(t)
		clock := newTestClock()
		n.hole.Store(true)
		w := NewWatch(WatchConfig{Dial: n.dial, Instance: "client-1", Clock: clock.now})
		defer w.Close()
		require.Equal(t, DefaultOutageLimit+patience, w.OutageLimit())
		n.hole.Store(false)
		require.NoError(t, w.WaitHello(t.Context()))
		elapse(time.Second)
		require.Equal(t, testLimit+patience, w.OutageLimit())
		h.SetOutageLimit(0)
		h.SetOutageLimit(3 * time.Minute)
		elapse(0)
		require.Equal(t, 3*time.Minute+patience, w.OutageLimit())
		h.Flow(flowAddr(50001), "conn-1")

		start := time.Now()
		n.hole.Store(true)
		elapse(2 * time.Minute)
		clock.freeze()
		a := <-h.silences
		require.InDelta(t, 180, time.Since(start).Seconds(), 3)
		require.Contains(t, a.Detail, "3m0s")
		elapse(time.Hour)
		clock.thaw(true)
		start = time.Now()
		elapse(110 * time.Second)
		requireAlive(t, w)
		requireEnded(t, w, disconnect.NetworkTimeout, disconnect.Network, "nothing heard from the agent for 4m0s")
		require.InDelta(t, 120, time.Since(start).Seconds(), 5)
	})
}

// TestTombstones: a client that was away learns from the agent's record how its
// connection ended, also when another life of the agent keeps that by now.
func TestTombstones(t *testing.T) {
	stone := func(id string, a disconnect.Attribution) *proto.CompanionTombstone {
		return &proto.CompanionTombstone{ConnectionId: id, ClientPort: 50001, Attribution: wire.FromAttribution(a)}
	}
	told := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "upgraded"}
	accused := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.InternalError, Initiator: disconnect.Client}
	for name, test := range map[string]struct {
		stones []*proto.CompanionTombstone
		want   disconnect.Reason
		who    disconnect.Initiator
	}{
		"ours":              {[]*proto.CompanionTombstone{stone("conn-1", told)}, disconnect.ServerShutdown, disconnect.Agent},
		"of another client": {[]*proto.CompanionTombstone{stone("conn-9", told)}, disconnect.NetworkError, disconnect.Network},
		"not ours first":    {[]*proto.CompanionTombstone{stone("conn-9", accused), stone("conn-1", told)}, disconnect.ServerShutdown, disconnect.Agent},
		"an accusation":     {[]*proto.CompanionTombstone{stone("conn-1", accused)}, disconnect.InternalError, disconnect.Agent},
		"none":              {nil, disconnect.NetworkError, disconnect.Network},
	} {
		t.Run(name, func(t *testing.T) {
			session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
				h.Flow(flowAddr(50001), "conn-1")
				elapse(time.Second)
				h.kill(t, n)
				elapse(10 * time.Second)
				next := startHost(n, "agent-2")
				defer next.stop(t)
				next.stones.Store(&test.stones)
				start := time.Now()
				requireEnded(t, w, test.want, test.who, "")
				_, _, known := w.Ended(50001)
				require.Equal(t, test.want != disconnect.NetworkError, known)
				if known {
					require.Less(t, time.Since(start), dialTimeout+maxBackoff, "no need to wait for the server")
				}
			})
		})
	}
}
