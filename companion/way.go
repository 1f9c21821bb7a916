package companion

import (
	"fmt"
	"time"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

const (
	// settleWait is how long after a silence the way may still change: what comes back
	// first is often not what was there before, and not what stays.
	settleWait = 7 * time.Second
	// longestMove bounds a silence that a change of the way explains. A way that changed
	// did so within seconds; after a longer silence a new one follows from it, for a NAT
	// forgets a flow in half a minute.
	longestMove = 30 * time.Second
)

// Path is how packets reach the other end. The zero value: no packet has a way, or
// nobody knows.
type Path struct {
	Relayed bool
	Via     string // the relay's code, or the other end's UDP address
}

// String returns words for a log.
func (p Path) String() string {
	switch {
	case p.Via == "":
		return "none"
	case p.Relayed:
		return "relay " + p.Via
	}
	return "direct " + p.Via
}

// way is what a vigil knows of how packets reach the other end.
type way struct {
	path   Path
	stable Path // what it was when the other end was last heard, and not after a silence
	moved  time.Duration
	lost   disconnect.Attribution // how a relay's connection ended that was not to end
	lostAt time.Duration
	server bool // that relay was the server's own
}

// pathChanged takes note of another path.
func (v *vigil) pathChanged(p Path, now Reading) {
	if p.Via == "" || p == v.way.path {
		return // while nothing has a way, the last one is what is known
	}
	v.way.path, v.way.moved = p, now.Boot
	if v.way.stable.Via == "" {
		v.way.stable = p // the first
	}
}

// relayLost takes note of how this end's connection to a relay ended. One that we closed
// for want of use is no loss, and one that we gave up as silent says no more than the
// other end's silence does.
func (v *vigil) relayLost(a disconnect.Attribution, ofServer bool, now Reading) {
	switch {
	case a.Reason == disconnect.ServerShutdown && (a.Initiator == disconnect.Server || a.Initiator == disconnect.Relay):
	case a.Reason == disconnect.NetworkError, a.Reason == disconnect.ConnectionReset:
		a.Detail = "the " + v.self.String() + " lost its relay: " + a.Detail
		a.Reason, a.Initiator = disconnect.RelayLost, disconnect.Network
	default:
		return
	}
	a.ConnectType = disconnect.AgentToClient
	v.way.lost, v.way.lostAt, v.way.server = a, now.Boot, ofServer
}

// linkDown is the host's own word that its link was down when the present silence began.
func (v *vigil) linkDown(now Reading) (f verdict.Fact, down bool) {
	if v.facts == nil {
		return verdict.Fact{}, false
	}
	began := v.silence(now)
	for _, f := range v.facts(time.Now().Add(-began)) {
		if f.Kind == verdict.LinkDown && v.sinceHeard(f.At, now) <= v.onset() {
			return f, true
		}
	}
	return verdict.Fact{}, false
}

// sinceHeard is how long after the last life sign a moment was, by the clock that nobody
// can set if it is known.
func (v *vigil) sinceHeard(m verdict.Moment, now Reading) time.Duration {
	if m.Mono != 0 {
		return time.Duration(m.Mono)*time.Microsecond - v.heard.Boot
	}
	return v.silence(now) - time.Since(m.Wall)
}

// onset is by when after the last life sign what caused the silence must have begun.
func (v *vigil) onset() time.Duration { return v.tick + 2*v.beat }

// suspect returns what of this end's relay may have caused the silence since heard, before
// which packets went from.
func (v *vigil) suspect(from Path, heard time.Duration) disconnect.Attribution {
	if !from.Relayed || v.way.lost.IsZero() || v.way.lostAt < heard-v.onset() || v.way.lostAt > heard+v.onset() {
		return disconnect.Attribution{}
	}
	return v.way.lost
}

// relayGone is suspect for a testimony.
func (v *vigil) relayGone(heard time.Duration, now Reading) (f verdict.Fact, ok bool) {
	lost := v.suspect(v.way.stable, heard)
	if lost.IsZero() {
		return f, false
	}
	f = verdict.Fact{Kind: verdict.RelayLost, About: disconnect.Relay, Text: lost.Detail, Ref: disconnect.ScrubTo(v.way.stable.Via, 64),
		At: verdict.Moment{Wall: clock.Now().Add(v.way.lostAt - now.Boot).Round(0), Mono: max(v.way.lostAt.Microseconds(), 1)}}
	if v.way.server {
		f.About = disconnect.Server
	}
	if lost.Reason == disconnect.ServerShutdown {
		f.Cause = lost // it said goodbye
	}
	return f, true
}

// cause is what this end knows of why the present silence is that ends the connection: own,
// or else how it lost its relay.
func (v *vigil) cause(now Reading) (disconnect.Attribution, bool) {
	if a, known := v.own(now); known {
		return a, true
	}
	lost := v.suspect(v.way.stable, v.heard.Boot)
	return lost, !lost.IsZero()
}

// settle decides, once the way had time to become what it stays, what this end holds to
// be the reason of w. The other end is told.
func (v *vigil) settle(w *waiting) *disconnect.Attribution {
	w.settled = true
	if w.explained {
		return nil
	}
	w.ours, w.server = v.suspect(w.from, w.heard), v.way.server
	if w.ours.IsZero() && w.Duration <= longestMove && w.from.Via != "" && v.way.path != w.from && v.way.moved > w.heard {
		w.ours = disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.PathMigrated, Initiator: disconnect.Network,
			Detail: fmt.Sprintf("the way from the %v to the %v changed from %v to %v", v.self, v.other, w.from, v.way.path),
		}
	}
	if w.ours.IsZero() {
		return nil
	}
	return &w.ours
}

// conclude says why w was, of which nobody has given a reason of its own: a relay that
// said goodbye, one that both ends lost, or a way that changed.
func (w *waiting) conclude() {
	switch {
	case w.explained:
	case w.ours.Reason == disconnect.ServerShutdown:
		w.Attribution = w.ours
	case w.ours.Reason == disconnect.RelayLost && w.theirs.Reason == disconnect.RelayLost:
		w.Attribution = w.ours
		if w.server { // whose process it is that both lost
			w.Attribution.Initiator = disconnect.Server
		}
	case w.ours.Reason == disconnect.PathMigrated:
		w.Attribution = w.ours
	case w.theirs.Reason == disconnect.PathMigrated:
		w.Attribution = w.theirs
	}
}
