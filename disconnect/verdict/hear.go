package verdict

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// All times of a hearing are microseconds by the server's clock.
const (
	unknownTime = int64(0)
	forever     = int64(math.MaxInt64 / 4)

	// assumedBound is how wrong a clock may be that nobody has measured.
	assumedBound = 2_000_000
	// sameMoment is by how much two layers may differ in when they notice one event that
	// each notices at once.
	sameMoment = 3_000_000
	// userNotices is after how much silence a user is told, and may give up.
	userNotices = 4_000_000
)

// span is a time from one bound until another, both included.
type span struct{ from, to int64 }

func (s span) overlaps(t span) bool { return s.from <= t.to && t.from <= s.to }

// sighting is one fact on the server's timeline.
type sighting struct {
	observer  disconnect.Initiator
	testimony *Testimony
	fact      *Fact
	letter    disconnect.Evidence // of an account
	hearsay   bool
	at, until int64 // until is at for what has no duration, and forever for what goes on
	bound     int64
	role      Role
}

// hearing is all that was testified, in order, and what the rules ask of it.
type hearing struct {
	ctx  *Context
	leg  disconnect.ConnectType
	ends [2]disconnect.Initiator
	kind Kind

	testimonies []*Testimony // admitted, in an order that does not depend on that of arrival
	seen        []sighting
	rejected    []Item
	causes      []cause
	onset       span // when the trouble began
	noticed     bool // whether anybody told
	listen      bool // to hearsay too
}

// hear admits the testimonies, puts them in order and on one timeline (R0).
func hear(testimonies []Testimony, ctx *Context) *hearing {
	h := &hearing{ctx: ctx, leg: ctx.ConnectType}
	h.testimonies = make([]*Testimony, 0, len(testimonies))
	facts := 0
	for i := range testimonies {
		if h.leg == 0 || (ctx.ConnectType == 0 && testimonies[i].ConnectType.Valid() && testimonies[i].ConnectType < h.leg) {
			h.leg = testimonies[i].ConnectType
		}
	}
	h.ends = endsOf(h.leg)
	for i := range testimonies {
		t := &testimonies[i]
		if !h.admits(t) {
			h.reject(t)
			continue
		}
		h.testimonies = append(h.testimonies, t)
		facts += len(t.Facts) + 1
	}
	h.order()
	h.bound()
	h.kind = h.whatIsJudged()
	h.seen = make([]sighting, 0, facts)
	for _, t := range h.testimonies {
		h.see(t)
	}
	h.findOnset()
	h.setAsideTheOver()
	return h
}

// admits applies the guard rules: who may say anything of this connection at all.
func (h *hearing) admits(t *Testimony) bool {
	if t.Validate() != nil || t.ConnectType != h.leg {
		return false
	}
	if h.ctx.ConnectionID != "" && t.ConnectionID != h.ctx.ConnectionID {
		return false
	}
	if t.Observer == server {
		return true
	}
	if t.Observer != relay && !h.isEnd(t.Observer) {
		return false
	}
	principal, known := h.ctx.Principals[t.Observer]
	return !known || t.Principal == principal
}

func (h *hearing) isEnd(i disconnect.Initiator) bool {
	return i != 0 && (i == h.ends[0] || i == h.ends[1])
}

// peerOf returns the other end; for who is at neither, zero.
func (h *hearing) peerOf(i disconnect.Initiator) disconnect.Initiator {
	switch i {
	case h.ends[0]:
		return h.ends[1]
	case h.ends[1]:
		return h.ends[0]
	}
	return 0
}

// reject keeps what is not believed, so that a reader sees that it was said.
func (h *hearing) reject(t *Testimony) {
	item := Item{Source: t.Observer, Role: NotBelieved, Fact: Fact{Kind: Account, Cause: t.Account}}
	if t.Account.Reason == disconnect.Unknown && len(t.Facts) > 0 {
		item.Fact = t.Facts[0]
	}
	h.rejected = append(h.rejected, item)
}

// order sorts by what the testimonies say, so that the order of arrival has no part in
// it, and drops what is there twice.
func (h *hearing) order() {
	slices.SortFunc(h.testimonies, compareTestimonies)
	h.testimonies = slices.CompactFunc(h.testimonies, func(a, b *Testimony) bool {
		if a.Observer != b.Observer {
			return false
		}
		return (a.ID != "" && a.ID == b.ID && a.Kind == b.Kind) || compareContents(a, b) == 0
	})
}

// maxSeen bounds the facts of one observer, so that nobody can make a judgement long.
const maxSeen = 512

// bound drops what one observer says beyond all measure.
func (h *hearing) bound() {
	var seen [disconnect.Relay + 1]int
	h.testimonies = slices.DeleteFunc(h.testimonies, func(t *Testimony) bool {
		if seen[t.Observer] += len(t.Facts) + 1; seen[t.Observer] <= maxSeen {
			return false
		}
		h.reject(t)
		return true
	})
}

// compareTestimonies puts the one that is kept of two of the same id first: first-hand,
// with more facts.
func compareTestimonies(a, b *Testimony) int {
	if c := cmp.Compare(a.Observer, b.Observer); c != 0 {
		return c
	}
	if c := cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)); c != 0 { // endings first
		return c
	}
	if c := compareContents(a, b); c != 0 {
		return c
	}
	return a.Received.Compare(b.Received)
}

func compareContents(a, b *Testimony) int {
	if c := cmp.Compare(hearsayRank(a), hearsayRank(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(len(b.Facts), len(a.Facts)); c != 0 {
		return c
	}
	if c := compareMoments(a.LastGood, b.LastGood); c != 0 {
		return c
	}
	if c := compareMoments(a.FirstNoticed, b.FirstNoticed); c != 0 {
		return c
	}
	if c := cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Phase, b.Phase),
		cmp.Compare(a.Evidence, b.Evidence), compareAttributions(a.Account, b.Account)); c != 0 {
		return c
	}
	for i := range a.Facts {
		if c := compareFacts(&a.Facts[i], &b.Facts[i]); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(a.Clock.Offset, b.Clock.Offset), cmp.Compare(a.Clock.Bound, b.Clock.Bound),
		cmp.Compare(a.Clock.Mono, b.Clock.Mono), a.Clock.Wall.Compare(b.Clock.Wall))
}

func hearsayRank(t *Testimony) int { return int(t.Via) }

func compareMoments(a, b Moment) int {
	if c := a.Wall.Compare(b.Wall); c != 0 {
		return c
	}
	return cmp.Compare(a.Mono, b.Mono)
}

func compareAttributions(a, b disconnect.Attribution) int {
	return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Initiator, b.Initiator), cmp.Compare(a.Detail, b.Detail))
}

func compareFacts(a, b *Fact) int {
	if c := cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.About, b.About), cmp.Compare(a.Leg, b.Leg),
		compareMoments(a.At, b.At), compareMoments(a.Until, b.Until), compareAttributions(a.Cause, b.Cause)); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(exitCode(a), exitCode(b)), cmp.Compare(a.Signal, b.Signal), cmp.Compare(a.SentBy, b.SentBy),
		cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Ref, b.Ref),
		cmp.Compare(a.Text, b.Text), cmp.Compare(rank(a.Proxied), rank(b.Proxied)))
}

// exitCode returns a fact's exit code, and what no exit code is if there is none.
func exitCode(f *Fact) int64 {
	if f.ExitCode == nil {
		return math.MinInt64
	}
	return int64(*f.ExitCode)
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// whatIsJudged is an ending as soon as anybody says that it ended.
func (h *hearing) whatIsJudged() Kind {
	for _, t := range h.testimonies {
		if t.Kind == Ending {
			return Ending
		}
	}
	return Interruption
}

// clockOf returns the error bound of an observer's clock.
func clockBound(t *Testimony) int64 {
	if t.Clock.Bound > 0 || t.Observer == server {
		return t.Clock.Bound
	}
	return assumedBound
}

// onServer puts a moment of t's observer on the server's timeline, between when the
// connection was opened and when the testimony was received. The monotonic clock is
// preferred: the wall clock may have been set between the event and the measurement.
func (h *hearing) onServer(t *Testimony, m Moment) int64 {
	if m.IsZero() {
		return unknownTime
	}
	var at int64
	switch {
	case m.Mono != 0 && t.Clock.Mono != 0 && !t.Clock.Wall.IsZero():
		at = micros(t.Clock.Wall) + t.Clock.Offset - (t.Clock.Mono - m.Mono)
	case m.Wall.IsZero():
		return unknownTime
	default:
		at = micros(m.Wall) + t.Clock.Offset
	}
	if !h.ctx.Opened.IsZero() {
		at = max(at, micros(h.ctx.Opened))
	}
	received := t.Received
	if received.IsZero() {
		received = h.ctx.Now
	}
	if !received.IsZero() {
		at = min(at, micros(received))
	}
	return max(at, 1) // zero is what is not known
}

// micros bounds what a hostile clock can do to arithmetic.
func micros(t time.Time) int64 { return min(max(t.UnixMicro(), 1), forever/2) }

func fromMicros(at int64) time.Time {
	if at <= unknownTime || at >= forever {
		return time.Time{}
	}
	return time.UnixMicro(at).UTC()
}

// see adds the facts of a testimony, and its account as if that were one of them.
func (h *hearing) see(t *Testimony) {
	bound, hearsay := clockBound(t), t.Via != 0
	if t.Account.Reason != disconnect.Unknown {
		at := h.onServer(t, t.FirstNoticed)
		h.seen = append(h.seen, sighting{
			observer: t.Observer, testimony: t, fact: &Fact{Kind: Account, Cause: t.Account}, letter: t.Evidence,
			hearsay: hearsay, at: at, until: at, bound: bound,
		})
	}
	for i := range t.Facts {
		f := &t.Facts[i]
		s := sighting{observer: t.Observer, testimony: t, fact: f, hearsay: hearsay, bound: bound, at: h.onServer(t, f.At)}
		s.until = s.at
		switch {
		case !f.Until.IsZero() && (f.Kind == StopOrder || f.Kind == PlatformNotice):
			s.until = micros(f.Until.Wall) + t.Clock.Offset // a deadline may lie ahead
		case !f.Until.IsZero():
			s.until = max(s.at, h.onServer(t, f.Until))
		case f.lasts():
			s.until = forever
		}
		h.seen = append(h.seen, s)
	}
}

// lasts reports whether a fact without an end still goes on.
func (f *Fact) lasts() bool {
	switch f.Kind {
	case HeartbeatSilence, LinkDown, LegAlive:
		return true
	}
	return false
}

// all yields what may be used now: hearsay only when the first hand had nothing better.
func (h *hearing) all() iter.Seq[*sighting] {
	return func(yield func(*sighting) bool) {
		for i := range h.seen {
			if s := &h.seen[i]; (!s.hearsay || h.listen) && s.role != Consequence && !yield(s) {
				return
			}
		}
	}
}

// of yields the sightings of one kind.
func (h *hearing) of(kind FactKind) iter.Seq[*sighting] {
	return func(yield func(*sighting) bool) {
		for s := range h.all() {
			if s.fact.Kind == kind && !yield(s) {
				return
			}
		}
	}
}

// ownLeg reports whether a fact is about the leg that is judged.
func (h *hearing) ownLeg(s *sighting) bool { return s.fact.Leg == 0 || s.fact.Leg == h.leg }

// atOnset reports whether what was seen may have been going on when the trouble began.
func (h *hearing) atOnset(s *sighting) bool {
	if s.at == unknownTime {
		return true // nobody says when; it is of this ending
	}
	return span{s.at - s.bound - sameMoment, min(s.until, forever) + s.bound + sameMoment}.overlaps(h.onset)
}

// findOnset bounds when the trouble began by the windows that overlap the first one: by
// each of them the trouble began between its last good moment and its first bad one.
func (h *hearing) findOnset() {
	var windows, weak []span
	for _, t := range h.testimonies {
		from, to := h.onServer(t, t.LastGood), h.onServer(t, t.FirstNoticed)
		if to == unknownTime {
			continue
		}
		bound := clockBound(t)
		w := span{from - bound, to + bound}
		if from == unknownTime || from > to {
			w.from = unknownTime
		}
		if t.Kind == Remark || t.Via != 0 || (t.Kind == Interruption && h.kind == Ending) {
			weak = append(weak, w)
		} else {
			windows = append(windows, w)
		}
	}
	if len(windows) == 0 {
		windows = weak
	}
	if len(windows) == 0 {
		h.onset = span{unknownTime, forever}
		return
	}
	h.noticed = true
	h.onset = earliest(windows)
	for _, w := range weak { // an interruption that was open when it ended began earlier
		if w.overlaps(h.onset) {
			h.onset = earliest([]span{h.onset, w})
		}
	}
}

// earliest is what the windows that overlap the one that ends first have in common.
func earliest(windows []span) span {
	to := forever
	for _, w := range windows {
		to = min(to, w.to)
	}
	from := unknownTime
	for _, w := range windows {
		if w.from <= to {
			from = max(from, w.from)
		}
	}
	return span{from, to}
}

// setAsideTheOver marks what belongs to an interruption that was over before the trouble
// of an ending began.
func (h *hearing) setAsideTheOver() {
	if h.kind != Ending {
		return
	}
	for _, t := range h.testimonies {
		if t.Kind != Interruption || !h.over(t) {
			continue
		}
		for i := range h.seen {
			if h.seen[i].testimony == t {
				h.seen[i].role = Consequence
			}
		}
	}
}

// over reports whether an interruption was surely over when the trouble began.
func (h *hearing) over(t *Testimony) bool {
	for i := range t.Facts {
		if f := &t.Facts[i]; f.Kind == Resumed {
			at := h.onServer(t, f.At)
			return at != unknownTime && at+clockBound(t) < h.onset.from
		}
	}
	return false
}
