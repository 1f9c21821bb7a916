package tailnet

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tailnet/proto"
)

// fakePaths is what a watcher sees.
type fakePaths struct {
	mu    sync.Mutex // guards paths, looks
	paths map[proto.NodeKey]Path
	looks int
}

func (f *fakePaths) set(paths map[proto.NodeKey]Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paths = paths
}

func (f *fakePaths) look() map[proto.NodeKey]Path {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return f.paths
}

func (f *fakePaths) lookCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks
}

func TestPathWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := proto.NodeKey{1}
		relay, direct := Path{Kind: PathRelay, Relay: "r"}, Path{Kind: PathDirect, Endpoint: "192.0.2.1:7"}
		fake := new(fakePaths)
		w := newPathWatcher(fake.look)
		ctx, cancel := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { w.run(ctx, func() int { return 1 }) })

		wait := func(d time.Duration) {
			<-time.After(d) // the bubble's clock
			synctest.Wait()
		}
		wait(time.Hour)
		require.Zero(t, fake.lookCount(), "nobody watches: nothing to look at")

		var events []PathEvent
		var stop func()
		stop = w.watch(func(e PathEvent) {
			events = append(events, e)
			if e.New.Kind == PathNone {
				stop()
			}
		})
		fake.set(map[proto.NodeKey]Path{peer: relay})
		wait(pathPollEager)
		require.Len(t, events, 1)
		require.Equal(t, PathEvent{Peer: peer, New: relay, At: events[0].At}, events[0])

		wait(time.Minute)
		before := fake.lookCount()
		wait(10 * pathPoll)
		require.InDelta(t, before+10, fake.lookCount(), 1, "no hurry when nothing happens")

		fake.set(map[proto.NodeKey]Path{peer: direct})
		wait(pathPoll)
		require.Len(t, events, 2)
		require.Equal(t, relay, events[1].Old)
		require.Equal(t, direct, events[1].New)

		fake.set(nil)
		w.nudge()
		synctest.Wait()
		require.Len(t, events, 3)
		require.Equal(t, Path{}, events[2].New)

		fake.set(map[proto.NodeKey]Path{peer: direct})
		wait(time.Minute)
		require.Len(t, events, 3, "a watcher that has stopped is not told")
		cancel()
		loop.Wait()
	})
}

func TestPathKindString(t *testing.T) {
	require.Equal(t, []string{"none", "direct", "relay"}, []string{PathNone.String(), PathDirect.String(), PathRelay.String()})
}

// TestPollInterval: with many peers a node looks less often, so that looking at all of
// them stays cheap.
func TestPollInterval(t *testing.T) {
	require.Equal(t, pathPoll, pollInterval(0, 1))
	require.Equal(t, pathPoll, pollInterval(-1, 19))
	require.Equal(t, 10*pathPoll, pollInterval(0, 100))
	require.Equal(t, pathPollEager, pollInterval(time.Second, 0))
	require.Equal(t, 10*pathPollEager, pollInterval(time.Second, 100))
}
