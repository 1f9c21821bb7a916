package hostwatch

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// machine is a host whose clocks and links do what a test says.
type machine struct {
	began time.Time

	mu      sync.Mutex // guards all below
	asleep  time.Duration
	stopped time.Duration
	wallOff time.Duration
	way     way
	changed chan<- struct{}
}

func newMachine() *machine {
	return &machine{began: time.Now(), way: way{iface: "eth0", local: netip.MustParseAddr("192.0.2.7"), routed: true}}
}

func (m *machine) read() Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	awake := time.Since(m.began) + m.stopped
	return Reading{Boot: time.Hour + awake + m.asleep, Awake: awake, Wall: time.Now().Add(m.stopped + m.asleep + m.wallOff)}
}

func (m *machine) out() way {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.way
}

func (m *machine) ailment(iface string) string { return iface + " is down" }

func (m *machine) follow(ctx context.Context, changed chan<- struct{}) {
	m.mu.Lock()
	m.changed = changed
	m.mu.Unlock()
	<-ctx.Done()
}

func (m *machine) set(w way) {
	m.mu.Lock()
	m.way = w
	m.mu.Unlock()
	kick(m.changed)
	<-time.After(2 * settle)
	synctest.Wait()
}

// watch starts a watcher that counts how often it tells of something.
func (m *machine) watch(t *testing.T) (w *Watcher, told *int) {
	w = start(m.read, m)
	t.Cleanup(w.Close)
	told = new(int)
	w.Subscribe(func() { *told++ })
	synctest.Wait()
	return w, told
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// valid checks the facts as a server will.
func valid(t *testing.T, facts []verdict.Fact) []verdict.Fact {
	t.Helper()
	testimony := verdict.Testimony{Observer: disconnect.Agent, ConnectType: disconnect.AgentToClient, Kind: verdict.Ending, Clock: Clock(), Facts: facts}
	require.NoError(t, testimony.Validate())
	return facts
}

func lasted(f verdict.Fact) time.Duration { return f.Until.Wall.Sub(f.At.Wall) }

// TestSlept: what the boot clock gained on the other one was sleep, also for who asks
// before the watcher itself has woken.
func TestSlept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, told := m.watch(t)
		pass(10*time.Second + tick/2)
		require.Empty(t, w.Facts(m.began))
		before := m.read()
		m.mu.Lock()
		m.asleep += 40 * time.Minute
		m.mu.Unlock()
		facts := valid(t, w.Facts(before.Wall))
		require.Len(t, facts, 1)
		require.Equal(t, verdict.Slept, facts[0].Kind)
		require.InDelta(t, 40*time.Minute, lasted(facts[0]), float64(tick))
		require.WithinDuration(t, before.Wall, facts[0].At.Wall, tick)
		require.Equal(t, before.Boot.Microseconds(), facts[0].At.Mono)

		m.mu.Lock()
		m.asleep += time.Minute
		m.mu.Unlock()
		pass(5 * time.Second)
		require.Len(t, valid(t, w.Facts(m.began)), 2)
		require.Equal(t, 1, *told, "and it tells of what it finds itself")
		require.Len(t, w.Facts(m.read().Wall.Add(-30*time.Second)), 1, "what was over before is not returned")
		require.Empty(t, w.Facts(m.read().Wall))
	})
}

// TestStopped: a timer that is late while both clocks agree means that the process was
// stopped; a short lateness means nothing, for a busy machine does that.
func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, told := m.watch(t)
		stop := func(d time.Duration) {
			m.mu.Lock()
			m.stopped += d
			m.mu.Unlock()
			pass(3 * tick)
		}
		stop(3900 * time.Millisecond)
		require.Empty(t, w.Facts(m.began))
		stop(20 * time.Second)
		facts := valid(t, w.Facts(m.began))
		require.Len(t, facts, 1)
		require.Equal(t, verdict.TimerLate, facts[0].Kind)
		require.InDelta(t, 20*time.Second, lasted(facts[0]), float64(tick))
		require.Equal(t, 1, *told)

		// Frozen first and then asleep: the clocks prove the sleep.
		m.mu.Lock()
		m.asleep += time.Hour
		m.mu.Unlock()
		stop(10 * time.Second)
		facts = valid(t, w.Facts(m.began))
		require.Len(t, facts, 2)
		require.Equal(t, verdict.Slept, facts[1].Kind)
	})
}

// TestWallClockIsSet: the order and distance of what was seen do not depend on it.
func TestWallClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, _ := m.watch(t)
		m.mu.Lock()
		m.asleep += time.Minute
		m.mu.Unlock()
		pass(time.Minute)
		m.mu.Lock()
		m.wallOff -= 24 * time.Hour
		m.mu.Unlock()
		facts := w.Facts(m.read().Wall.Add(-2 * time.Minute))
		require.Len(t, facts, 1)
		require.WithinDuration(t, m.read().Wall.Add(-time.Minute), facts[0].Until.Wall, 2*tick)
	})
}

// TestLink: the way out is lost, and is back as it was; or there is another one.
func TestLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, told := m.watch(t)
		ethernet := m.out()
		m.set(way{})
		m.set(way{}) // a second message of the same
		facts := valid(t, w.Facts(m.began))
		require.Len(t, facts, 1)
		require.Equal(t, verdict.LinkDown, facts[0].Kind)
		require.Equal(t, "eth0 is down", facts[0].Text)
		require.Equal(t, "eth0", facts[0].Ref)
		require.True(t, facts[0].Until.IsZero(), "it goes on")
		require.Zero(t, *told, "nobody can do anything yet")

		pass(time.Minute)
		require.Len(t, w.Facts(m.read().Wall), 1, "and still does")
		m.set(way{iface: "docker0", local: netip.MustParseAddr("172.17.0.1")})
		require.Len(t, w.Facts(m.began), 1, "an interface that leads nowhere is no way out")
		require.True(t, w.Facts(m.began)[0].Until.IsZero())
		m.set(ethernet)
		facts = valid(t, w.Facts(m.began))
		require.Len(t, facts, 1, "it is the same as before")
		require.InDelta(t, time.Minute, lasted(facts[0]), float64(time.Second))
		require.Equal(t, 1, *told)

		m.set(way{iface: "wlan0", local: netip.MustParseAddr("192.0.2.9"), routed: true})
		m.set(way{iface: "wlan0", local: netip.MustParseAddr("192.0.2.10"), routed: true})
		facts = valid(t, w.Facts(m.began))
		require.Len(t, facts, 3)
		require.Equal(t, verdict.LinkChanged, facts[1].Kind)
		require.Equal(t, "from eth0 to wlan0", facts[1].Text)
		require.Equal(t, "wlan0 has another address", facts[2].Text)
		require.Equal(t, 3, *told)
	})
}

// TestNeverOnline: a host that never had a way out lost none.
func TestNeverOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		online := m.out()
		m.way = way{}
		w, _ := m.watch(t)
		m.set(way{})
		require.Empty(t, w.Facts(m.began))
		m.set(online)
		require.Empty(t, w.Facts(m.began))
		m.set(way{})
		require.Len(t, w.Facts(m.began), 1)
	})
}

// TestForgets: the history is bounded, and what goes on stays.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, _ := m.watch(t)
		m.set(way{})
		for range 2 * maxRecords {
			m.mu.Lock()
			m.asleep += time.Minute
			m.mu.Unlock()
			pass(2 * tick)
		}
		facts := valid(t, w.Facts(m.began))
		require.Len(t, facts, maxRecords)
		require.Equal(t, verdict.LinkDown, facts[0].Kind)
		require.LessOrEqual(t, maxRecords, verdict.MaxFacts/2, "a testimony has other facts too")
		m.mu.Lock()
		m.asleep += maxAge + time.Hour
		m.mu.Unlock()
		require.Len(t, w.Facts(m.began), 2)
	})
}

// TestUnsubscribe: who has unsubscribed is not called again.
func TestUnsubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, told := m.watch(t)
		other := 0
		w.Subscribe(func() { other++ })()
		m.set(way{iface: "wlan0", routed: true})
		require.Equal(t, 1, *told)
		require.Zero(t, other)
		(*Watcher)(nil).Subscribe(func() {})()
		require.Empty(t, (*Watcher)(nil).Facts(time.Time{}))
	})
}

// TestExplain: the host is why a connection fell silent if what befell it was there when
// that began.
func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		w, _ := m.watch(t)
		why := func(good time.Time) (disconnect.Attribution, bool) {
			return w.Explain(disconnect.Agent, disconnect.ServerToAgent, good, good.Add(5*time.Second), 0)
		}
		pass(time.Minute)
		good := m.read().Wall
		_, known := why(good)
		require.False(t, known, "nothing happened")
		pass(time.Minute)
		m.set(way{})
		down := m.read().Wall
		pass(30 * time.Second)
		a, known := why(down.Add(-3 * time.Second))
		require.True(t, known)
		require.Equal(t, disconnect.Attribution{
			ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkUnreachable, Initiator: disconnect.Network, Detail: "eth0 is down",
		}, a)
		_, known = why(good)
		require.False(t, known, "it was silent a minute before")

		m.mu.Lock()
		m.stopped += 20 * time.Second
		m.mu.Unlock()
		a, known = why(m.read().Wall.Add(-20 * time.Second))
		require.True(t, known)
		require.Equal(t, disconnect.HostPaused, a.Reason, "a standstill goes before a link")
		require.Equal(t, disconnect.Agent, a.Initiator)
		require.Contains(t, a.Detail, "stopped for ")

		stood := m.read().Wall.Add(-20 * time.Second)
		explain := func(patience time.Duration) disconnect.Reason {
			a, _ := w.Explain(disconnect.Agent, disconnect.ServerToAgent, stood, stood.Add(5*time.Second), patience)
			return a.Reason
		}
		require.Equal(t, disconnect.HostPaused, explain(15*time.Second), "the other end may have closed for that")
		require.NotEqual(t, disconnect.HostPaused, explain(30*time.Second), "it had no reason to")
	})
}
