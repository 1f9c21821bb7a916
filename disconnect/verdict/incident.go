package verdict

import (
	"cmp"
	"math"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Element is what several connections may have in common: an agent, a client's host, a
// relay, the server or a path.
type Element struct {
	Kind ElementKind `json:"kind"`
	Name string      `json:"name"`
}

// ElementKind is a sort of element, from the most specific.
type ElementKind string

// Kinds of elements.
const (
	AgentElement  ElementKind = "agent"
	ClientElement ElementKind = "client" // a client's host
	RelayElement  ElementKind = "relay"
	PathElement   ElementKind = "path" // as between two networks
	ServerElement ElementKind = "server"
)

var elementKinds = []ElementKind{AgentElement, ClientElement, RelayElement, PathElement, ServerElement}

// Loss is a connection that ended or was interrupted, with all elements that it needed.
type Loss struct {
	Verdict  Verdict
	Elements []Element
}

// Incident is one event that several connections were lost by.
type Incident struct {
	Element     Element   `json:"element"`
	Began       time.Time `json:"began"`   // the losses have this time in common
	Noticed     time.Time `json:"noticed"` // until here
	Connections []string  `json:"connections"`
	Others      int       `json:"others"` // how many more there are, that the reader may not see
	// Reason and Initiator are those of most of the connections.
	Reason    disconnect.Reason    `json:"disconnect_reason"`
	Initiator disconnect.Initiator `json:"disconnect_initiator"`
}

// For is the incident as somebody sees it who sees not all connections: those that sees
// reports, and the count of the others.
func (i Incident) For(sees func(id string) bool) Incident {
	mine := i
	mine.Connections = []string{}
	for _, id := range i.Connections {
		if sees(id) {
			mine.Connections = append(mine.Connections, id)
		} else {
			mine.Others++
		}
	}
	return mine
}

// Shareable reports whether a reason is of something that more than one connection may
// share. What a user, a policy or the session's own work ended is that connection's alone.
func Shareable(r disconnect.Reason) bool {
	switch r {
	case disconnect.Suspended, disconnect.ServerShutdown, disconnect.WorkspaceStopped,
		disconnect.OOMKilled, disconnect.WorkspaceEvicted, disconnect.PeerCrashed, disconnect.PeerUnresponsive,
		disconnect.ResourceExhausted, disconnect.InternalError, disconnect.HostPaused,
		disconnect.NetworkError, disconnect.NetworkTimeout, disconnect.ConnectionReset, disconnect.NetworkUnreachable,
		disconnect.DNSFailure, disconnect.TLSFailure, disconnect.RelayLost:
		return true
	}
	return false
}

// Incidents groups losses that overlap in time and share one element. alive are the
// elements of connections that went on through that time: what carried one of them was not
// what failed, unless the verdicts themselves name it. Each loss is in one incident at
// most: that of the element which the most verdicts name, and then which explains the
// most. It is a pure function; the order of losses does not matter.
func Incidents(losses []Loss, alive []Element) []Incident {
	left := make([]Loss, 0, len(losses))
	for i := range losses {
		if v := &losses[i].Verdict; Shareable(v.Reason) && !v.Noticed.IsZero() {
			left = append(left, losses[i])
		}
	}
	slices.SortStableFunc(left, func(a, b Loss) int {
		if c := a.Verdict.Noticed.Compare(b.Verdict.Noticed); c != 0 {
			return c
		}
		return cmp.Compare(a.Verdict.ConnectionID, b.Verdict.ConnectionID)
	})
	groups := groupByElement(left, alive)
	slices.SortStableFunc(groups, compareGroups)
	taken := make([]bool, len(left))
	var incidents []Incident
	for len(groups) > 0 {
		best := groups[0]
		groups = groups[1:]
		stale := false
		best.members = slices.DeleteFunc(best.members, func(m int) bool { stale = stale || taken[m]; return taken[m] })
		if len(best.members) < 2 {
			continue
		}
		if stale { // it lost members to a better one: it may not be the next best any more
			best.named = countNamed(left, best.members, best.element)
			at, _ := slices.BinarySearchFunc(groups, best, compareGroups)
			groups = slices.Insert(groups, at, best)
			continue
		}
		for _, m := range best.members {
			taken[m] = true
		}
		incidents = append(incidents, best.incident(left))
	}
	slices.SortStableFunc(incidents, func(a, b Incident) int {
		if c := a.Noticed.Compare(b.Noticed); c != 0 {
			return c
		}
		return compareElements(a.Element, b.Element)
	})
	return incidents
}

// group is a candidate for an incident.
type group struct {
	element Element
	members []int // indices of losses
	named   int   // how many verdicts name the element
}

func compareGroups(a, b group) int {
	return cmp.Or(cmp.Compare(b.named, a.named), cmp.Compare(len(b.members), len(a.members)),
		compareElements(a.element, b.element), slices.Compare(a.members, b.members))
}

func compareElements(a, b Element) int {
	return cmp.Or(cmp.Compare(slices.Index(elementKinds, a.Kind), slices.Index(elementKinds, b.Kind)), cmp.Compare(a.Name, b.Name))
}

// groupByElement makes, for each element, groups of losses that all overlap.
func groupByElement(losses []Loss, alive []Element) []group {
	open := map[Element]*group{}
	until := map[Element]span{}
	var done []group
	flush := func(g *group) {
		g.named = countNamed(losses, g.members, g.element)
		if len(g.members) > 1 && (g.named > 0 || !slices.Contains(alive, g.element)) {
			done = append(done, *g)
		}
	}
	for i := range losses {
		w := windowOf(&losses[i].Verdict)
		seen := make([]Element, 0, len(losses[i].Elements))
		for _, e := range losses[i].Elements {
			if slices.Contains(seen, e) {
				continue
			}
			seen = append(seen, e)
			g := open[e]
			if g != nil && until[e].overlaps(w) {
				until[e] = span{max(until[e].from, w.from), min(until[e].to, w.to)}
				g.members = append(g.members, i)
				continue
			}
			if g != nil {
				flush(g)
			}
			open[e], until[e] = &group{element: e, members: []int{i}}, w
		}
	}
	for _, g := range open {
		flush(g)
	}
	return done
}

// windowOf is when the trouble of a verdict began, at the earliest and at the latest.
func windowOf(v *Verdict) span {
	w := span{0, micros(v.Noticed) + sameMoment}
	if !v.Began.IsZero() {
		w.from = micros(v.Began)
	}
	return w
}

// countNamed counts the verdicts that themselves name the element's kind.
func countNamed(losses []Loss, members []int, e Element) int {
	n := 0
	for _, m := range members {
		if v := &losses[m].Verdict; nameOf(v) == e.Kind {
			n++
		}
	}
	return n
}

// nameOf is the kind of element that a verdict names.
func nameOf(v *Verdict) ElementKind {
	switch v.Locus {
	case "agent", "agent_net":
		return AgentElement
	case "client", "client_net":
		return ClientElement
	case "relay":
		return RelayElement
	case "server":
		return ServerElement
	case "path":
		return PathElement
	}
	switch v.Initiator {
	case agent:
		return AgentElement
	case client:
		return ClientElement
	case relay:
		return RelayElement
	case server:
		if v.Reason == disconnect.WorkspaceStopped || v.Reason == disconnect.WorkspaceEvicted {
			return AgentElement // the server decided it, for that one
		}
		return ServerElement
	}
	return ""
}

func (g *group) incident(losses []Loss) Incident {
	in := Incident{Element: g.element}
	common := span{0, math.MaxInt64}
	counts := map[disconnect.Attribution]int{}
	for _, m := range g.members {
		l := &losses[m]
		in.Connections = append(in.Connections, l.Verdict.ConnectionID)
		w := windowOf(&l.Verdict)
		common = span{max(common.from, w.from), min(common.to, w.to)}
		counts[disconnect.Attribution{Reason: l.Verdict.Reason, Initiator: l.Verdict.Initiator}]++
	}
	in.Began, in.Noticed = fromMicros(common.from), fromMicros(common.to-sameMoment)
	most := disconnect.Attribution{}
	for a, n := range counts {
		if c := cmp.Or(cmp.Compare(n, counts[most]), compareAttributions(most, a)); most.IsZero() || c > 0 {
			most = a
		}
	}
	in.Reason, in.Initiator = most.Reason, most.Initiator
	return in
}
