package score

import (
	"fmt"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

const (
	// prompt is how soon after the first party the connection log has a word of its own.
	prompt = 1.0 // seconds
	// settled is how soon after the last step of the scenario the last word is there.
	settled = 30.0 // seconds
)

// Rate is how many of some things are so.
type Rate struct {
	Are int `json:"are"`
	Of  int `json:"of"`
}

func (r *Rate) add(yes bool) { r.Are, r.Of = r.Are+one(yes), r.Of+1 }

// String is a share, with a digit behind the point.
func (r Rate) String() string {
	if r.Of == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d (%.1f %%)", r.Are, r.Of, 100*float64(r.Are)/float64(r.Of))
}

// Figures are what the product promises, over all rows that ran.
type Figures struct {
	// Direct, Relayed and Declared are rows whose last word in the connection log is right;
	// Declared are those in which somebody says, or decides by itself, why it ends.
	Direct   Rate `json:"direct"`
	Relayed  Rate `json:"relayed"`
	Declared Rate `json:"declared"`
	// Provisional are the legs whose first word in the log is true, and came within a second
	// of the first word that any party said of it.
	Provisional Rate `json:"provisional"`
	// Settled are the legs whose last word in the log is true and came within 30 s of the
	// end of the fault.
	Settled Rate `json:"settled"`
	// Unknown, Blames and Graceful are of all that parties and log had to say.
	Unknown  Rate `json:"unknown"`
	Blames   Rate `json:"false_blame"`
	Graceful Rate `json:"failures_called_graceful"`
	// Equal are the connections of which the last words of all parties that named it are one.
	Equal Rate `json:"equal"`
}

func figures(rows []Row) (f Figures) {
	for _, row := range rows {
		if !row.ran() {
			continue
		}
		for _, w := range scenario.Witnesses {
			cell := row.Cells[w]
			if cell.Mark == Quiet || len(cell.Must) == 0 {
				continue
			}
			f.Unknown.add(cell.Mark == Unknown)
			f.Blames.add(cell.Mark == Blames)
			f.Graceful.add(cell.Mark == Graceful)
		}
		f.addLog(row)
		f.addEqual(row.Said)
	}
	return f
}

func (f *Figures) addLog(row Row) {
	cell := row.Cells[scenario.Log]
	if cell.Mark == Quiet || len(cell.Must) == 0 {
		return
	}
	if row.Path == scenario.Relayed {
		f.Relayed.add(cell.Mark == Right)
	} else {
		f.Direct.add(cell.Mark == Right)
	}
	declared := true
	for _, say := range cell.says {
		declared = declared && say.Declared()
	}
	if declared {
		f.Declared.add(cell.Mark == Right)
	}
	s, _ := scenario.ByName(row.Name)
	for i, say := range cell.says {
		answer := cell.Legs[i]
		if answer.Mark == Quiet {
			continue
		}
		if say.Kind == scenario.Ending {
			f.Provisional.add(promptly(say, row.Said))
		}
		f.Settled.add(answer.Mark == Right && answer.Final != nil && *answer.Final <= s.Ends().Seconds()+settled)
	}
}

// promptly reports whether the log's first word that answers say is true and came soon
// after the first that anybody else said of it.
func promptly(say scenario.Say, said []Testimony) bool {
	var others *float64
	for i := range said { // in the order of time
		t := &said[i]
		if t.Leg != say.Leg || t.Kind != say.Kind {
			continue
		}
		if t.Party != scenario.Log {
			if others == nil {
				others = &t.Seconds
			}
			continue
		}
		return say.Accepts(t.Words) && (others == nil || t.Seconds-*others <= prompt)
	}
	return false
}

// addEqual counts the endings that more than one party named.
func (f *Figures) addEqual(said []Testimony) {
	type ended struct {
		connection string
		leg        scenario.Leg
	}
	last := map[ended]map[scenario.Party]scenario.Words{}
	var order []ended
	for _, t := range said {
		if t.Kind != scenario.Ending || t.Connection == "" {
			continue
		}
		e := ended{t.Connection, t.Leg}
		if last[e] == nil {
			last[e] = map[scenario.Party]scenario.Words{}
			order = append(order, e)
		}
		last[e][t.Party] = t.Words
	}
	for _, e := range order {
		if len(last[e]) < 2 {
			continue
		}
		equal := true
		for _, w := range last[e] {
			equal = equal && w == last[e][scenario.Log]
		}
		f.Equal.add(equal)
	}
}

// figures are beside what was aimed at, and beside those of a former run.
func (p Page) figures(w *writer) {
	former, names := Figures{}, ""
	if p.Former != nil {
		former, names = p.Former.Figures, " in this run | in the run before"
	} else {
		names = " reached"
	}
	w.line("| figure | aim |%s |", names)
	w.line("|---|---|---|%s", map[bool]string{true: "---|"}[p.Former != nil])
	ours := p.Ours.Figures.list()
	for i, was := range former.list() {
		line := fmt.Sprintf("| %s | %s | %s |", ours[i].name, ours[i].aim, ours[i].rate)
		if p.Former != nil {
			line += " " + was.rate.String() + " |"
		}
		w.line("%s", line)
	}
	if p.Former == nil {
		return
	}
	w.line("\nMarks that were not the same in both runs:")
	differences := Compare(*p.Former, p.Ours)
	if len(differences) == 0 {
		w.line("none.")
		return
	}
	w.line("")
	for _, d := range differences {
		w.line("- %s", d)
	}
}

type namedRate struct {
	name, aim string
	rate      Rate
}

func (f Figures) list() []namedRate {
	return []namedRate{
		{"last word of the log right, direct", ">= 98 %", f.Direct},
		{"the same, by relay", ">= 98 %", f.Relayed},
		{"the same, where somebody declares why", "100 %", f.Declared},
		{"first word of the log of an ending true, within 1 s of the first party's", ">= 90 %", f.Provisional},
		{"last word of the log true within 30 s of the end of the fault", "-", f.Settled},
		{"unknown, of all parties", "<= 0.5 %", f.Unknown},
		{"false blame, of all parties", "<= 0.5 %", f.Blames},
		{"failures called graceful, of all parties", "0", f.Graceful},
		{"endings of which the last words of all that named it are equal", "100 %", f.Equal},
	}
}
