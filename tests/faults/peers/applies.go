package main

import (
	"slices"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// applying are the scenarios that a product can be put through that has a client and a
// host and nothing else, with what those two have to say of the session.
func applying() (list []scenario.Scenario) {
	for _, s := range scenario.All() {
		if applies(s) {
			s.Truth = ofSession(s.Truth)
			list = append(list, s)
		}
	}
	return list
}

// applies reports whether all that is done in s can be done to such a product. The agent
// is its service on the host.
func applies(s scenario.Scenario) bool {
	w := s.World
	if s.Cannot != "" || s.Path == scenario.Relayed || s.Session != scenario.Shell ||
		w.OwnRelay || w.TLS || w.Named || w.Proxied || w.Token != 0 || w.SmallFS != "" || len(w.Variants) > 0 || len(w.Before) > 0 || len(s.Steps) == 0 {
		return false
	}
	foreign := func(p scenario.Party) bool { return p == scenario.Server || p == scenario.Relay }
	return !slices.ContainsFunc(s.Steps, func(step scenario.Step) bool {
		_, known := deeds[step.Verb]
		// To drop UDP alone is about having two ways, which nobody else has.
		return !known || foreign(step.On) || foreign(step.With) || step.Verb == scenario.Drops && step.Arg == "udp"
	})
}

// ofSession is the part of a truth that is about the session itself.
func ofSession(t scenario.Truth) scenario.Truth {
	session := func(says []scenario.Say) (its []scenario.Say) {
		for _, say := range says {
			if say.Leg == scenario.AC {
				its = append(its, say)
			}
		}
		return its
	}
	return scenario.Truth{Fate: t.Fate, Client: session(t.Client), Agent: session(t.Agent)}
}
