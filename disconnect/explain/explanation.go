package explain

import (
	"slices"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
)

// Frame is what is known of a connection beside any verdict, by the server's clock. Zero
// is not known.
type Frame struct {
	Opened, Ended time.Time
	Path          string // direct or relay
}

// Tell is [Explain] with all that a reader may ask next: how sure it is, who may still say
// more, and what each party saw, in one order of time. It is a pure function.
func Tell(v verdict.Verdict, frame Frame, viewer Viewer, now time.Time) sdk.Explanation {
	s := story{v: &v, viewer: viewer, now: now}
	short := Explain(v, viewer, now)
	return sdk.Explanation{
		Kind: string(v.Kind), Sentence: short.What, Expected: v.Expected(), Normal: short.Normal, Who: disconnect.ScrubTo(short.Who, 1024),
		Confidence: s.confidence(), Waiting: s.waiting(), NextStep: short.Next, Terminal: viewer.Terminal, Timeline: s.timeline(frame),
	}
}

// confidence says how sure the verdict is, and on what that rests.
func (s *story) confidence() string {
	switch {
	case s.v.Rule == verdict.R11 && s.v.Confidence == 0:
		return "Only the connection log tells of it."
	case s.v.Evidence == disconnect.EvidenceDeclared:
		return "This is certain: whoever did it said so."
	case s.v.Evidence == disconnect.EvidenceLocal:
		return "This is certain: it was seen on the host where it happened."
	case s.v.Confidence == disconnect.ConfidenceHigh:
		return sentence("This is nearly certain: " + s.agreed())
	case s.v.Evidence == disconnect.EvidenceCorrelated:
		return "This is likely, but not proved: it was concluded from what several witnesses saw."
	case s.v.Confidence == disconnect.ConfidenceCertain:
		return "This is certain."
	}
	return "This is only what it looked like from one side."
}

// agreed is on what a verdict of high confidence rests.
func (s *story) agreed() string {
	var sources []disconnect.Initiator
	for i := range s.v.Used {
		if by := s.v.Used[i].Source; !slices.Contains(sources, by) {
			sources = append(sources, by)
		}
	}
	switch {
	case s.v.Rule == verdict.R3 && s.v.Used != nil && s.v.Used[0].Fact.Kind == verdict.Obituary:
		return "what the former process left behind shows it"
	case len(sources) == 1:
		return "one witness saw clear signs of it"
	}
	return "several witnesses agree on it"
}

// waiting says whose word may still change the verdict; empty if it is final.
func (s *story) waiting() string {
	if s.v.Final {
		return ""
	}
	if len(s.v.Waiting) == 0 {
		return "More may still be heard of it."
	}
	return sentence(s.missing() + " may still say more")
}

// missing names who has not spoken.
func (s *story) missing() string {
	var names []string
	for _, i := range s.v.Waiting {
		names = append(names, s.process(i))
	}
	return strings.Join(names, " and ")
}

// timeline is what each party saw, the earliest first; what has no time comes last.
func (s *story) timeline(frame Frame) []sdk.TimelineEntry {
	all := []sdk.TimelineEntry{}
	if !frame.Opened.IsZero() {
		says := "began"
		if frame.Path != "" {
			says += " on a " + disconnect.Scrub(frame.Path) + " path"
		}
		all = append(all, sdk.TimelineEntry{At: &frame.Opened, Party: "log", Who: s.link(), Says: says})
	}
	if s.v.Kind == verdict.Interruption && !s.v.Began.IsZero() {
		over := verdict.Item{At: s.v.Began, Until: s.v.Over}
		all = append(all, sdk.TimelineEntry{At: &over.At, Until: &over.Until, Party: "log", Who: s.link(), Says: "was interrupted" + s.until(&over)})
	}
	for _, items := range [][]verdict.Item{s.v.Used, s.v.Kept} {
		for i := range items {
			if !s.saidOtherwise(&items[i]) {
				all = append(all, s.entry(&items[i]))
			}
		}
	}
	if !frame.Ended.IsZero() {
		all = append(all, sdk.TimelineEntry{At: &frame.Ended, Party: "log", Who: s.link(), Says: "is recorded as ended"})
	}
	slices.SortStableFunc(all, func(a, b sdk.TimelineEntry) int {
		switch {
		case a.At == nil && b.At == nil:
			return 0
		case a.At == nil:
			return 1
		case b.At == nil:
			return -1
		}
		return a.At.Compare(*b.At)
	})
	return all
}

// saidOtherwise reports whether an account says no more than a fact of the same witness.
func (s *story) saidOtherwise(item *verdict.Item) bool {
	if item.Fact.Kind != verdict.Account {
		return false
	}
	for _, items := range [][]verdict.Item{s.v.Used, s.v.Kept} {
		for i := range items {
			o := &items[i]
			if o.Source == item.Source && o.Fact.Kind != verdict.Account && o.Role == item.Role &&
				o.Fact.Cause.Reason == item.Fact.Cause.Reason && o.Fact.Cause.Initiator == item.Fact.Cause.Initiator {
				return true
			}
		}
	}
	return false
}

func (s *story) entry(item *verdict.Item) sdk.TimelineEntry {
	e := sdk.TimelineEntry{
		Party: item.Source.String(), Who: disconnect.Scrub(s.party(item.Source)), Says: disconnect.ScrubTo(s.says(item), 1024),
		Role: string(item.Role), Fact: item.Fact.Kind.String(), ErrorSeconds: item.Bound.Seconds(),
	}
	if !item.At.IsZero() {
		e.At = &item.At
	}
	if !item.Until.IsZero() {
		e.Until = &item.Until
	}
	return e
}

// RoleInWords says what an entry of that role is to the verdict.
func RoleInWords(role string) string {
	switch verdict.Role(role) {
	case verdict.Decided:
		return "this decided"
	case verdict.Supports:
		return "agrees"
	case verdict.Consequence:
		return "came of it"
	case verdict.Denied:
		return "denied by whom it is about"
	case verdict.NotBelieved:
		return "not believed"
	case verdict.Hearsay:
		return "at second hand"
	}
	return ""
}
