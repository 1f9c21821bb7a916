package score

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// Result is one run of the lab.
type Result struct {
	Product string                    `json:"product"`
	Version string                    `json:"version"`
	Rows    []Row                     `json:"rows"`
	Totals  map[scenario.Party]Totals `json:"totals"`
	Fates   Fates                     `json:"fates"`
	Figures Figures                   `json:"figures"`
}

// Totals are one party's figures. Whoever rightly has nothing to say counts nowhere but
// in Alarms.
type Totals struct {
	Of       int `json:"of"`
	Right    int `json:"right"`
	Strict   int `json:"strict"`
	Wrong    int `json:"wrong"`
	Silent   int `json:"silent"`
	Unknown  int `json:"unknown"`
	Blames   int `json:"false_blame"`
	Graceful int `json:"failures_called_graceful"`
	Alarms   int `json:"false_endings"`
	Unrun    int `json:"not_run"`
	Late     int `json:"late"` // of Right
	// Provisional and Final are of the cells that are right.
	Provisional *Spread `json:"provisional,omitempty"`
	Final       *Spread `json:"final,omitempty"`
}

// Spread is of seconds from the fault.
type Spread struct {
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
}

// spread returns nil for nothing.
func spread(seconds []float64) *Spread {
	if len(seconds) == 0 {
		return nil
	}
	slices.Sort(seconds)
	at := func(share float64) float64 { return seconds[int(math.Ceil(share*float64(len(seconds))))-1] }
	return &Spread{Median: at(0.5), P90: at(0.9)}
}

// Fates is what became of the sessions.
type Fates struct {
	MustLive int `json:"must_live"`
	Lived    int `json:"lived"`
	MustEnd  int `json:"must_end"`
	Ended    int `json:"ended"`
}

// Finish decides what is strict, and counts.
func Finish(product, version string, rows []Row) Result {
	strict(rows)
	r := Result{Product: product, Version: version, Rows: rows, Totals: map[scenario.Party]Totals{}, Figures: figures(rows)}
	for _, w := range scenario.Witnesses {
		r.Totals[w] = count(rows, w)
	}
	for _, row := range rows {
		if !row.ran() {
			continue
		}
		switch row.Fate {
		case scenario.Lives:
			r.Fates.MustLive++
			r.Fates.Lived += one(row.FateRight())
		case scenario.Ends:
			r.Fates.MustEnd++
			r.Fates.Ended += one(row.FateRight())
		}
	}
	return r
}

// Again judges what was said in r once more, by today's table and rules. A scenario that
// is no more is left out.
func (r Result) Again() Result {
	var rows []Row
	for _, row := range r.Rows {
		if s, ok := scenario.ByName(row.Name); ok {
			rows = append(rows, Judge(s, row.Outcome))
		}
	}
	return Finish(r.Product, r.Version, rows)
}

// strict finds the cells that are right and whose looks nobody has to whom something else
// happened.
func strict(rows []Row) {
	for _, w := range scenario.Witnesses {
		for _, row := range rows {
			cell := row.Cells[w]
			cell.Strict = cell.Mark == Right && !slices.ContainsFunc(rows, func(other Row) bool {
				return other.ran() && other.Cells[w].Looks == cell.Looks && contradict(cell.says, other.Cells[w].says)
			})
			row.Cells[w] = cell
		}
	}
}

// contradict reports whether of one leg two things are to be said that cannot both be
// true, or one of both has nothing to say of what the other must.
func contradict(a, b []scenario.Say) bool {
	if (len(a) == 0) != (len(b) == 0) {
		return true
	}
	common := false
	for _, x := range a {
		for _, y := range b {
			if x.Leg != y.Leg || x.Kind != y.Kind {
				continue
			}
			common = true
			if !x.Accepts(y.Words) && !y.Accepts(x.Words) {
				return true
			}
		}
	}
	return !common && len(a) > 0
}

func count(rows []Row, w scenario.Party) (t Totals) {
	var first, last []float64
	for _, row := range rows {
		cell := row.Cells[w]
		if cell.Mark == Quiet || len(cell.Must) == 0 && cell.Mark == Unrun {
			continue
		}
		t.Alarms += one(cell.Mark == Alarm)
		if len(cell.Must) == 0 {
			continue
		}
		t.Of++
		t.Right += one(cell.Mark == Right)
		t.Late += one(cell.Late)
		if cell.Mark == Right && cell.Provisional != nil {
			first = append(first, *cell.Provisional)
		}
		if cell.Mark == Right && cell.Final != nil {
			last = append(last, *cell.Final)
		}
		t.Strict += one(cell.Strict)
		t.Wrong += one(cell.Mark == Wrong)
		t.Silent += one(cell.Mark == Silent)
		t.Unknown += one(cell.Mark == Unknown)
		t.Blames += one(cell.Mark == Blames)
		t.Graceful += one(cell.Mark == Graceful)
		t.Unrun += one(cell.Mark == Unrun)
	}
	t.Provisional, t.Final = spread(first), spread(last)
	return t
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// Write puts r into a file of JSON.
func (r Result) Write(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// Read is the inverse of [Result.Write].
func Read(path string) (r Result, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read result %s: %w", path, err)
	}
	return r, nil
}
