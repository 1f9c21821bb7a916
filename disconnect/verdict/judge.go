package verdict

import (
	"cmp"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// rules are asked in this order; the first that matches decides. A connection whose
// silence was open when somebody declared an ending is judged by what made it silent, for
// R1 and R2 do not match then.
var rules = []struct {
	rule  Rule
	match func(*hearing) (finding, bool)
	says  string
}{
	{R1, workEndedFirst, "the session's process ended before anything else"},
	{R2, declaredFirst, "somebody who may said so, before the line went silent"},
	{R3, obituary, "the record of a former life, or those who saw it die"},
	{R4, sleeper, "the clocks of an end show that it was not running"},
	{R5, linkOrRoute, "an end's own link or route was down, or the path changed"},
	{R6, sharedElement, "two legs that share an end were lost at once, and one that avoids it lives"},
	{R7, unresponsive, "the host answers, and its program does not"},
	{R8, nobodySentIt, "one end saw a close that the other did not send"},
	{R9, relayGone, "both ends lost their relay, or it said goodbye"},
	{R10, byErrors, "what the transports said, no more"},
	{R11, nothing, "there is no evidence"},
}

// Says explains the rule to a person.
func (r Rule) Says() string {
	for i := range rules {
		if rules[i].rule == r {
			return rules[i].says
		}
	}
	return "the order of what happened"
}

// finding is what a rule found.
type finding struct {
	reason     disconnect.Reason
	initiator  disconnect.Initiator
	detail     string
	locus      string
	letter     disconnect.Evidence
	confidence disconnect.Confidence // zero: what the letter gives
	observer   disconnect.Initiator
	causedBy   string
	exitCode   *int32
	exitSignal string
	rests      []*sighting
}

// rest adds what the finding rests on, once.
func (f *finding) rest(s *sighting) {
	if !slices.Contains(f.rests, s) {
		f.rests = append(f.rests, s)
	}
	if f.observer == 0 {
		f.observer = s.observer
	}
}

func (f *finding) restAll(all []*sighting) {
	for _, s := range all {
		f.rest(s)
	}
}

// note fills in the detail if nobody said more.
func (f *finding) note(text string) {
	if f.detail == "" {
		f.detail = text
	}
}

func (f *finding) exit(fact *Fact) {
	if fact.Kind != ProcessExit {
		return
	}
	if f.exitCode == nil {
		f.exitCode = fact.ExitCode
	}
	if f.exitSignal == "" {
		f.exitSignal = fact.Signal
	}
}

// Judge joins all that was testified of the end of one connection into a verdict; if
// nobody says that it ended, of its interruption. It is a pure function: the same
// testimonies, in any order and any of them twice, give the same verdict. It changes
// nothing that it is given, and its result shares no memory with it but what is never
// changed (texts and exit codes).
//
// A testimony that is not valid, or whose sender may not speak of this connection, is kept
// as not believed and has no part in the verdict.
func Judge(testimonies []Testimony, ctx Context) Verdict {
	h := hear(testimonies, &ctx)
	rule, found := h.decide()
	if rule >= R10 && h.anyHearsay() { // the first hand knows nothing better
		h.listen = true
		if r, f := h.decide(); r < rule {
			rule, found = r, f
			found.letter, found.confidence = disconnect.EvidenceInferred, disconnect.ConfidenceLow
		} else {
			h.listen = false
			rule, found = h.decide()
		}
	}
	return h.verdict(rule, &found)
}

func (h *hearing) decide() (Rule, finding) {
	h.findCauses()
	for i := range rules {
		if f, ok := rules[i].match(h); ok {
			return rules[i].rule, f
		}
	}
	return R11, finding{}
}

func (h *hearing) anyHearsay() bool {
	return slices.ContainsFunc(h.testimonies, func(t *Testimony) bool { return t.Via != 0 })
}

// verdict writes down what was found, with its evidence.
func (h *hearing) verdict(rule Rule, f *finding) Verdict {
	if f.confidence == 0 {
		f.confidence = f.letter.Confidence()
	}
	if f.letter == disconnect.EvidenceInferred && !h.listen && h.declaredByAnybody() {
		f.letter = disconnect.EvidenceCorrelated // the declaration was weighed against the silence
	}
	v := Verdict{
		ConnectionID: h.connectionID(),
		Kind:         h.kind,
		Attribution:  disconnect.Attribution{ConnectType: h.leg, Reason: f.reason, Initiator: f.initiator, Detail: disconnect.Scrub(f.detail)},
		Phase:        h.phase(),
		Locus:        f.locus, Rule: rule, Evidence: f.letter, Confidence: f.confidence, Observer: f.observer,
		CausedBy: f.causedBy, ExitCode: f.exitCode, ExitSignal: f.exitSignal,
	}
	if v.Reason != disconnect.Unknown && v.Initiator == disconnect.InitiatorUnknown {
		v.Initiator = disconnect.Network
	}
	if v.Kind == Ending && v.Phase == PhaseDial && h.ctx.Opened.IsZero() {
		v.Kind = Attempt
	}
	if h.noticed {
		v.Began, v.Noticed = fromMicros(h.onset.from), fromMicros(h.onset.to)
	}
	if v.Kind == Interruption {
		v.Over = h.resumedAt()
	}
	h.fillItems(&v, f)
	h.finish(&v)
	return v
}

func (h *hearing) declaredByAnybody() bool {
	for i := range h.seen {
		s := &h.seen[i]
		if s.hearsay || !h.ownLeg(s) {
			continue
		}
		switch s.fact.Kind {
		case GoodbyeReceived, GoodbyeSent, OwnCause, StatusOK, StopOrder, ProcessExit:
			return true
		case Account:
			if s.letter != disconnect.EvidenceInferred {
				return true
			}
		}
	}
	return false
}

func (h *hearing) connectionID() string {
	if h.ctx.ConnectionID != "" {
		return h.ctx.ConnectionID
	}
	for _, t := range h.testimonies {
		if t.ConnectionID != "" {
			return t.ConnectionID
		}
	}
	return ""
}

// phase is how far anybody saw the connection come.
func (h *hearing) phase() string {
	furthest := ""
	for _, t := range h.testimonies {
		switch {
		case t.Phase == PhaseOpen, t.Phase == PhaseHandshake && furthest != PhaseOpen, t.Phase == PhaseDial && furthest == "":
			furthest = t.Phase
		}
	}
	return furthest
}

// resumedAt is when the last witness saw the connection work again.
func (h *hearing) resumedAt() time.Time {
	at := unknownTime
	for s := range h.of(Resumed) {
		at = max(at, s.at)
	}
	return fromMicros(at)
}

// fillItems lists all facts, in the order in which they happened.
func (h *hearing) fillItems(v *Verdict, f *finding) {
	v.Used = make([]Item, 0, len(f.rests))
	v.Kept = make([]Item, 0, max(0, len(h.seen)-len(f.rests))+len(h.rejected))
	for i := range h.seen {
		s := &h.seen[i]
		item := Item{
			Source: s.observer, At: fromMicros(s.at), Until: fromMicros(s.until), Bound: time.Duration(s.bound) * time.Microsecond,
			Fact: *s.fact,
		}
		if s.until == s.at {
			item.Until = time.Time{}
		}
		if slices.Contains(f.rests, s) {
			item.Role = Decided
			v.Used = append(v.Used, item)
			continue
		}
		switch {
		case s.role != "":
			item.Role = s.role
		case s.hearsay && !h.listen:
			item.Role = Hearsay
		case s.at != unknownTime && s.at-s.bound > h.onset.to, s.fact.Kind == Error:
			item.Role = Consequence
		default:
			item.Role = Supports
		}
		v.Kept = append(v.Kept, item)
	}
	slices.SortStableFunc(v.Used, compareItems)
	slices.SortStableFunc(v.Kept, compareItems)
	slices.SortFunc(h.rejected, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), compareFacts(&a.Fact, &b.Fact))
	})
	v.Kept = append(v.Kept, h.rejected...)
}

func compareItems(a, b Item) int {
	if c := a.At.Compare(b.At); c != 0 {
		return c
	}
	return cmp.Compare(a.Source, b.Source)
}

// finish says whether the verdict is final, and counts its revisions. What is certain
// waits only for a word that could still explain it: a shutdown may turn out to be an
// eviction that was told before.
func (h *hearing) finish(v *Verdict) {
	expect := h.ctx.Expect
	if expect == nil {
		expect = h.ends[:]
	}
	for _, who := range expect {
		if who != 0 && !h.spoke(who) {
			v.Waiting = append(v.Waiting, who)
		}
	}
	switch {
	case len(v.Waiting) == 0:
		v.Final = true
	case v.Confidence == disconnect.ConfidenceCertain && (v.Reason != disconnect.ServerShutdown || !slices.Contains(v.Waiting, server)):
		v.Final, v.Waiting = true, nil
	case !h.ctx.Now.IsZero() && h.noticed && h.ctx.Now.Sub(fromMicros(h.onset.to)) >= FinalAfter:
		v.Final = true
		if v.Confidence != disconnect.ConfidenceCertain {
			v.Confidence = disconnect.ConfidenceLow
		}
	}
	if p := h.ctx.Previous; p != nil {
		v.Revision = p.Revision
		if !v.sameAs(p) {
			v.Revision++
		}
	}
}

// spoke reports whether a witness has testified at first hand of what is judged.
func (h *hearing) spoke(who disconnect.Initiator) bool {
	return slices.ContainsFunc(h.testimonies, func(t *Testimony) bool {
		return t.Observer == who && t.Via == 0 && (t.Kind != Interruption || h.kind == Interruption)
	})
}
