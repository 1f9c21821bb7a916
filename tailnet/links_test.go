package tailnet

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLinkChangeKicks: for a few seconds after each change, and not otherwise.
func TestLinkChangeKicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var kicks atomic.Int64
		turn := make(chan struct{}, 1)
		done := make(chan struct{})
		go func() { defer close(done); followLinks(ctx, turn, func() { kicks.Add(1) }) }()
		<-time.After(time.Minute)
		require.Zero(t, kicks.Load())
		turn <- struct{}{}
		<-time.After(2 * linkKickEvery)
		synctest.Wait()
		require.InDelta(t, 3, kicks.Load(), 1, "at once, and again")
		<-time.After(time.Minute)
		require.EqualValues(t, linkKicks, kicks.Load())
		turn <- struct{}{}
		<-time.After(linkKickEvery)
		turn <- struct{}{} // another change while it kicks
		<-time.After(time.Minute)
		require.InDelta(t, 2*linkKicks+1, kicks.Load(), 1)
		cancel()
		<-done
	})
}

// TestEngineTellsOfLinks: what the host's network monitor notices arrives.
func TestEngineTellsOfLinks(t *testing.T) {
	key := NewPrivateKey()
	addr := key.Public().Address()
	turn := make(chan struct{}, 1)
	e, err := newEngine(engineConfig{
		key: key, addr: addr, device: newTunDevice(newGate(addr, nil)), logf: func(string, ...any) {}, peers: newPeerTable(),
		onEndpoints: func([]netip.AddrPort) {}, onHome: func(int) {},
		onLink: func() {
			select {
			case turn <- struct{}{}:
			default:
			}
		},
	})
	require.NoError(t, err)
	defer e.close()
	e.netmon.InjectEvent()
	select {
	case <-turn:
	case <-testContext(t).Done():
		require.Fail(t, "nobody was told")
	}
}
