package verdict

import "fairlead.dev/fairlead/disconnect"

// declaredFirst is R2: somebody said so, or enforced a rule, before the line went silent.
func declaredFirst(h *hearing) (finding, bool) {
	c := h.first()
	if c == nil || c.exit || c.late {
		return finding{}, false
	}
	f := h.fromCause(c)
	if enforced(c.Reason) {
		for s := range h.of(CloseDenied) { // the offender's denial is kept
			if s.observer == c.Initiator {
				s.role = Denied
			}
		}
	}
	if c.Reason == disconnect.ServerShutdown && c.Initiator == agent {
		h.coverBy(&f, c.at+c.bound)
	}
	return f, true
}

// fromCause is the finding that a cause makes, resting on all that saw it.
func (h *hearing) fromCause(c *cause) finding {
	f := finding{reason: c.Reason, initiator: c.Initiator, detail: c.Detail, letter: c.letter, observer: c.s.observer}
	best := c.s
	for i := range h.causes {
		o := &h.causes[i]
		if o.decider != c.decider || o.Reason != c.Reason || (o.Initiator != c.Initiator && o.Initiator != 0) {
			continue
		}
		f.rest(o.s)
		if o.letter == disconnect.EvidenceDeclared {
			f.letter = o.letter
		}
		if o.s.observer == o.decider && best.observer != o.decider {
			best = o.s // who decided knows best why
			f.observer = best.observer
			if o.Detail != "" {
				f.detail = o.Detail
			}
		}
		f.exit(o.s.fact)
		if o.s.fact.Ref != "" {
			f.causedBy = o.s.fact.Ref
		}
	}
	if f.detail == "" {
		for i := range h.causes {
			if o := &h.causes[i]; o.decider == c.decider && o.Reason == c.Reason && o.Detail > f.detail {
				f.detail = o.Detail
			}
		}
	}
	return f
}

// coverBy gives an end of the agent the cause that was told before at, if any was.
func (h *hearing) coverBy(f *finding, at int64) {
	order := h.told(at)
	if order == nil {
		return
	}
	was := f.reason
	f.reason, f.initiator = order.fact.Cause.Reason, server
	f.locus = ""
	if d := order.fact.Cause.Detail; d != "" {
		f.detail = d
	}
	if order.fact.Ref != "" {
		f.causedBy = order.fact.Ref
	}
	f.rest(order)
	f.observer = order.observer
	if was == disconnect.ServerShutdown {
		f.letter, f.confidence = disconnect.EvidenceDeclared, disconnect.ConfidenceCertain
	} else {
		f.letter, f.confidence = disconnect.EvidenceCorrelated, disconnect.ConfidenceHigh
	}
}
