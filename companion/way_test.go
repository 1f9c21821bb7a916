package companion

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

var (
	home   = Path{Via: "192.0.2.1:41641"}
	abroad = Path{Via: "198.51.100.7:1024"}
	relayA = Path{Relayed: true, Via: "a"}
)

// TestWays: what becomes of an interruption with what is known of the way. Each line is an
// agent whose client is silent for a while.
func TestWays(t *testing.T) {
	said := func(r disconnect.Reason, i disconnect.Initiator) disconnect.Attribution {
		return disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: r, Initiator: i, Detail: "it says"}
	}
	relay := func(r disconnect.Reason, i disconnect.Initiator) *disconnect.Attribution {
		return &disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: r, Initiator: i, Detail: "the relay"}
	}
	for name, test := range map[string]struct {
		before, during, after Path
		lasts                 time.Duration
		relay                 *disconnect.Attribution // how ours ended
		ofServer              bool
		told                  disconnect.Attribution
		want                  disconnect.Reason
		who                   disconnect.Initiator
		word                  disconnect.Reason // what the other end is told
	}{
		"nothing is known":            {want: disconnect.NetworkTimeout, who: disconnect.Network},
		"the same as before":          {before: home, during: relayA, after: home, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"another address":             {before: home, after: abroad, want: disconnect.PathMigrated, who: disconnect.Network, word: disconnect.PathMigrated},
		"by relay since then":         {before: home, after: relayA, want: disconnect.PathMigrated, who: disconnect.Network, word: disconnect.PathMigrated},
		"the other end saw it":        {before: home, told: said(disconnect.PathMigrated, disconnect.Network), want: disconnect.PathMigrated, who: disconnect.Network},
		"it moved, but it had slept":  {before: home, after: abroad, told: said(disconnect.Suspended, disconnect.Client), want: disconnect.Suspended, who: disconnect.Client},
		"long silent, then elsewhere": {before: home, after: abroad, lasts: 3 * time.Minute, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"the relay said goodbye":      {before: relayA, relay: relay(disconnect.ServerShutdown, disconnect.Server), want: disconnect.ServerShutdown, who: disconnect.Server, word: disconnect.ServerShutdown},
		"a relay that nothing used":   {before: home, relay: relay(disconnect.ServerShutdown, disconnect.Server), want: disconnect.NetworkTimeout, who: disconnect.Network},
		"the relay fell, for both": {before: relayA, relay: relay(disconnect.NetworkError, disconnect.Network),
			told: said(disconnect.RelayLost, disconnect.Network), want: disconnect.RelayLost, who: disconnect.Network, word: disconnect.RelayLost},
		"the server's own fell, for both": {before: relayA, relay: relay(disconnect.NetworkError, disconnect.Network), ofServer: true,
			told: said(disconnect.RelayLost, disconnect.Network), want: disconnect.RelayLost, who: disconnect.Server, word: disconnect.RelayLost},
		"the relay fell, for us":    {before: relayA, relay: relay(disconnect.NetworkError, disconnect.Network), want: disconnect.NetworkTimeout, who: disconnect.Network, word: disconnect.RelayLost},
		"the relay was silent":      {before: relayA, relay: relay(disconnect.NetworkTimeout, disconnect.Network), want: disconnect.NetworkTimeout, who: disconnect.Network},
		"we needed it no longer":    {before: relayA, relay: relay(disconnect.Graceful, disconnect.Agent), want: disconnect.NetworkTimeout, who: disconnect.Network},
		"it accuses the server":     {before: relayA, told: said(disconnect.ServerShutdown, disconnect.Server), want: disconnect.NetworkTimeout, who: disconnect.Network},
		"it says that we had moved": {before: home, told: said(disconnect.PathMigrated, disconnect.Agent), want: disconnect.NetworkTimeout, who: disconnect.Network},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(disconnect.Agent)
			l.hears(disconnect.Graceful)
			l.pathChanged(test.before, l.now)
			l.pass(time.Second)
			if test.relay != nil {
				l.relayLost(*test.relay, test.ofServer, l.now)
			}
			l.pathChanged(test.during, l.now)
			l.pass(max(test.lasts, 14*time.Second))
			l.hears(test.want)
			require.True(t, l.unsettled())
			l.pass(time.Second)
			l.pathChanged(test.after, l.now)
			l.hears(test.want) // and so on, before all has settled
			if test.told.Reason != disconnect.Unknown {
				l.explained(test.told)
			}
			l.pass(explainWait)
			require.False(t, l.unsettled())
			require.Len(t, l.got, 1)
			a := l.got[0].Attribution
			require.Equal(t, []any{test.want, test.who, disconnect.AgentToClient}, []any{a.Reason, a.Initiator, a.ConnectType}, a.String())
			if test.word == disconnect.Unknown {
				require.Empty(t, l.words)
				return
			}
			require.Len(t, l.words, 1)
			require.Equal(t, test.word, l.words[0].Reason)
		})
	}
}

// TestOwnLink: an end whose own link was down when the silence began says so, and not if it
// went down later, or was up again before.
func TestOwnLink(t *testing.T) {
	for name, test := range map[string]struct {
		from, until time.Duration // from the last life sign on
		kind        verdict.FactKind
		want        disconnect.Reason
	}{
		"at once":         {from: time.Second, until: 15 * time.Second, kind: verdict.LinkDown, want: disconnect.NetworkUnreachable},
		"still":           {from: time.Second, kind: verdict.LinkDown, want: disconnect.NetworkUnreachable},
		"later":           {from: 12 * time.Second, until: 14 * time.Second, kind: verdict.LinkDown, want: disconnect.NetworkTimeout},
		"another address": {from: time.Second, kind: verdict.LinkChanged, want: disconnect.NetworkTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(disconnect.Client)
			moment := func(d time.Duration) verdict.Moment { return verdict.Moment{Mono: (l.now.Boot + d).Microseconds()} }
			f := verdict.Fact{Kind: test.kind, At: moment(test.from), Text: "wlan0 was down"}
			if test.until > 0 {
				f.Until = moment(test.until)
			}
			l.facts = func(time.Time) []verdict.Fact { return []verdict.Fact{f} }
			l.pass(16 * time.Second)
			confession := l.hears(test.want)
			l.pass(explainWait)
			require.Len(t, l.got, 1)
			a := l.got[0].Attribution
			require.Equal(t, test.want, a.Reason)
			require.Equal(t, disconnect.Network, a.Initiator)
			require.Equal(t, test.want == disconnect.NetworkUnreachable, confession != nil)
			if confession != nil {
				require.Contains(t, a.Detail, "wlan0 was down")
			}
		})
	}
}

// TestMovesAreRecordedByBothEnds: the client's address changes, which the agent alone can
// see; and a client that ends because of its own dead link says so.
func TestMovesAreRecordedByBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		defer h.stop(t)
		clock := newTestClock()
		var facts []verdict.Fact
		seen := make(chan Interruption, 8)
		w := NewWatch(WatchConfig{
			Dial: n.dial, Instance: "client-1", OutageLimit: testLimit, Clock: clock.now,
			OnInterruption: func(i Interruption) { seen <- i },
			Facts:          func(time.Time) []verdict.Fact { return facts },
		})
		defer w.Close()
		require.NoError(t, w.WaitHello(t.Context()))
		client := flowAddr(50001)
		h.PathChanged(client.Addr(), home)
		w.PathChanged(Path{Via: "203.0.113.9:41641"})
		h.Flow(client, "conn-1")
		elapse(time.Minute)
		n.hole.Store(true)
		elapse(15 * time.Second)
		h.PathChanged(client.Addr(), abroad)
		n.hole.Store(false)
		elapse(time.Minute)
		requireAlive(t, w)
		for _, got := range []Interruption{<-h.interruptions, <-seen} {
			require.Equal(t, disconnect.PathMigrated, got.Attribution.Reason)
			require.Equal(t, disconnect.Network, got.Attribution.Initiator)
			require.Contains(t, got.Attribution.Detail, abroad.String())
			require.True(t, got.Attribution.Expected())
		}

		facts = []verdict.Fact{{Kind: verdict.LinkDown, At: verdict.Moment{Wall: time.Now()}, Text: "wlan0 was down"}}
		n.hole.Store(true)
		elapse(2 * testLimit)
		require.Equal(t, disconnect.NetworkUnreachable, w.Ending().Reason)
		require.Equal(t, disconnect.Network, w.Ending().Initiator)
		require.Contains(t, w.Ending().Detail, "wlan0 was down")
	})
}

// TestLostWithItsRelay: what ends by silence that began as this end lost the relay which
// carried it says so, and testifies of it.
func TestLostWithItsRelay(t *testing.T) {
	for name, test := range map[string]struct {
		way    Path
		relay  disconnect.Attribution
		server bool
		want   disconnect.Reason
		about  disconnect.Initiator // 0: no testimony
		cause  disconnect.Reason
	}{
		"it said goodbye":  {relayA, disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server}, true, disconnect.ServerShutdown, disconnect.Server, disconnect.ServerShutdown},
		"it fell":          {relayA, disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network, Detail: "EOF"}, false, disconnect.RelayLost, disconnect.Relay, disconnect.Unknown},
		"the server's own": {relayA, disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network, Detail: "EOF"}, true, disconnect.RelayLost, disconnect.Server, disconnect.Unknown},
		"nothing used it":  {home, disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network, Detail: "EOF"}, true, disconnect.Unknown, 0, disconnect.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(disconnect.Agent)
			l.hears(disconnect.Graceful)
			l.pathChanged(test.way, l.now)
			l.pass(time.Second)
			l.relayLost(test.relay, test.server, l.now)
			l.pass(time.Minute)
			a, known := l.cause(l.now)
			require.Equal(t, test.want != disconnect.Unknown, known)
			require.Equal(t, test.want, a.Reason)
			f, ok := l.relayGone(l.vigil.heard.Boot, l.now)
			require.Equal(t, test.about != 0, ok)
			require.Equal(t, test.about, f.About)
			require.Equal(t, test.cause, f.Cause.Reason)
		})
	}
}
