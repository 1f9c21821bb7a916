package verdict

import (
	"cmp"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// cause is a decision to end the connection, or the end of the work it was for.
type cause struct {
	disconnect.Attribution
	s       *sighting
	decider disconnect.Initiator // who said so: a goodbye names its sender as the closer
	letter  disconnect.Evidence
	exit    bool // the work ended: R1
	weak    bool // an order of things without a word: counts after all others
	at      int64
	bound   int64
	late    bool // the connection was silent already
}

// decides reports whether a reason is one that somebody decides, or that the end which
// says it knows of itself. The others are judgements on a network.
func decides(r disconnect.Reason) bool {
	switch r {
	case disconnect.Graceful, disconnect.ClientClosed, disconnect.ProcessExited, disconnect.SessionReplaced,
		disconnect.ServerShutdown, disconnect.WorkspaceStopped, disconnect.AdminTerminated, disconnect.IdleTimeout,
		disconnect.SessionLimit, disconnect.AuthRevoked, disconnect.AuthExpired,
		disconnect.AuthFailed, disconnect.LimitExceeded, disconnect.VersionMismatch, disconnect.DuplicateAgent,
		disconnect.ProcessSignaled, disconnect.OOMKilled, disconnect.WorkspaceEvicted, disconnect.SlowPeer,
		disconnect.ResourceExhausted, disconnect.InternalError, disconnect.ProtocolError:
		return true
	}
	return false
}

// enforced reports whether the end that enforces the reason may name the offender.
func enforced(r disconnect.Reason) bool {
	switch r {
	case disconnect.LimitExceeded, disconnect.DuplicateAgent, disconnect.SlowPeer, disconnect.ProtocolError:
		return true
	}
	return false
}

// findCauses collects the decisions, each once, with the time at which it took effect.
func (h *hearing) findCauses() {
	h.causes = h.causes[:0]
	for s := range h.all() {
		c, ok := h.causeIn(s)
		if !ok {
			continue
		}
		c.s, c.at, c.bound = s, s.at, s.bound
		switch {
		case h.isEcho(s):
			s.role = Consequence
		case h.contradicted(&c):
			s.role = Denied
		default:
			h.causes = append(h.causes, c)
		}
	}
	for i := range h.causes {
		h.place(&h.causes[i])
	}
	for i := range h.causes {
		h.causes[i].late = h.silentAt(&h.causes[i])
	}
}

// causeIn reads one sighting as a cause.
func (h *hearing) causeIn(s *sighting) (c cause, ok bool) {
	if !h.ownLeg(s) {
		return c, false
	}
	c = cause{decider: s.observer, letter: disconnect.EvidenceLocal}
	said := disconnect.Goodbye{Reason: s.fact.Cause.Reason, Initiator: s.fact.Cause.Initiator, Detail: s.fact.Cause.Detail}
	switch s.fact.Kind {
	case GoodbyeReceived:
		c.decider, c.letter = cmp.Or(s.fact.About, h.peerOf(s.observer)), disconnect.EvidenceDeclared
	case GoodbyeSent:
		c.letter = disconnect.EvidenceDeclared
	case OwnCause:
	case Account:
		switch s.letter {
		case disconnect.EvidenceDeclared:
			c.letter, c.decider = s.letter, said.Initiator
			if !h.isEnd(c.decider) && c.decider != server {
				c.decider = cmp.Or(h.peerOf(s.observer), s.observer)
			}
		case disconnect.EvidenceLocal:
		default:
			return c, false
		}
	case StopOrder:
		if !h.isEnd(s.observer) || said.Reason == disconnect.WorkspaceEvicted {
			return c, false // it was given to somebody else, who will say what came of it
		}
		c.decider, c.letter = server, disconnect.EvidenceDeclared
	case StatusOK:
		c.decider, c.weak = cmp.Or(s.fact.About, h.peerOf(s.observer)), true
		c.letter = disconnect.EvidenceDeclared
		said = disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: c.decider, Detail: "the stream ended in order"}
	case ProcessExit:
		c.Attribution, ok = h.exitOf(s)
		c.exit, c.decider = true, agent
		return c, ok
	case Obituary, Supervisor:
		return h.orderlyObituary(s)
	default:
		return c, false
	}
	c.Attribution = believed(said, c.decider, s).On(h.leg)
	if s.fact.Kind == OwnCause && c.decider == client && h.sawParentKilled() && c.Reason == disconnect.ClientClosed {
		return c, false // its parent was killed: nobody chose to leave
	}
	return c, decides(c.Reason) && c.decider != 0
}

// believed is what a goodbye of sender may say: confess, never accuse. Who closed first in
// an orderly end is no blame, so an end may name either.
func believed(g disconnect.Goodbye, sender disconnect.Initiator, s *sighting) disconnect.Goodbye {
	if g.Reason == disconnect.Graceful && (s.fact.Kind == OwnCause || s.fact.Kind == Account) && g.Initiator != 0 {
		return g
	}
	return g.From(sender)
}

// orderlyObituary is a former life that says that it stopped, and why.
func (h *hearing) orderlyObituary(s *sighting) (c cause, ok bool) {
	if s.fact.Outcome != Clean && s.fact.Outcome != ExitedInOrder {
		return c, false
	}
	party := s.observer
	if s.fact.Kind == Supervisor {
		party = s.fact.About
	}
	if !h.isEnd(party) || !h.atOnset(s) {
		return c, false
	}
	c = cause{decider: party, letter: disconnect.EvidenceLocal, weak: true}
	said := disconnect.Goodbye{Reason: s.fact.Cause.Reason, Initiator: s.fact.Cause.Initiator, Detail: s.fact.Cause.Detail}
	if said.Reason == disconnect.Unknown {
		said = disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: party, Detail: "it stopped in order, without a goodbye that arrived"}
		if party == client {
			said.Reason = disconnect.ClientClosed
		}
	}
	c.Attribution = said.From(party).On(h.leg)
	return c, decides(c.Reason)
}

// isEcho reports whether the observer had heard a goodbye before it recorded or said this.
func (h *hearing) isEcho(s *sighting) bool {
	if s.fact.Kind != GoodbyeSent && s.fact.Kind != OwnCause {
		return false
	}
	for other := range h.of(GoodbyeReceived) {
		if other.observer == s.observer && h.ownLeg(other) && other.at != unknownTime && other.at <= s.at {
			return true
		}
	}
	return false
}

// contradicted reports whether somebody else's words are put into the mouth of an end that
// itself, at first hand, says otherwise.
func (h *hearing) contradicted(c *cause) bool {
	if c.exit || c.decider == c.s.observer || c.decider == server {
		return false
	}
	spoke := false
	for s := range h.all() {
		if s.observer != c.decider || !h.ownLeg(s) || s.hearsay {
			continue
		}
		switch {
		case s.fact.Kind == OwnCause, s.fact.Kind == GoodbyeSent, s.fact.Kind == Account && s.letter == disconnect.EvidenceLocal:
			if s.fact.Cause.Reason == c.Reason {
				return false
			}
			spoke = true
		case s.fact.Kind == CloseDenied:
			spoke = true
		}
	}
	return spoke
}

// place gives a cause the time of the sighting that orders it best: the agent's on a leg
// between agent and client, else that of who decided.
func (h *hearing) place(c *cause) {
	best := c.s
	for i := range h.causes {
		o := &h.causes[i]
		if o.decider != c.decider || o.Reason != c.Reason || o.s.at == unknownTime {
			continue
		}
		if h.placing(c, o.s) > h.placing(c, best) || (h.placing(c, o.s) == h.placing(c, best) && (best.at == unknownTime || o.s.at < best.at)) {
			best = o.s
		}
	}
	c.at, c.bound = best.at, best.bound
	if c.at == unknownTime { // it says not when: then when it was noticed
		c.at = min(h.onset.to, forever)
	}
}

func (h *hearing) placing(c *cause, s *sighting) int {
	switch {
	case s.at == unknownTime:
		return 0
	case h.leg == disconnect.AgentToClient && s.observer == agent:
		return 3
	case s.observer == c.decider:
		return 2
	}
	return 1
}

// first returns the cause that came first. Of those that the clocks cannot tell apart,
// words go before an order of things without any, what the agent saw goes before what it
// did not, and what was told goes before what somebody decided by itself.
func (h *hearing) first() *cause {
	pivot, weak := forever, true
	for i := range h.causes {
		if c := &h.causes[i]; !c.weak {
			weak = false
		}
	}
	for i := range h.causes {
		if c := &h.causes[i]; c.weak == weak {
			pivot = min(pivot, c.at+c.bound)
		}
	}
	var best *cause
	for i := range h.causes {
		c := &h.causes[i]
		if c.weak != weak || c.at-c.bound > pivot {
			continue
		}
		if best == nil || h.compareCauses(c, best) < 0 {
			best = c
		}
	}
	return best
}

func (h *hearing) compareCauses(a, b *cause) int {
	if c := cmp.Compare(h.unseenByAgent(a), h.unseenByAgent(b)); c != 0 {
		return c
	}
	if a.s.observer == agent && b.s.observer == agent && a.at != b.at { // one clock: no doubt
		return cmp.Compare(a.at, b.at)
	}
	return cmp.Or(
		cmp.Compare(rank(a.s.hearsay), rank(b.s.hearsay)),
		cmp.Compare(rank(a.s.fact.Kind != StopOrder), rank(b.s.fact.Kind != StopOrder)),
		cmp.Compare(a.at, b.at),
		cmp.Compare(rank(a.decider != a.s.observer), rank(b.decider != b.s.observer)),
		cmp.Compare(a.s.observer, b.s.observer), cmp.Compare(a.Reason, b.Reason),
		cmp.Compare(a.Detail, b.Detail), cmp.Compare(a.Initiator, b.Initiator),
	)
}

// unseenByAgent is 1 for a cause on a leg to a client of which the agent knows nothing,
// although the agent speaks of causes.
func (h *hearing) unseenByAgent(c *cause) int {
	if h.leg != disconnect.AgentToClient {
		return 0
	}
	return rank(!slices.ContainsFunc(h.causes, func(o cause) bool {
		return o.s.observer == agent && o.decider == c.decider && o.Reason == c.Reason
	}))
}

// silentAt reports whether the connection was silent, or an end of it asleep, when a cause
// was decided. Then that is what ended it, and the decision is its consequence: who hangs
// up a dead line did not leave on purpose. Work that ended and whose end arrived was not
// cut off.
func (h *hearing) silentAt(c *cause) bool {
	if c.exit && h.otherEndLearned() {
		return false
	}
	for s := range h.all() {
		switch s.fact.Kind {
		case HeartbeatSilence:
			if !h.isEnd(s.observer) || !h.ownLeg(s) {
				continue
			}
		case Slept, TimerLate:
			if !h.isEnd(s.observer) {
				continue
			}
		default:
			continue
		}
		if s.at != unknownTime && s.at+userNotices+s.bound < c.at && c.at+c.bound < h.silentUntil(s) {
			return true
		}
	}
	return false
}

// silentUntil is when a silence or a sleep was over: at the latest when the same observer
// heard the other end again.
func (h *hearing) silentUntil(s *sighting) int64 {
	until := s.until
	if s.fact.Kind != HeartbeatSilence {
		return until
	}
	for o := range h.all() {
		if o.observer != s.observer || o.at <= s.at || !h.ownLeg(o) {
			continue
		}
		switch o.fact.Kind {
		case HeardAgain, GoodbyeReceived:
			if o.fact.About == 0 || o.fact.About == s.fact.About {
				until = min(until, o.at)
			}
		case Resumed:
			until = min(until, o.at)
		}
	}
	return until
}

// otherEndLearned reports whether the client knows that the work ended.
func (h *hearing) otherEndLearned() bool {
	for s := range h.of(ProcessExit) {
		if s.observer == client {
			return true
		}
	}
	return false
}

func (h *hearing) sawParentKilled() bool {
	for range h.of(ParentKilled) {
		return true
	}
	return false
}

// noticeFor is for how long an order or notice without a deadline counts.
const noticeFor = int64(10 * time.Minute / time.Microsecond)

// told returns the order or notice, given before at, under which the agent's end was to be
// expected. A notice that came later covers nothing.
func (h *hearing) told(at int64) *sighting {
	var best *sighting
	for s := range h.all() {
		if (s.fact.Kind != PlatformNotice && s.fact.Kind != StopOrder) || s.at == unknownTime {
			continue
		}
		if r := s.fact.Cause.Reason; r != disconnect.WorkspaceEvicted && r != disconnect.WorkspaceStopped {
			continue
		}
		until := s.until
		if s.fact.Until.IsZero() {
			until = s.at + noticeFor
		}
		if s.at-s.bound > at || until+s.bound < at {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(rank(s.observer != server), rank(best.observer != server)), cmp.Compare(s.at, best.at)) < 0 {
			best = s
		}
	}
	return best
}
