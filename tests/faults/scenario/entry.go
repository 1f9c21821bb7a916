package scenario

import (
	"slices"
	"time"
)

// entry is one line of the tables: a fault, on all the paths and in all the forms in
// which it is tried. Truth is that of the long form, or of the only one.
type entry struct {
	Scenario
	Paths []Path // nil: direct
	// Cause and Cure make it an outage, which is tried in both forms. How each leg's
	// ending is told in the short form follows from Truth, see survived.
	Cause, Cure []Act
	// Relayed is the truth on a relay, where that is another.
	Relayed *Truth
}

// Outages: what lasts longer than the limit ends a session, and what is recorded as an
// interruption lasts 8 s at least.
const (
	shortOutage = 12 * time.Second
	longOutage  = 26 * time.Second
	longLimit   = 8 * time.Second
	usualLimit  = 40 * time.Second
)

// Deadlines, unless an entry has its own.
const (
	soonProvisional = 15 * time.Second
	soonFinal       = 10 * time.Second
	laterFinal      = 20 * time.Second // what others have to tell takes a reconnect
)

var (
	bothPaths = []Path{Direct, Relayed}
	onRelay   = []Path{Relayed}
)

// All returns every scenario, in the order of the matrix and then the lab's own.
func All() []Scenario {
	var list []Scenario
	for _, table := range [][]entry{workTable, crashTable, outageTable, refusalTable, resourceTable, ownTable, pairTable, controlTable} {
		for _, e := range table {
			list = append(list, e.scenarios()...)
		}
	}
	slices.SortStableFunc(list, func(a, b Scenario) int { return rank(a) - rank(b) })
	return list
}

// rank puts the matrix first.
func rank(s Scenario) int {
	if s.Row == 0 {
		return 1000
	}
	return s.Row
}

// scenarios is the entry on each path and in each form.
func (e entry) scenarios() (list []Scenario) {
	paths := e.Paths
	if paths == nil {
		paths = []Path{Direct}
	}
	for _, path := range paths {
		s := e.Scenario
		s.Path = path
		if path == Relayed && e.Relayed != nil {
			s.Truth = *e.Relayed
		}
		if len(paths) > 1 {
			s.Name += "-" + string(path)
		}
		if e.Cause == nil {
			list = append(list, s.timed(usualLimit, soonFinal))
			continue
		}
		list = append(list, s.outage(Short, e.Cause, e.Cure), s.outage(Long, e.Cause, e.Cure))
	}
	return list
}

// outage is s in one form.
func (s Scenario) outage(form Form, cause, cure []Act) Scenario {
	s.Name += "-" + string(form)
	s.Form = form
	lasts, limit := longOutage, longLimit
	if form == Short {
		lasts, limit = shortOutage, usualLimit
		s.Truth = s.Truth.survived()
	}
	s.CI = s.CI && form == Short
	s.Steps = once(cause...)
	for _, a := range cure {
		s.Steps = append(s.Steps, at(lasts, a))
	}
	return s.timed(limit, laterFinal)
}

// timed fills in what an entry leaves to the usual.
func (s Scenario) timed(limit, final time.Duration) Scenario {
	if s.Limit == 0 {
		s.Limit = limit
	}
	if s.Provisional == 0 {
		s.Provisional = soonProvisional
	}
	if s.Final == 0 {
		s.Final = final
	}
	return s
}

// survived is the truth of the short form: what would have ended the session is an
// interruption of it, and control links, which wait for less or more, may have ended. What
// the server has to say of an interruption is in the connection log.
func (t Truth) survived() Truth {
	soften := func(says []Say, quietly bool) (soft []Say) {
		for _, s := range says {
			if s.Leg == AC && s.Kind == Ending {
				s = s.passing()
			}
			if s.Leg != AC || quietly {
				s = s.may()
			}
			soft = append(soft, s)
		}
		return soft
	}
	return Truth{
		Fate: Lives, Client: soften(t.Client, false), Agent: soften(t.Agent, false),
		Server: soften(t.Server, true), Log: soften(t.Of(Log), false),
	}
}
