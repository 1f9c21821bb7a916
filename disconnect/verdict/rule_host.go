package verdict

import (
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// sleeper is R4: the clocks of an end show that it slept, or was stopped, when the trouble
// began.
func sleeper(h *hearing) (finding, bool) {
	var best *sighting
	for s := range h.all() {
		if h.isPause(s) && (best == nil || s.at < best.at) {
			best = s
		}
	}
	if best == nil {
		return finding{}, false
	}
	who := best.observer
	f := finding{
		reason: disconnect.HostPaused, initiator: who, locus: who.String(), observer: who,
		letter: disconnect.EvidenceLocal, confidence: disconnect.ConfidenceCertain, detail: best.fact.Text,
	}
	if who == client || best.fact.Outcome == Suspended || best.fact.Cause.Reason == disconnect.Suspended {
		f.reason = disconnect.Suspended
	}
	f.rest(best)
	for s := range h.all() {
		if s.observer != who {
			continue
		}
		if s.fact.Kind == SleepAnnounced && h.atOnset(s) {
			f.reason = disconnect.Suspended
			f.rest(s)
		} else if h.isPause(s) {
			f.rest(s)
		}
	}
	f.note(pauseDetail(best))
	return f, true
}

// isPause reports whether a sighting is of an end that was not running, for long enough to
// be noticed, when the trouble began.
func (h *hearing) isPause(s *sighting) bool {
	if !h.isEnd(s.observer) || !h.atOnset(s) {
		return false
	}
	switch s.fact.Kind {
	case Slept, TimerLate:
		return s.until-s.at >= userNotices
	case Obituary:
		return s.fact.Outcome == Suspended
	case Account: // it confesses
		return s.letter == disconnect.EvidenceLocal && s.fact.Cause.Initiator == s.observer &&
			(s.fact.Cause.Reason == disconnect.Suspended || s.fact.Cause.Reason == disconnect.HostPaused)
	}
	return false
}

func pauseDetail(s *sighting) string {
	switch s.fact.Kind {
	case Slept:
		return "slept for " + seconds(s.until-s.at)
	case TimerLate:
		return "stopped for " + seconds(s.until-s.at)
	}
	return s.fact.Cause.Detail
}

// seconds writes a duration in microseconds in whole seconds.
func seconds(us int64) string {
	return (time.Duration(us) * time.Microsecond).Round(time.Second).String()
}

// linkOrRoute is R5: an end's own link or route was down when the trouble began; or the
// connection moved to another path and went on.
func linkOrRoute(h *hearing) (finding, bool) {
	var best *sighting
	for s := range h.of(LinkDown) {
		if h.isEnd(s.observer) && h.atOnset(s) && (best == nil || s.at < best.at) {
			best = s
		}
	}
	if best == nil {
		return h.moved()
	}
	f := finding{
		reason: disconnect.NetworkUnreachable, initiator: disconnect.Network, locus: netOf(best.observer),
		letter: disconnect.EvidenceLocal, confidence: disconnect.ConfidenceCertain, observer: best.observer, detail: best.fact.Text,
	}
	f.note("the " + best.observer.String() + "'s own link or route was down")
	for s := range h.of(LinkDown) {
		if s.observer == best.observer && h.atOnset(s) {
			f.rest(s)
		}
	}
	if best.observer == agent {
		h.coverIfGone(&f)
	}
	return f, true
}

// netOf is the place of a party's own network.
func netOf(i disconnect.Initiator) string {
	switch i {
	case client:
		return "client_net"
	case agent:
		return "agent_net"
	}
	return i.String()
}

// moved finds an interruption that was over because the connection took another path.
func (h *hearing) moved() (finding, bool) {
	if h.kind != Interruption || h.leg == disconnect.ServerToAgent {
		return finding{}, false
	}
	for s := range h.all() {
		if s.fact.Kind != PathChanged && s.fact.Kind != LinkChanged {
			continue
		}
		if !h.isEnd(s.observer) || !h.isResumed() || (s.at != unknownTime && s.at+s.bound+sameMoment < h.onset.from) {
			continue
		}
		f := finding{
			reason: disconnect.PathMigrated, initiator: disconnect.Network, locus: "path", detail: s.fact.Text,
			letter: disconnect.EvidenceLocal, confidence: disconnect.ConfidenceCertain, observer: s.observer,
		}
		f.rest(s)
		return f, true
	}
	return finding{}, false
}

func (h *hearing) isResumed() bool {
	for range h.of(Resumed) {
		return true
	}
	return false
}
