package agent

import (
	"strings"
	"sync"
	"sync/atomic"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/tailnet"
)

// Status is what an agent does at one moment. Every type and every kind of path has
// its entry.
type Status struct {
	Linked      bool                     // the control link is up
	Links       uint64                   // how many control links there have been
	Connections map[string]int           // that are open, by type in small letters
	Peers       map[tailnet.PathKind]int // that are installed, by the path to them
	Reports     ReportStatus
}

// ReportStatus is how the agent's reports of connections are doing.
type ReportStatus struct {
	Pending  int    // that the server has not acknowledged
	Dropped  uint64 // connections that were not reported for lack of room
	Refused  uint64 // that the server has refused as invalid
	Volatile bool   // the journal does not take them: they are in memory only
}

// typeControl is the type of a control link.
const typeControl = "control"

// typeName is a type in small letters.
func typeName(kind proto.Connection_Type) string { return strings.ToLower(kind.String()) }

// gauges counts what [Agent.Status] tells beside what the parts know.
type gauges struct {
	links atomic.Uint64

	mu   sync.Mutex // guards open
	open map[proto.Connection_Type]int
}

// opened counts a connection; the returned function takes it back, once.
func (g *gauges) opened(kind proto.Connection_Type) (ended func()) {
	add := func(n int) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.open == nil {
			g.open = map[proto.Connection_Type]int{}
		}
		g.open[kind] += n
	}
	add(1)
	return sync.OnceFunc(func() { add(-1) })
}

// Status implements [Agent].
func (a *agent) Status() Status {
	s := Status{
		Links: a.gauges.links.Load(), Connections: map[string]int{},
		Peers:   map[tailnet.PathKind]int{tailnet.PathNone: 0, tailnet.PathDirect: 0, tailnet.PathRelay: 0},
		Reports: a.reportStatus(),
	}
	a.linkMu.Lock()
	s.Linked = a.link != nil
	a.linkMu.Unlock()
	a.gauges.mu.Lock()
	for number := range proto.Connection_Type_name {
		kind := proto.Connection_Type(number)
		s.Connections[typeName(kind)] = a.gauges.open[kind]
	}
	a.gauges.mu.Unlock()
	delete(s.Connections, typeName(proto.Connection_TYPE_UNSPECIFIED))
	for _, path := range a.node.Paths() {
		s.Peers[path.Kind]++
	}
	return s
}

func (a *agent) setLink(link *control.Link) {
	if link != nil {
		a.gauges.links.Add(1)
	}
	a.linkMu.Lock()
	defer a.linkMu.Unlock()
	a.link = link
}
