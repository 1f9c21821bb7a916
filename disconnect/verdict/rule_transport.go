package verdict

import (
	"cmp"

	"fairlead.dev/fairlead/disconnect"
)

// nobodySentIt is R8: one end saw a reset, or an end of the stream, that the other end,
// which lives, did not send. Somebody between did.
func nobodySentIt(h *hearing) (finding, bool) {
	for s := range h.all() {
		if (s.fact.Kind != SocketReset && s.fact.Kind != SocketClosed) || !h.ownLeg(s) || !h.atOnset(s) {
			continue
		}
		for denial := range h.of(CloseDenied) {
			if denial.observer != s.fact.About || !h.ownLeg(denial) || denial.observer == s.observer {
				continue
			}
			f := finding{
				reason: disconnect.ConnectionReset, initiator: disconnect.Network, locus: "path", observer: s.observer,
				letter: disconnect.EvidenceCorrelated, confidence: disconnect.ConfidenceHigh,
				detail: "the " + s.fact.About.String() + " did not send it",
			}
			if s.fact.Kind == SocketClosed {
				f.reason = disconnect.NetworkError
			}
			f.rest(s)
			f.rest(denial)
			return f, true
		}
	}
	return finding{}, false
}

// relayGone is R9: both ends lost the relay that carried the connection. One that redials
// its relay has ended nothing.
func relayGone(h *hearing) (finding, bool) {
	if h.leg != disconnect.AgentToClient {
		return finding{}, false
	}
	var byClient, byAgent, parted *sighting
	for s := range h.of(RelayLost) {
		if !h.atOnset(s) {
			continue
		}
		switch s.observer {
		case client:
			byClient = s
		case agent:
			byAgent = s
		}
		if s.fact.Cause.Reason != disconnect.Unknown {
			parted = s
		}
	}
	owner := cmp.Or(h.ctx.RelayOwner, relay)
	if known := cmp.Or(parted, byAgent, byClient); known != nil && known.fact.About != 0 {
		owner = known.fact.About
	}
	switch {
	case parted != nil:
		f := finding{
			reason: disconnect.ServerShutdown, initiator: owner, locus: "relay", observer: parted.observer,
			letter: disconnect.EvidenceDeclared, confidence: disconnect.ConfidenceCertain,
			detail: cmp.Or(parted.fact.Cause.Detail, "the relay said goodbye"), causedBy: parted.fact.Ref,
		}
		f.rest(parted)
		return f, true
	case byClient != nil && byAgent != nil:
		f := finding{
			reason: disconnect.RelayLost, initiator: disconnect.Network, locus: "relay", observer: byAgent.observer,
			letter: disconnect.EvidenceCorrelated, confidence: disconnect.ConfidenceHigh,
			detail: "both ends lost the relay", causedBy: byAgent.fact.Ref,
		}
		if owner == server {
			f.initiator = server
		}
		f.rest(byClient)
		f.rest(byAgent)
		return f, true
	}
	return finding{}, false
}
