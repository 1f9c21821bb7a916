package server

import (
	"net/http"
	"strconv"
	"sync/atomic"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tailnet/relay"
)

// meters are what the server counts. Strangers leave nothing else behind: no row in
// the database, and no line in the log above debug.
type meters struct {
	set        *metrics.Set
	relayConns atomic.Int64
	relayEnded func(disconnect.Attribution)
	refused    func(reason string)
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
	m.relayEnded = m.set.Endings("relay_disconnects_total", "Relay connections that ended, by the words of docs/disconnects.md.")
	m.refused = m.set.Counters("refused_requests_total", "Requests that were refused, by the reason of docs/disconnects.md.", "reason")
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
