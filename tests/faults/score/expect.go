package score

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// Expectation is what each party's mark in a scenario was when somebody last looked.
type Expectation map[string]map[scenario.Party]Mark

// Expect makes the expectation that a result fulfils.
func (r Result) Expect() Expectation {
	e := Expectation{}
	for _, row := range r.Rows {
		e[row.Name] = map[scenario.Party]Mark{}
		for w, cell := range row.Cells {
			e[row.Name][w] = cell.Mark
		}
	}
	return e
}

// ReadExpectation reads what [Expectation.Write] wrote.
func ReadExpectation(path string) (e Expectation, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("read expectation %s: %w", path, err)
	}
	return e, nil
}

// Write puts e into a file of JSON.
func (e Expectation) Write(path string) error {
	data, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// good reports whether a mark is as good as it can be.
func (m Mark) good() bool { return m == Right || m == Quiet }

// Against holds r against an expectation: what is worse now, and what is better.
func (r Result) Against(e Expectation) (worse, better []string) {
	now := r.Expect()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, ok := e[name]
		if !ok {
			worse = append(worse, name+": nobody has said what to expect")
			continue
		}
		for _, w := range scenario.Witnesses {
			line := fmt.Sprintf("%s: %s was %s and is %s", name, w, was[w], now[name][w])
			switch {
			case was[w].good() && !now[name][w].good():
				worse = append(worse, line)
			case !was[w].good() && now[name][w].good():
				better = append(better, line)
			}
		}
	}
	return worse, better
}

// Compare tells in which rows two runs differ.
func Compare(a, b Result) (differences []string) {
	was, now := a.Expect(), b.Expect()
	names := map[string]bool{}
	for name := range was {
		names[name] = true
	}
	for name := range now {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if was[name] == nil || now[name] == nil {
			differences = append(differences, name+": only one of both ran it")
			continue
		}
		for _, w := range scenario.Witnesses {
			if was[name][w] != now[name][w] {
				differences = append(differences, fmt.Sprintf("%s: %s was %s and is %s", name, w, was[name][w], now[name][w]))
			}
		}
	}
	return differences
}
