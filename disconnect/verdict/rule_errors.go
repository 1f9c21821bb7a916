package verdict

import (
	"cmp"

	"fairlead.dev/fairlead/disconnect"
)

// byErrors is R10: what the transports said. An errno does not place a fault, and one
// party's silence is no evidence against it.
func byErrors(h *hearing) (finding, bool) {
	if f, ok := h.ownCertificate(); ok {
		return f, true
	}
	best, found := h.bestAccount()
	if best == nil {
		found, best = h.bestSign()
	}
	if best == nil {
		return finding{}, false
	}
	found.observer = best.observer
	found.rest(best)
	h.provedAlive(&found)
	if found.reason == disconnect.NetworkTimeout || found.reason == disconnect.NetworkError {
		h.coverIfGone(&found)
	}
	return found, true
}

// ownCertificate: the server knows what was wrong with its own certificate, where others
// see an alert.
func (h *hearing) ownCertificate() (finding, bool) {
	for s := range h.of(CertificateBad) {
		f := finding{
			reason: disconnect.TLSFailure, initiator: server, locus: "server", observer: server, detail: s.fact.Text,
			letter: disconnect.EvidenceLocal, confidence: disconnect.ConfidenceCertain,
		}
		f.rest(s)
		for a := range h.of(Account) {
			if a.fact.Cause.Reason == disconnect.TLSFailure {
				f.rest(a)
			}
		}
		return f, true
	}
	return finding{}, false
}

// bestAccount chooses among what the observers judged by themselves: what one of them knows
// of its own host first, then the most specific.
func (h *hearing) bestAccount() (best *sighting, found finding) {
	for _, kind := range [...]FactKind{Account, Error} {
		for s := range h.of(kind) {
			if !h.ownLeg(s) || s.fact.Cause.Reason == disconnect.Unknown {
				continue
			}
			f := h.plain(s)
			if best == nil || compareErrors(s, &f, best, &found) < 0 {
				best, found = s, f
			}
		}
		if best != nil {
			break // errors that came after an account are its consequences
		}
	}
	return best, found
}

func compareErrors(a *sighting, fa *finding, b *sighting, fb *finding) int {
	return cmp.Or(
		cmp.Compare(rank(a.hearsay), rank(b.hearsay)),
		cmp.Compare(fa.letter, fb.letter), // local goes before inferred
		cmp.Compare(vague(fa.reason), vague(fb.reason)),
		cmp.Compare(a.at, b.at),
		cmp.Compare(a.observer, b.observer),
		cmp.Compare(fa.reason, fb.reason),
		cmp.Compare(fa.initiator, fb.initiator),
		cmp.Compare(fa.detail, fb.detail),
	)
}

// vague orders reasons by how little they say of the fault.
func vague(r disconnect.Reason) int {
	switch r {
	case disconnect.NetworkError:
		return 4
	case disconnect.NetworkTimeout:
		return 3
	case disconnect.ConnectionReset:
		return 2
	case disconnect.NetworkUnreachable:
		return 1
	}
	return 0
}

// plain is an account as far as one side alone can be believed: nothing inferred is
// expected, and nobody is blamed by inference.
func (h *hearing) plain(s *sighting) finding {
	a := s.fact.Cause
	f := finding{reason: a.Reason, initiator: a.Initiator, detail: a.Detail, letter: s.letter, confidence: disconnect.ConfidenceLow}
	local := s.letter == disconnect.EvidenceLocal
	if !local {
		f.letter = disconnect.EvidenceInferred
	}
	switch a.Reason {
	case disconnect.DNSFailure, disconnect.TLSFailure:
		if local {
			f.confidence = disconnect.ConfidenceCertain
		}
		if a.Initiator == 0 {
			f.initiator = disconnect.Network
		}
	case disconnect.ConnectionRefused:
		f.confidence = disconnect.ConfidenceHigh
		if a.Initiator == 0 || a.Initiator == s.observer {
			f.initiator = disconnect.Network
		}
	case disconnect.NetworkUnreachable:
		f.initiator, f.letter = disconnect.Network, disconnect.EvidenceInferred
	case disconnect.NetworkTimeout, disconnect.NetworkError, disconnect.ConnectionReset:
		f.initiator, f.letter = disconnect.Network, disconnect.EvidenceInferred
	default:
		f.reason, f.initiator, f.letter = disconnect.NetworkError, disconnect.Network, disconnect.EvidenceInferred
		if len(h.silences()) > 0 || a.Reason == disconnect.PeerUnresponsive {
			f.reason = disconnect.NetworkTimeout
		}
	}
	return f
}

// signs are the facts that tell of trouble when nobody has judged them, the most telling
// first. Any other fact still shows that there is some evidence.
var signs = []struct {
	kind   FactKind
	reason disconnect.Reason
	detail string
}{
	{SocketReset, disconnect.ConnectionReset, "a reset"},
	{SocketClosed, disconnect.NetworkError, "the control connection ended without a goodbye"},
	{HeartbeatSilence, disconnect.NetworkTimeout, "silence"},
	{RelayLost, disconnect.NetworkTimeout, "one end lost its relay"},
	{RelayClientGone, disconnect.NetworkError, "the relay lost one end"},
	{ProbeAnswered, disconnect.NetworkTimeout, "a probe was answered, but not by the program"},
	{LinkDown, disconnect.NetworkError, "a link was down, but not when the trouble began"},
	{NewInstance, disconnect.NetworkError, "another life took its place, and nobody says how the former ended"},
}

// bestSign judges bare facts.
func (h *hearing) bestSign() (f finding, best *sighting) {
	f = finding{initiator: disconnect.Network, letter: disconnect.EvidenceInferred, confidence: disconnect.ConfidenceLow}
	for _, sign := range signs {
		for s := range h.of(sign.kind) {
			if best == nil || s.at < best.at {
				best = s
			}
		}
		if best != nil {
			f.reason, f.detail = sign.reason, sign.detail
			return f, best
		}
	}
	for s := range h.all() {
		switch s.fact.Kind {
		case LegAlive, HeardAgain, Resumed, CloseDenied:
			continue // signs of life
		}
		f.reason, f.detail = disconnect.NetworkError, "none of what was seen explains it: "+s.fact.Kind.String()
		return f, s
	}
	return f, nil
}

// provedAlive raises a silence of which it is proved that both ends were alive and had
// other legs that worked: the fault is on the path between them.
func (h *hearing) provedAlive(f *finding) {
	if f.reason != disconnect.NetworkTimeout && f.reason != disconnect.NetworkError {
		return
	}
	one, byOne := h.legState(h.ends[0], true)
	other, byOther := h.legState(h.ends[1], true)
	if !one || !other {
		return
	}
	f.locus, f.letter, f.confidence = "path", disconnect.EvidenceCorrelated, disconnect.ConfidenceHigh
	f.detail = "both ends were alive and in reach of others"
	f.restAll(byOne)
	f.restAll(byOther)
}

// coverIfGone gives the silence of an agent whose own link to the server was lost too the
// cause that had been told before.
func (h *hearing) coverIfGone(f *finding) {
	for s := range h.all() {
		if s.fact.About != agent || !h.atOnset(s) || (s.fact.Leg != disconnect.ServerToAgent && h.leg != disconnect.ServerToAgent) {
			continue
		}
		if s.fact.Kind == HeartbeatSilence || s.fact.Kind == SocketClosed || s.fact.Kind == SocketReset {
			h.coverBy(f, h.onset.to)
			return
		}
	}
}

// nothing is R11.
func nothing(*hearing) (finding, bool) {
	return finding{detail: "there is no evidence"}, true
}
