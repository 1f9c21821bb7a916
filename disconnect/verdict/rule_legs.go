package verdict

import (
	"fairlead.dev/fairlead/disconnect"
)

// sharedElement is R6: two legs that share an end were lost at the same moment, while a
// leg that avoids that end lives. The place is known then; to blame the process there
// takes an obituary, or that its host answers (R7), which says more than the place.
func sharedElement(h *hearing) (finding, bool) {
	if _, hung := unresponsive(h); hung || !h.lost() {
		return finding{}, false
	}
	for _, end := range h.ends {
		other := h.peerOf(end)
		lost, lostBy := h.legState(end, false)
		if !lost {
			continue
		}
		if alive, _ := h.legState(end, true); alive {
			continue
		}
		alive, aliveBy := h.legState(other, true)
		if !alive {
			continue
		}
		f := finding{
			reason: disconnect.NetworkTimeout, initiator: disconnect.Network, locus: end.String(),
			letter: disconnect.EvidenceCorrelated, confidence: disconnect.ConfidenceHigh,
			detail: "all legs to the " + end.String() + " were lost at once, while others lived",
		}
		f.restAll(lostBy)
		f.restAll(aliveBy)
		f.restAll(h.silences())
		f.causedBy = h.neighbourOf(end)
		if end == agent {
			h.coverIfGone(&f)
		}
		return f, true
	}
	return finding{}, false
}

// lost reports whether the leg that is judged was lost in a way that tells nothing more.
func (h *hearing) lost() bool {
	for s := range h.all() {
		if !h.ownLeg(s) || !h.atOnset(s) {
			continue
		}
		switch s.fact.Kind {
		case HeartbeatSilence:
			return true
		case SocketClosed, SocketReset:
			return true
		case Account, Error:
			switch s.fact.Cause.Reason {
			case disconnect.NetworkTimeout, disconnect.NetworkError, disconnect.NetworkUnreachable, disconnect.ConnectionReset:
				return true
			}
		}
	}
	return false
}

// legState reports whether another leg of an end was alive, or lost, when the trouble
// began, and who says so.
func (h *hearing) legState(end disconnect.Initiator, alive bool) (found bool, by []*sighting) {
	for s := range h.all() {
		if s.fact.Leg == 0 || sharedEnd(h.leg, s.fact.Leg) != end || !h.atOnset(s) {
			continue
		}
		switch s.fact.Kind {
		case LegAlive: // beyond the onset, not only before it
			if alive && s.until >= h.onset.to {
				found, by = true, append(by, s)
			}
		case HeartbeatSilence, SocketClosed, SocketReset:
			if !alive {
				found, by = true, append(by, s)
			}
		}
	}
	for i := range h.ctx.Neighbours {
		if n := &h.ctx.Neighbours[i]; n.Shares == end && n.Alive == alive && h.neighbourAtOnset(n) {
			found = true
		}
	}
	return found, by
}

func (h *hearing) neighbourAtOnset(n *Neighbour) bool {
	w := span{micros(n.From), micros(n.Until)}
	if n.Alive {
		return w.from <= h.onset.from && w.to >= h.onset.to
	}
	return span{w.from - sameMoment, w.to + sameMoment}.overlaps(h.onset)
}

// neighbourOf names the other leg that was lost with this one.
func (h *hearing) neighbourOf(end disconnect.Initiator) string {
	for i := range h.ctx.Neighbours {
		if n := &h.ctx.Neighbours[i]; n.Shares == end && !n.Alive && h.neighbourAtOnset(n) {
			return n.ConnectionID
		}
	}
	return ""
}

// silences are the silences on the leg itself.
func (h *hearing) silences() (all []*sighting) {
	for s := range h.of(HeartbeatSilence) {
		if h.ownLeg(s) && h.atOnset(s) {
			all = append(all, s)
		}
	}
	return all
}

// unresponsive is R7: the host acknowledged a fresh probe while its program was silent. A
// probe through a box that may have answered itself is no proof.
func unresponsive(h *hearing) (finding, bool) {
	for s := range h.of(ProbeAnswered) {
		party := s.fact.About
		if s.fact.Proxied || !h.isEnd(party) {
			continue
		}
		for silence := range h.of(HeartbeatSilence) {
			if silence.fact.About != party || !h.atOnset(silence) ||
				(s.at != unknownTime && !(span{silence.at - silence.bound, silence.until + silence.bound}).overlaps(span{s.at - s.bound, s.at + s.bound})) {
				continue
			}
			f := finding{
				reason: disconnect.PeerUnresponsive, initiator: party, locus: party.String(), observer: s.observer,
				letter: disconnect.EvidenceCorrelated, confidence: disconnect.ConfidenceHigh,
				detail: "its host answered a probe while its program was silent",
			}
			f.rest(s)
			f.rest(silence)
			return f, true
		}
	}
	return finding{}, false
}
