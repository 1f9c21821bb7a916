package companion

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// TestAgentThatIsGone: a watch does not wait half an hour for a process of which the server
// and its own machine say that it died; and it does for one that may be alive.
func TestAgentThatIsGone(t *testing.T) {
	closed := ending(disconnect.NetworkError, disconnect.Network)
	always := func(int64) bool { return true }
	for name, test := range map[string]struct {
		path    Path
		ending  disconnect.Attribution
		told    time.Duration // after the last sign of life
		refuses func(asked int64) bool
		asked   bool
		ends    bool // otherwise at the outage limit
	}{
		"gone":                          {path: home, ending: closed, refuses: always, asked: true, ends: true},
		"told a moment later":           {path: home, ending: closed, told: 3 * time.Second, refuses: always, asked: true, ends: true},
		"told before it was heard":      {path: home, ending: closed, told: -10 * time.Second},
		"told long after it was heard":  {path: home, ending: closed, told: 20 * time.Second},
		"behind a path that is dead":    {path: home, ending: closed, refuses: func(int64) bool { return false }, asked: true},
		"now and then":                  {path: home, ending: closed, refuses: func(n int64) bool { return n%6 != 0 }, asked: true},
		"by a NAT":                      {path: abroad, ending: closed},
		"by relay":                      {path: relayA, ending: closed},
		"the server lost it":            {path: home, ending: ending(disconnect.NetworkTimeout, disconnect.Network)},
		"something sent the server RST": {path: home, ending: ending(disconnect.ConnectionReset, disconnect.Network)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := new(network)
				h := startHost(n, "agent-1")
				var asked atomic.Int64
				w := NewWatch(WatchConfig{
					Dial: n.dial, Instance: "client-1", OutageLimit: 10 * time.Minute, Clock: newTestClock().now,
					Refused: func(_ context.Context, address string) bool {
						require.Equal(t, home.Via, address)
						return test.refuses(asked.Add(1))
					},
				})
				defer w.Close()
				require.NoError(t, w.WaitHello(t.Context()))
				h.Flow(flowAddr(50001), "conn-1")
				w.PathChanged(test.path)
				elapse(time.Minute)
				if test.told < 0 {
					w.Presence("agent-1", false, false, test.ending)
					elapse(-test.told)
				}
				require.Zero(t, asked.Load(), "nobody doubts it")
				h.kill(t, n)
				died := time.Now()
				elapse(max(0, test.told))
				w.Presence("agent-1", false, false, test.ending)
				w.PathChanged(relayA)
				elapse(time.Second)
				w.Presence("agent-1", false, false, test.ending) // by the next link
				if !test.ends {
					elapse(9 * time.Minute)
					requireAlive(t, w)
					require.Equal(t, test.asked, asked.Load() > 0)
					return
				}
				<-w.Done()
				require.InDelta(t, 40, time.Since(died).Seconds(), 8)
				require.Equal(t, disconnect.PeerCrashed, w.Ending().Reason)
				require.Equal(t, disconnect.Agent, w.Ending().Initiator)
				require.Contains(t, w.Ending().Detail, "nothing listens where it was")
			})
		})
	}
}

// TestOwnSleepIsNoGrave: who was away does not ask, for what answers where it is now may be
// another machine.
func TestOwnSleepIsNoGrave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		clock := newTestClock()
		w := NewWatch(WatchConfig{
			Dial: n.dial, Instance: "client-1", OutageLimit: 10 * time.Minute, Clock: clock.now,
			Refused: func(context.Context, string) bool {
				require.Fail(t, "asked")
				return true
			},
		})
		defer w.Close()
		require.NoError(t, w.WaitHello(t.Context()))
		w.PathChanged(home)
		elapse(10 * time.Second)
		w.Presence("agent-1", false, false, ending(disconnect.NetworkError, disconnect.Network))
		clock.freeze()
		h.kill(t, n)
		elapse(time.Minute)
		clock.thaw(true)
		elapse(5 * time.Minute)
		requireAlive(t, w)
	})
}

// TestAddresses: what an agent says of its own addresses is bounded, and read with doubt.
func TestAddresses(t *testing.T) {
	require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		usableAddresses([]string{"::ffff:192.0.2.1", "nonsense", "", "192.0.2.1:80", "2001:db8::1"}))
	many := usableAddresses(strings.Split(strings.Repeat("192.0.2.1 ", 100), " "))
	require.Len(t, many, maxAddresses)
	require.Len(t, addressTexts(append(many, many...)), maxAddresses)
}
