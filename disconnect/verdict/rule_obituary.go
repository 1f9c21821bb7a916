package verdict

import (
	"cmp"

	"fairlead.dev/fairlead/disconnect"
)

// obituary is R3: an end of the connection died, by its own journal, its supervisor, or
// two witnesses who saw its kernel clean up after it.
func obituary(h *hearing) (finding, bool) {
	if h.kind == Interruption && h.isResumed() {
		return finding{}, false // it went on, so neither end died
	}
	f, ok := h.deathRecorded()
	if !ok {
		f, ok = h.deathWitnessed()
	}
	if ok && f.initiator == agent && f.reason == disconnect.PeerCrashed {
		h.coverBy(&f, h.onset.to)
	}
	return f, ok
}

// deathRecorded looks for a journal or a supervisor that says how the former life ended.
func (h *hearing) deathRecorded() (finding, bool) {
	var best *sighting
	var found finding
	for s := range h.all() {
		f, ok := h.recorded(s)
		if !ok {
			continue
		}
		if best == nil || h.betterRecord(&f, &found) {
			best, found = s, f
		}
	}
	if best == nil {
		return finding{}, false
	}
	for s := range h.all() { // others that say the same of the same party
		if f, ok := h.recorded(s); ok && f.initiator == found.initiator {
			found.rest(s)
		}
	}
	return found, true
}

// betterRecord compares two records of a death. If both ends died, the first did: the
// kernels' closes tell the order, where one observer saw both. Of one party a supervisor saw
// the end itself; a journal only sees that it is unclean, and one that names the cause goes
// before one that does not.
func (h *hearing) betterRecord(f, than *finding) bool {
	if f.initiator != than.initiator {
		if order := h.diedBefore(f.initiator, than.initiator); order != 0 {
			return order < 0
		}
	}
	return f.confidence > than.confidence ||
		(f.confidence == than.confidence && than.reason == disconnect.PeerCrashed && f.reason != disconnect.PeerCrashed)
}

// diedBefore is below zero if one observer saw the kernel of a close a socket before it saw
// that of b do so, above zero if after, and zero if nobody saw both.
func (h *hearing) diedBefore(a, b disconnect.Initiator) int {
	for x := range h.all() {
		for y := range h.all() {
			if x.observer == y.observer && x.fact.About == a && y.fact.About == b && h.closing(x) && h.closing(y) {
				if order := cmp.Compare(x.at, y.at); order != 0 {
					return order
				}
			}
		}
	}
	return 0
}

func (h *hearing) closing(s *sighting) bool {
	return (s.fact.Kind == SocketClosed || s.fact.Kind == SocketReset) && s.at != unknownTime && h.atOnset(s)
}

// recorded reads one obituary, if it is of an end of this connection and of this moment.
func (h *hearing) recorded(s *sighting) (f finding, ok bool) {
	party := s.observer
	if s.fact.Kind == Supervisor {
		party = s.fact.About
	}
	f = finding{initiator: party, letter: disconnect.EvidenceCorrelated, confidence: disconnect.ConfidenceHigh,
		detail: s.fact.Text, locus: party.String(), observer: s.observer}
	switch s.fact.Kind {
	case ParentKilled:
		f.reason, f.letter, f.confidence = disconnect.PeerCrashed, disconnect.EvidenceLocal, disconnect.ConfidenceCertain
		f.note("the program that it served was killed")
	case Obituary:
		f.ofJournal(s.fact.Outcome)
	case Supervisor:
		f.letter, f.confidence = disconnect.EvidenceLocal, disconnect.ConfidenceCertain
		f.ofSupervisor(s.fact.Outcome)
	}
	if f.reason == disconnect.Unknown || !h.isEnd(party) || !h.atOnset(s) || h.livedOn(s) {
		return f, false
	}
	f.rest(s)
	return f, true
}

func (f *finding) ofJournal(o Outcome) {
	switch o {
	case Crashed:
		f.reason = disconnect.PeerCrashed
		f.note("its journal ends without a goodbye")
	case Panicked:
		f.reason, f.confidence = disconnect.InternalError, disconnect.ConfidenceCertain
	case OOMKilled:
		f.reason = disconnect.OOMKilled
		f.note("its journal ends, and the kernel had killed for want of memory")
	case Rebooted:
		f.reason = disconnect.PeerCrashed
		f.note("host_restart")
	}
}

func (f *finding) ofSupervisor(o Outcome) {
	switch o {
	case ExitStatus, Signaled, CoreDumped:
		f.reason = disconnect.PeerCrashed
		f.note("supervisor: " + string(o))
	case OOMKiller:
		f.reason = disconnect.OOMKilled
		f.note("supervisor: " + string(o))
	case Watchdog:
		f.reason = disconnect.PeerUnresponsive
		f.note("supervisor: watchdog")
	case Evicted:
		f.reason, f.initiator, f.letter = disconnect.WorkspaceEvicted, server, disconnect.EvidenceDeclared
		f.note("the platform evicted it")
	}
}

// livedOn reports whether the party was surely alive when something else had made the
// connection silent already: then its death is a consequence, or a second misfortune.
func (h *hearing) livedOn(obituary *sighting) bool {
	if obituary.at == unknownTime {
		return false
	}
	for s := range h.all() {
		switch s.fact.Kind {
		case Slept, TimerLate, LinkDown:
			if h.isEnd(s.observer) && s.at != unknownTime && h.atOnset(s) &&
				s.at+s.bound+sameMoment < obituary.at-obituary.bound {
				return true
			}
		}
	}
	return false
}

// deathWitnessed is for a party that has not spoken since: its kernel closed its control
// socket without a goodbye, and a second witness lost it at the same moment.
func (h *hearing) deathWitnessed() (finding, bool) {
	for _, party := range h.ends {
		if h.spokeSince(party) {
			continue
		}
		closed, reset := h.kernelClosed(party)
		if closed == nil {
			continue
		}
		f := finding{
			reason: disconnect.PeerCrashed, initiator: party, locus: party.String(), observer: closed.observer,
			detail:     "its kernel closed its control connection without a goodbye",
			letter:     disconnect.EvidenceCorrelated,
			confidence: disconnect.ConfidenceLow,
		}
		f.rest(closed)
		second, another := h.alsoLost(party, closed)
		if !second {
			continue
		}
		h.restOnLost(&f, party)
		if another && !reset {
			f.confidence = disconnect.ConfidenceHigh
		}
		return f, true
	}
	return finding{}, false
}

// kernelClosed returns who saw the party's kernel close a socket; reset if it was by a
// reset, which a box between can send as well.
func (h *hearing) kernelClosed(party disconnect.Initiator) (s *sighting, reset bool) {
	for s := range h.of(SocketClosed) {
		if s.fact.About == party && h.atOnset(s) {
			return s, false
		}
	}
	for s := range h.of(SocketReset) {
		if s.fact.About == party && h.atOnset(s) {
			return s, true
		}
	}
	return nil, false
}

// alsoLost looks for a second sign of the party's death, and whether it is of another
// observer. Silence counts only on another leg or by another observer.
func (h *hearing) alsoLost(party disconnect.Initiator, first *sighting) (second, another bool) {
	for s := range h.all() {
		if s == first || s.fact.About != party || !h.atOnset(s) {
			continue
		}
		sign := false
		switch s.fact.Kind {
		case HeartbeatSilence, SocketClosed:
			sign = s.observer != first.observer || s.fact.Leg != first.fact.Leg
		case RelayClientGone:
			sign = s.fact.Cause.Reason == disconnect.Unknown
		}
		if sign {
			second = true
			another = another || s.observer != first.observer
		}
	}
	for i := range h.ctx.Neighbours {
		if n := &h.ctx.Neighbours[i]; n.Closed && !n.Alive && n.Shares == party && h.neighbourAtOnset(n) {
			second, another = true, true
		}
	}
	return second, another
}

func (h *hearing) restOnLost(f *finding, party disconnect.Initiator) {
	for s := range h.all() {
		if s.fact.About == party && h.atOnset(s) {
			switch s.fact.Kind {
			case HeartbeatSilence, SocketClosed, SocketReset, RelayClientGone:
				f.rest(s)
			}
		}
	}
}

// spokeSince reports whether a party has given an account of itself, or was heard again.
// Then its death is for its own journal to tell.
func (h *hearing) spokeSince(party disconnect.Initiator) bool {
	for s := range h.all() {
		if s.observer == party && (s.fact.Kind == CloseDenied || s.at == unknownTime || s.at+s.bound >= h.onset.to) {
			return true
		}
		if s.fact.Kind == HeardAgain && s.fact.About == party && s.at != unknownTime && s.at-s.bound > h.onset.to {
			return true
		}
		if s.fact.Kind == ProbeAnswered && s.fact.About == party && h.atOnset(s) {
			return true
		}
	}
	return false
}
