package companion

import (
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// evidenceLocked is what is known now of the agent's life.
func (w *Watch) evidenceLocked(now time.Time) evidence {
	e := evidence{
		limit:    w.limit,
		stale:    staleBeats * w.vigil.beat,
		heardAt:  now.Add(-w.vigil.awake),
		replaced: w.replaced,
		known:    w.instance != "",
		mourned:  w.mourned,
		refused:  w.grave.since(),
	}
	if e.known {
		e.server = w.presences[w.instance]
		e.successor = w.successor != "" && w.successor != w.instance
	}
	return e
}

// Suspected says how the agent seems to have ended, if anything speaks for that. It is
// for who has lost a connection to the agent and cannot wait until that is certain.
func (w *Watch) Suspected() (a disconnect.Attribution, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return w.ending, true
	}
	return w.evidenceLocked(time.Now()).suspicion()
}

// ServersWord is what the server says of the agent now, in a few words; empty if it has not
// said anything.
func (w *Watch) ServersWord() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, told := w.presences[w.instance]
	switch {
	case !told:
		return ""
	case p.online:
		return "server hears it"
	case p.declared():
		return "agent stopped"
	case p.crashed():
		return "agent is gone"
	}
	return "server lost it"
}
