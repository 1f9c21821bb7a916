package companion

import (
	"fmt"
	"slices"
	"time"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

const (
	// interruptionAfter is the silence from which an interruption is recorded.
	interruptionAfter = 8 * time.Second
	// explainWait is how long the other end has, when it is heard again, to say why it
	// was silent. It may have to dial first.
	explainWait = 10 * time.Second
	// lateness is by how much a look at the clock may be late before it means that this
	// process did not run.
	lateness = 2 * time.Second
)

// Interruption is a time in which the other end was not heard, and that the session
// survived. It is not a disconnect. It is a plain value.
type Interruption struct {
	Began    time.Time     // when the other end was last heard, by this host's wall clock
	Duration time.Duration // until it was heard again, sleep included
	// Attribution says why, as far as it is known.
	Attribution disconnect.Attribution
	// Connections are the agent's ids of the connections that it befell.
	Connections []string
}

// vigil follows the life signs of the other end, and notes when this end itself did not
// run: a machine that sleeps hears nobody. Whoever owns it guards it, and looks at
// least every tick while the other end is watched.
type vigil struct {
	self, other disconnect.Initiator // Agent and Client, or the other way
	tick        time.Duration
	beat        time.Duration // the other end's interval of heartbeats, as it announced it

	heard   Reading   // when the other end was last heard
	heardAt time.Time // the same by the wall clock
	looked  Reading
	awake   time.Duration // since the other end was heard, without sleep and standstill
	still   standstill    // the last one
	noticed bool          // the present silence is known to be an interruption

	// facts is what this host can testify of itself since a time; nil: nothing.
	facts func(since time.Time) []verdict.Fact
	way   way

	confessed   disconnect.Attribution // why the last interruption was, that was our doing
	confessedAt time.Duration

	waiting []waiting // over, and to be recorded once the other end has had its say
}

// waiting is an interruption that the other end may still explain.
type waiting struct {
	Interruption
	heard, resumed, until time.Duration // by the boot clock
	from                  Path          // the path before it
	explained             bool          // by the end whose doing it was
	settled               bool
	server                bool                   // the relay that ours is about is the server's own
	ours, theirs          disconnect.Attribution // what else may have been the reason, by each end
}

// standstill is a time, by the boot clock, in which this process did not run.
type standstill struct {
	from, to time.Duration
	slept    bool // the machine slept; otherwise only the process stood still
}

func newVigil(self, other disconnect.Initiator, beat, tick time.Duration, now Reading) *vigil {
	return &vigil{self: self, other: other, beat: beat, tick: tick, heard: now, heardAt: time.Now(), looked: now}
}

// look takes note that this process runs.
func (v *vigil) look(now Reading) {
	passed := now.Boot - v.looked.Boot
	if passed > v.tick+lateness {
		v.still = standstill{from: v.looked.Boot, to: now.Boot, slept: passed-(now.Awake-v.looked.Awake) > lateness}
	} else {
		v.awake += passed
	}
	v.looked = now
}

// silence is the time since the other end was heard, sleep included.
func (v *vigil) silence(now Reading) time.Duration { return now.Boot - v.heard.Boot }

// interruptionAfter is the silence from which an interruption is recorded: an end that
// announced that it will be silent is not missed before.
func (v *vigil) interruptionAfter() time.Duration { return max(interruptionAfter, 2*v.beat) }

// missed reports whether a heartbeat should have come.
func (v *vigil) missed(now Reading) bool { return v.silence(now) >= 3*v.beat/2 }

// pace is when to look again.
func (v *vigil) pace(now Reading) time.Duration {
	if v.missed(now) {
		return min(v.tick, time.Second)
	}
	return min(v.tick, 3*v.beat/2-v.silence(now))
}

// notice reports, once in each silence, that it has become an interruption.
func (v *vigil) notice(now Reading) bool {
	if v.noticed || v.silence(now) < v.interruptionAfter() {
		return false
	}
	v.noticed = true
	return true
}

// hear takes note of a life sign. If it ends an interruption, that befell connections;
// confession is why, if this end itself is the reason.
func (v *vigil) hear(now Reading, connections func() []string) (confession *disconnect.Attribution) {
	v.look(now)
	if lasted := v.silence(now); lasted >= v.interruptionAfter() {
		i := Interruption{Began: clock.Now().Add(-lasted), Duration: lasted, Connections: connections(), Attribution: v.unexplained(lasted)}
		own, known := v.own(now)
		if known {
			i.Attribution, confession = own, &own
			v.confessed, v.confessedAt = own, now.Boot
		}
		v.waiting = append(v.waiting, waiting{
			Interruption: i, heard: v.heard.Boot, resumed: now.Boot, until: now.Boot + explainWait, from: v.way.stable, explained: known,
		})
	}
	if !v.unsettled() {
		v.way.stable = v.way.path
	}
	v.heard, v.heardAt, v.awake, v.noticed = now, time.Now(), 0, false
	return confession
}

// own is why the present silence is this end's own doing, if it is: it stood still, or its
// own link was down, when the silence began.
func (v *vigil) own(now Reading) (disconnect.Attribution, bool) {
	if v.still.to <= v.heard.Boot || v.still.from > v.heard.Boot+v.onset() {
		f, down := v.linkDown(now)
		if !down {
			return disconnect.Attribution{}, false
		}
		return disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkUnreachable, Initiator: disconnect.Network,
			Detail: disconnect.Scrub(fmt.Sprintf("the %v's own network was down: %s", v.self, f.Text)),
		}, true
	}
	what := "process stood still"
	if v.still.slept {
		what = "machine slept"
	}
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.HostPaused, Initiator: v.self,
		Detail: fmt.Sprintf("the %v's %s for %v", v.self, what, (v.still.to - v.still.from).Round(time.Second)),
	}
	if v.self == disconnect.Client {
		a.Reason = disconnect.Suspended
	}
	return a, true
}

// lately is own, or why the interruption was that has just ended.
func (v *vigil) lately(now Reading) (disconnect.Attribution, bool) {
	if a, known := v.own(now); known {
		return a, true
	}
	return v.confession(now)
}

// confession is why the interruption was that has just ended, if that was our doing and the
// other end may still want to know.
func (v *vigil) confession(now Reading) (disconnect.Attribution, bool) {
	return v.confessed, !v.confessed.IsZero() && now.Boot-v.confessedAt < explainWait
}

// unexplained is an interruption of which nothing is known but that it was silent.
func (v *vigil) unexplained(lasted time.Duration) disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		Detail: fmt.Sprintf("nothing was heard from the %v for %v", v.other, lasted.Round(time.Second)),
	}
}

// explained takes the other end's word for why the last silence was, as far as one may
// speak for oneself.
func (v *vigil) explained(a disconnect.Attribution) {
	if len(v.waiting) == 0 {
		return
	}
	last := &v.waiting[len(v.waiting)-1]
	g := a.Goodbye().From(v.other)
	switch {
	case last.explained:
		return
	case g.Initiator == disconnect.Network && (g.Reason == disconnect.PathMigrated || g.Reason == disconnect.RelayLost):
		last.theirs = g.On(disconnect.AgentToClient) // a guess, which gives way to a confession
		return
	case !mayConfess(g.Reason):
		return
	}
	last.Attribution, last.explained = g.On(disconnect.AgentToClient), true
}

// mayConfess reports whether an end may give this reason for having been silent for a
// while.
func mayConfess(r disconnect.Reason) bool {
	switch r {
	case disconnect.Suspended, disconnect.HostPaused, disconnect.NetworkUnreachable:
		return true
	}
	return false
}

// unsettled reports whether an interruption is over so lately that the way may still change.
func (v *vigil) unsettled() bool {
	return len(v.waiting) > 0 && !v.waiting[len(v.waiting)-1].settled
}

// ripe removes and returns what is to be recorded now: what is explained, or has waited
// for long enough. Nothing overtakes what came before it. word is what the other end is
// to be told of the last interruption, if anything.
func (v *vigil) ripe(now Reading) (ready []Interruption, word *disconnect.Attribution) {
	for i := range v.waiting {
		if w := &v.waiting[i]; !w.settled && now.Boot >= w.resumed+settleWait {
			word = v.settle(w)
		}
	}
	for len(v.waiting) > 0 && (v.waiting[0].explained || now.Boot >= v.waiting[0].until) {
		v.waiting[0].conclude()
		ready = append(ready, v.waiting[0].Interruption)
		v.waiting = slices.Delete(v.waiting, 0, 1)
	}
	return ready, word
}

// rest removes and returns all that waits.
func (v *vigil) rest() (all []Interruption) {
	for _, w := range v.waiting {
		w.conclude()
		all = append(all, w.Interruption)
	}
	v.waiting = nil
	return all
}
