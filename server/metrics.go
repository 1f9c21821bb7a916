package server

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/relay"
)

// meters are what the server counts. Strangers leave nothing else behind: no row in
// the database, and no line in the log above debug.
type meters struct {
	set        *metrics.Set
	relayConns atomic.Int64
	relayEnded func(disconnect.Attribution)
	refused    func(reason string)
	rows       kept
}

// newMeters makes the metrics of s, whose parts must be there when somebody asks.
func (s *Server) newMeters() *meters {
	m := &meters{set: metrics.New(s.opts.Version)}
	for kind, name := range map[control.Kind]string{control.AgentPeer: "agent", control.ClientPeer: "client", control.RelayPeer: "relay"} {
		m.set.Gauge("control_links", "Control links that are open.", map[string]string{"kind": name}, func() float64 {
			n := 0
			for _, link := range s.control.Links() {
				if link.Peer().Kind == kind {
					n++
				}
			}
			return float64(n)
		})
	}
	m.set.Gauge("relay_connections", "Relay connections that are open.", nil, func() float64 { return float64(m.relayConns.Load()) })
	m.set.Gauge("relay_nodes", "Nodes that have shown their key on a relay connection.", nil, func() float64 { return float64(s.relay.Nodes()) })
	m.set.Gauges("connections_open", "Connections of the connection log that are open.", []string{"connect_type", "type", "path"}, func(emit func(float64, ...string)) {
		s.countLive(store.StatusOpen, emit)
	})
	m.set.Gauges("connections_unheard", "Connections of agents that the server has lost, and which may live.", []string{"connect_type", "type", "path"}, func(emit func(float64, ...string)) {
		s.countLive(store.StatusUnheard, emit)
	})
	m.set.Gauges("connection_log_rows", "Connections that the connection log holds.", nil, s.countRows)
	m.relayEnded = m.set.Endings("relay_disconnects_total", "Relay connections that ended, by the words of docs/disconnects.md.")
	m.refused = m.set.Counters("refused_requests_total", "Requests that were refused, by the reason of docs/disconnects.md.", "reason")
	m.set.Counter("connection_log_write_failures_total", "Transactions of the connection log that the database did not take.", func() float64 {
		return float64(s.connlog.WriteFailures())
	})
	m.set.Gauge("connection_rows_waiting", "Control links that the connection log could not store yet.", nil, func() float64 {
		waiting, _ := s.connlog.Waiting()
		return float64(waiting)
	})
	m.set.Counter("connection_rows_lost_total", "Control links that the connection log will never have.", func() float64 {
		_, dropped := s.connlog.Waiting()
		return float64(dropped)
	})
	m.set.Counter("silent_connections_total", "TCP connections that ended without one whole request.", func() float64 {
		return float64(s.conns.silent.Load())
	})
	return m
}

// witness is told of the relay's connections.
func (m *meters) witness(e relay.Event) {
	switch e.Kind {
	case relay.Opened:
		m.relayConns.Add(1)
	case relay.Ended:
		m.relayConns.Add(-1)
		m.relayEnded(e.Ending)
	}
}

// kept is a number that costs something to find out.
type kept struct {
	mu    sync.Mutex // guards all below, and is held while the number is found out
	value int64
	until time.Time
}

const (
	// countEvery is how often the rows of the connection log are counted, at most:
	// there may be millions.
	countEvery = 5 * time.Minute
	// scrapeTimeout bounds what one scrape asks of the database.
	scrapeTimeout = 5 * time.Second
)

// countRows tells how many rows the connection log has, or nothing if that cannot be
// found out.
func (s *Server) countRows(emit func(float64, ...string)) {
	k := &s.meters.rows
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); now.After(k.until) {
		ctx, cancel := context.WithTimeout(s.background, scrapeTimeout)
		defer cancel()
		n, err := s.store.CountConnections(ctx)
		if err != nil {
			return
		}
		k.value, k.until = n, now.Add(countEvery)
	}
	emit(float64(k.value))
}

// countLive tells how many connections the log has with a status. Those of the usual
// kinds are told when there are none, too. It tells nothing when the database cannot say.
func (s *Server) countLive(status store.ConnStatus, emit func(float64, ...string)) {
	ctx, cancel := context.WithTimeout(s.background, scrapeTimeout)
	defer cancel()
	counts, err := s.store.CountLive(ctx)
	if err != nil {
		return
	}
	type kind struct {
		layer disconnect.ConnectType
		typ   store.ConnType
		path  store.ConnPath
	}
	all := map[kind]int{
		{disconnect.AgentToClient, store.TypeSSH, store.PathDirect}: 0, {disconnect.AgentToClient, store.TypeSSH, store.PathRelay}: 0,
		{disconnect.ServerToAgent, store.TypeControl, store.PathUnknown}: 0, {disconnect.ClientToServer, store.TypeControl, store.PathUnknown}: 0,
	}
	for _, c := range counts {
		if c.Status == status {
			all[kind{c.ConnectType, c.Type, c.Path}] += c.Count
		}
	}
	for k, n := range all {
		emit(float64(n), k.layer.String(), k.typ.String(), cmp.Or(k.path.String(), "unknown"))
	}
}

// countRefusal counts an answer that names a reason. The name is from the closed set,
// or else "unknown".
func (m *meters) countRefusal(h http.Header) {
	text := h.Get(sdk.HeaderReason)
	if text == "" {
		return
	}
	n, err := strconv.ParseUint(text, 10, 8)
	reason := disconnect.Reason(n)
	if err != nil || !reason.Valid() {
		reason = disconnect.Unknown
	}
	m.refused(reason.String())
}

// Metrics returns what the server counts, for a process that counts more.
func (s *Server) Metrics() *metrics.Set { return s.meters.set }
