package client

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
)

// testPackets is a way to an agent that a test steers.
type testPackets struct {
	answer chan time.Duration // one for each ping that is answered
	mu     sync.Mutex         // guards now and told
	now    tailnet.Path
	told   func(tailnet.PathEvent)
}

func (p *testPackets) ping(ctx context.Context) (time.Duration, tailnet.Path, error) {
	select {
	case rtt := <-p.answer:
		return rtt, p.path(), nil
	case <-ctx.Done():
		return 0, tailnet.Path{}, context.Cause(ctx)
	}
}

func (p *testPackets) path() tailnet.Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *testPackets) watch(f func(tailnet.PathEvent)) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = f
	return func() {}
}

// move changes the path, and tells whoever watches.
func (p *testPackets) move(to tailnet.Path) {
	p.mu.Lock()
	e := tailnet.PathEvent{Old: p.now, New: to, At: time.Now()}
	p.now = to
	told := p.told
	p.mu.Unlock()
	if told != nil {
		told(e)
	}
}

var (
	viaRelay  = tailnet.Path{Kind: tailnet.PathRelay, Relay: "fl1"}
	viaDirect = tailnet.Path{Kind: tailnet.PathDirect, Endpoint: "192.0.2.1:7"}
)

// openPing is a workspace with steered packets.
func openPing(t *testing.T) (*bench, *testPackets) {
	t.Helper()
	b := open(t)
	p := &testPackets{answer: make(chan time.Duration, 16), now: viaRelay}
	b.config.packets = p
	return b, p
}

// series runs pings and hands out each event.
func (b *bench) series(ctx context.Context, o PingOptions) (<-chan PingEvent, <-chan PingSummary) {
	events, summary := make(chan PingEvent, 64), make(chan PingSummary, 1)
	o.OnEvent = func(e PingEvent) { events <- e }
	go func() { summary <- b.RunPing(ctx, o) }()
	return events, summary
}

func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		require.Fail(t, "nothing came")
		panic("unreachable")
	}
}

func TestPingTellsUpgradeAndLoss(t *testing.T) {
	b, packets := openPing(t)
	packets.answer <- 30 * time.Millisecond
	events, summary := b.series(t.Context(), PingOptions{Count: 3, Interval: time.Millisecond, Timeout: 200 * time.Millisecond})

	e := next(t, events)
	require.Equal(t, PingPath, e.Type)
	require.Equal(t, Path{Kind: PathNone}, e.Old)
	require.Equal(t, Path{Kind: PathRelay, Relay: "fl1"}, e.Path)
	e = next(t, events)
	require.Equal(t, PingAnswered, e.Type)
	require.Equal(t, 1, e.Sequence)
	require.Equal(t, "relay fl1", e.Path.String())

	packets.move(viaDirect)
	e = next(t, events)
	require.Equal(t, PingPath, e.Type)
	require.Equal(t, "direct 192.0.2.1:7", e.Path.String())
	require.Equal(t, "relay fl1", e.Old.String())

	e = next(t, events)
	require.Equal(t, PingLost, e.Type, "nobody answers the second")
	require.Equal(t, 2, e.Sequence)
	packets.answer <- 10 * time.Millisecond
	require.Equal(t, PingAnswered, next(t, events).Type)

	s := next(t, summary)
	require.Equal(t, []int{3, 2, 1}, []int{s.Sent, s.Answered, s.Lost()})
	require.Equal(t, []time.Duration{10e6, 20e6, 30e6}, []time.Duration{s.Min, s.Avg, s.Max})
	require.True(t, s.Direct)
	require.Equal(t, disconnect.Graceful, s.Attribution.Reason)
	logged := b.log.of("ping ended")
	require.Len(t, logged, 1)
	require.Equal(t, "2 of 3 pings answered", logged[0][disconnect.KeyDetail])
}

func TestPingUntilDirect(t *testing.T) {
	b, packets := openPing(t)
	for range 2 {
		packets.answer <- time.Millisecond
	}
	events, summary := b.series(t.Context(), PingOptions{UntilDirect: true, Interval: 100 * time.Millisecond, Timeout: 10 * time.Second})
	next(t, events) // the path
	require.Equal(t, "relay fl1", next(t, events).Path.String())
	packets.move(viaDirect)
	s := next(t, summary)
	require.Equal(t, 2, s.Answered)
	require.True(t, s.Direct)
	require.Positive(t, s.DirectAfter)
}

func TestPingIsLeft(t *testing.T) {
	b, _ := openPing(t)
	ctx, cancel := context.WithCancel(t.Context())
	events, summary := b.series(ctx, PingOptions{Timeout: time.Minute})
	cancel()
	s := next(t, summary)
	require.Zero(t, s.Sent, "a ping that had no time to be answered is not lost")
	require.Equal(t, disconnect.ClientClosed, s.Attribution.Reason)
	require.Empty(t, events)
}

func TestPingEndsWithTheAgent(t *testing.T) {
	b, packets := openPing(t)
	packets.answer <- time.Millisecond
	events, summary := b.series(t.Context(), PingOptions{Interval: time.Millisecond, Timeout: time.Minute})
	next(t, events)
	next(t, events)
	b.agent.stop(stopping)
	s := next(t, summary)
	require.Equal(t, disconnect.ServerShutdown, s.Attribution.Reason, s.Attribution.String())
	require.Equal(t, disconnect.Agent, s.Attribution.Initiator)
	require.Len(t, b.log.of("ping ended"), 1)
}
