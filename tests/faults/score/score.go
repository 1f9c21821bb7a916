// Package score holds what was said against what is true. It is pure: testimonies and a
// scenario in; marks, totals and tables out. Fairlead and its peers are scored by the
// same code, so that their figures can stand beside each other.
//
// It collects nothing, and knows no log line of any program.
package score

import (
	"cmp"
	"slices"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// Testimony is one thing that one party said of one connection.
type Testimony struct {
	Party scenario.Party `json:"party"`
	Kind  scenario.Kind  `json:"kind"`
	Leg   scenario.Leg   `json:"leg"`
	scenario.Words
	Detail      string  `json:"detail,omitempty"`
	Connection  string  `json:"connection,omitempty"` // what joins later words to earlier ones; "": nothing does
	Seconds     float64 `json:"seconds"`              // since the fault
	Provisional bool    `json:"provisional,omitempty"`
}

// Outcome is what one run of a scenario showed.
type Outcome struct {
	Said     []Testimony `json:"said"` // in the order of time
	Lived    bool        `json:"lived"`
	ExitCode *int        `json:"exit_code,omitempty"` // of the client; nil: it runs
	// Why is what fairlead why answered in the end, without what differs from run to run.
	Why string `json:"why,omitempty"`
	// Error is why the run shows nothing: the lab failed, not the program.
	Error string `json:"error,omitempty"`
}

// Mark is the judgement of one party in one scenario.
type Mark string

// Marks.
const (
	Right    Mark = "right"
	Wrong    Mark = "wrong"    // another reason, or none of the following
	Blames   Mark = "blames"   // names a party that did not do it
	Graceful Mark = "graceful" // calls a failure normal
	Unknown  Mark = "unknown"
	Silent   Mark = "silent" // says nothing
	Alarm    Mark = "alarm"  // tells of an ending where nothing ended
	Quiet    Mark = "quiet"  // says nothing, rightly; it counts nowhere
	Unrun    Mark = "not run"
)

// order is from the worst; a party that has several things to say has the worst mark.
var order = []Mark{Unrun, Graceful, Blames, Alarm, Unknown, Wrong, Silent, Right, Quiet}

func worst(a, b Mark) Mark {
	if slices.Index(order, a) < slices.Index(order, b) {
		return a
	}
	return b
}

// Cell is one party's part of a scenario.
type Cell struct {
	Must   []string `json:"must"`
	Said   []string `json:"said"`
	Mark   Mark     `json:"mark"`
	Strict bool     `json:"strict"`
	Late   bool     `json:"late,omitempty"` // right, but later than the scenario allows
	Legs   []Answer `json:"legs,omitempty"` // how each of Must was met; Mark is the worst of them
	// Provisional and Final are the seconds from the fault to the first and the last word
	// of what the party must say first; nil: it did not.
	Provisional *float64 `json:"provisional"`
	Final       *float64 `json:"final"`
	// Looks is all that a reader sees of it, without what differs in every run.
	Looks string `json:"looks"`

	says []scenario.Say // what Must is made of
}

// Answer is how one thing that a party must say was met.
type Answer struct {
	Leg  scenario.Leg  `json:"leg"`
	Kind scenario.Kind `json:"kind"`
	Mark Mark          `json:"mark"`
	// Provisional and Final are as in [Cell], of this leg.
	Provisional *float64 `json:"provisional,omitempty"`
	Final       *float64 `json:"final,omitempty"`
	Late        bool     `json:"late,omitempty"`
}

// Row is one scenario's result.
type Row struct {
	Name      string        `json:"name"`
	Row       int           `json:"row"`
	Story     string        `json:"story"`
	Path      scenario.Path `json:"path"`
	Form      scenario.Form `json:"form"`
	Simulated bool          `json:"simulated,omitempty"`
	Control   bool          `json:"control,omitempty"`
	Cannot    string        `json:"cannot,omitempty"`
	Fate      scenario.Fate `json:"fate"`
	Outcome
	Cells map[scenario.Party]Cell `json:"cells"`
}

// ran reports whether the row shows anything.
func (r Row) ran() bool { return r.Cannot == "" && r.Error == "" }

// FateRight reports whether the session went on, or ended, as it had to.
func (r Row) FateRight() bool {
	return r.ran() && (r.Fate == scenario.Either || r.Lived == (r.Fate == scenario.Lives))
}

// Judge makes a row of what a run of s showed. Strict needs all rows: see [Finish].
func Judge(s scenario.Scenario, o Outcome) Row {
	r := Row{
		Name: s.Name, Row: s.Row, Story: s.Story, Path: s.Path, Form: s.Form, Simulated: s.Simulated,
		Control: s.Control, Cannot: s.Cannot, Fate: s.Truth.Fate, Outcome: o, Cells: map[scenario.Party]Cell{},
	}
	slices.SortStableFunc(o.Said, func(a, b Testimony) int { return cmp.Compare(a.Seconds, b.Seconds) })
	for _, w := range scenario.Witnesses {
		cell := judgeParty(s, w, said(o.Said, w))
		if !r.ran() {
			cell.Mark = Unrun
		}
		r.Cells[w] = cell
	}
	return r
}

// said is what w said.
func said(all []Testimony, w scenario.Party) (its []Testimony) {
	for _, t := range all {
		if t.Party == w {
			its = append(its, t)
		}
	}
	return its
}

func judgeParty(s scenario.Scenario, w scenario.Party, its []Testimony) Cell {
	must := s.Truth.Of(w)
	cell := Cell{says: must, Mark: Quiet, Must: []string{}, Said: []string{}}
	for i, say := range must {
		answer := judgeSay(s, w, say, its)
		cell.Must = append(cell.Must, say.String())
		cell.Legs = append(cell.Legs, answer)
		cell.Mark = worst(cell.Mark, answer.Mark)
		if i == 0 {
			cell.Provisional, cell.Final = answer.Provisional, answer.Final
		}
	}
	if s.Truth.Fate == scenario.Lives && alarmed(must, its) {
		cell.Mark = worst(cell.Mark, Alarm)
	}
	cell.Late = cell.Mark == Right && slices.ContainsFunc(cell.Legs, func(a Answer) bool { return a.Late })
	last := finals(its)
	cell.Said, cell.Looks = folded(last), looks(last)
	return cell
}

// judgeSay finds what w said to meet say, and judges it.
func judgeSay(s scenario.Scenario, w scenario.Party, say scenario.Say, its []Testimony) Answer {
	t, ok := about(its, say)
	a := Answer{Leg: say.Leg, Kind: say.Kind, Mark: mark(say, t, ok)}
	if ok {
		a.Provisional, a.Final = seconds(its, t)
	}
	first, last := s.Due(w, say)
	a.Late = a.Mark == Right && (*a.Provisional > first.Seconds() || a.Final != nil && *a.Final > last.Seconds())
	return a
}

// about is what answers say: of an ending the last words of the connection that ended
// first, of what may happen more than once the first that is true, or else the last.
func about(its []Testimony, say scenario.Say) (answer Testimony, ok bool) {
	for _, t := range its {
		if t.Leg != say.Leg || t.Kind != say.Kind {
			continue
		}
		switch {
		case !ok, say.Kind != scenario.Ending, say.Leg == scenario.AC:
			answer, ok = t, true
		case t.Connection != "" && t.Connection == answer.Connection:
			answer = t
		}
		if say.Kind != scenario.Ending && say.Accepts(t.Words) {
			return t, true
		}
	}
	return answer, ok
}

// mark judges t as the answer to say.
func mark(say scenario.Say, t Testimony, answered bool) Mark {
	switch {
	case !answered && say.May:
		return Quiet
	case !answered:
		return Silent
	case say.Accepts(t.Words):
		return Right
	case t.Expected && !say.Expected:
		return Graceful
	case t.Reason == "unknown" || t.Reason == "":
		return Unknown
	case blames(say, t.By):
		return Blames
	}
	return Wrong
}

// blames reports whether by is somebody, and somebody else than who did it.
func blames(say scenario.Say, by scenario.Party) bool {
	switch by {
	case scenario.Client, scenario.Agent, scenario.Server, scenario.Relay:
	default:
		return false
	}
	return by != say.By && !slices.ContainsFunc(say.Or, func(w scenario.Words) bool { return w.By == by })
}

// alarmed reports whether, in a scenario in which the session lives, an ending is told of
// a leg of which none is true.
func alarmed(must []scenario.Say, its []Testimony) bool {
	return slices.ContainsFunc(its, func(t Testimony) bool {
		return t.Kind == scenario.Ending && !slices.ContainsFunc(must, func(s scenario.Say) bool {
			return s.Leg == t.Leg && s.Kind != scenario.Interruption
		})
	})
}

// seconds is when the words of t's leg came first, and when t did, unless it may change.
func seconds(its []Testimony, t Testimony) (provisional, final *float64) {
	first := t.Seconds
	for _, other := range its {
		if other.Leg == t.Leg && other.Kind == t.Kind {
			first = min(first, other.Seconds)
		}
	}
	if !t.Provisional {
		final = &t.Seconds
	}
	return &first, final
}
