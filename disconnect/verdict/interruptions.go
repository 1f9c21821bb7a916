package verdict

import "slices"

// Interruptions judges each interruption by itself, by the same rules, in the order of
// time. One that was still open when the connection ended is part of that ending. None of
// them counts as a disconnect.
func Interruptions(testimonies []Testimony, ctx Context) []Verdict {
	ctx.Previous = nil
	h := hear(testimonies, &ctx)
	var verdicts []Verdict
	for _, group := range h.episodes() {
		among := make([]Testimony, 0, len(group.of)+4)
		for _, t := range group.of {
			among = append(among, *t)
		}
		for _, t := range h.testimonies {
			if t.Kind == Remark && h.spanOf(t).overlaps(group.span) {
				among = append(among, *t)
			}
		}
		verdicts = append(verdicts, Judge(among, ctx))
	}
	return verdicts
}

// episode is a group of testimonies of one interruption.
type episode struct {
	span
	of []*Testimony
}

// episodes groups the interruptions that overlap.
func (h *hearing) episodes() []episode {
	var all []episode
	for _, t := range h.testimonies {
		if t.Kind == Interruption && (h.kind == Interruption || h.over(t)) {
			all = append(all, episode{h.spanOf(t), []*Testimony{t}})
		}
	}
	slices.SortStableFunc(all, func(a, b episode) int {
		if a.from < b.from {
			return -1
		}
		return rank(a.from > b.from)
	})
	var grouped []episode
	for _, e := range all {
		if n := len(grouped) - 1; n >= 0 && grouped[n].overlaps(e.span) {
			grouped[n].to = max(grouped[n].to, e.to)
			grouped[n].of = append(grouped[n].of, e.of...)
			continue
		}
		grouped = append(grouped, e)
	}
	return grouped
}

// spanOf is from the last good moment until the connection worked again.
func (h *hearing) spanOf(t *Testimony) span {
	from, to := h.onServer(t, t.LastGood), h.onServer(t, t.FirstNoticed)
	if from == unknownTime {
		from = to
	}
	for i := range t.Facts {
		if f := &t.Facts[i]; f.Kind == Resumed {
			to = max(to, h.onServer(t, f.At))
		}
	}
	bound := clockBound(t)
	return span{from - bound, to + bound}
}
