package agentssh

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// What a connection may report of its forwards: a web page alone may open hundreds. Those
// beyond the rate share one row, which is open until the connection ends.
const (
	forwardBurst = 100
	forwardEvery = time.Second
)

// row is one connection in the log.
type row struct {
	id     string
	ended  func(Ended) // nil: nobody tracks
	kind   Kind
	app    App
	behind string // the app that listens at the target; "" if it is none that is known
	shared bool   // it stands for several forwards
}

// sharedRow is the row of the forwards beyond the rate; conn.mu guards it.
type sharedRow struct {
	row
	began          bool
	members        int
	failed         int                    // of members, those that should not have ended so
	worst          disconnect.Attribution // the first failure, or else the last end
	sent, received uint64
}

// begin reports the beginning of the forward. Peer is nil when nothing answered.
func (f *forward) begin(peer net.Conn) {
	c := f.c
	if peer != nil {
		f.row.behind = c.srv.listeners.behind(peer)
		c.remember(f.target, f.row.behind)
	} else {
		f.row.behind = c.remembered(f.target)
	}
	if f.row.behind != "" {
		c.learn(App{f.row.behind, AppProcess})
	}
	f.beginRow()
}

// beginRow reports the beginning, in a row of its own or in that of many.
func (f *forward) beginRow() {
	c := f.c
	f.row.kind, f.row.app = KindForward, c.application()
	if c.mayReport(time.Now()) {
		f.row.id, f.row.ended = f.track(f.row, f.target.address, f.stop)
		return
	}
	c.mu.Lock()
	f.row.shared = true
	first := !c.shared.began
	c.shared.began = true
	c.shared.members++
	c.mu.Unlock()
	if first {
		r := row{kind: KindForward, app: f.row.app, shared: true}
		r.id, r.ended = f.track(r, "", c.stopShared)
		c.mu.Lock()
		c.shared.row = r
		c.mu.Unlock()
	}
}

// track tells the tracker of a row that begins.
func (f *forward) track(r row, to string, end func(disconnect.Attribution)) (string, func(Ended)) {
	if f.c.srv.cfg.Track == nil {
		return "", nil
	}
	return f.c.srv.cfg.Track(Session{
		RemoteAddr:    f.c.nc.RemoteAddr(),
		ClientVersion: disconnect.Scrub(string(f.c.sc.ClientVersion())),
		User:          disconnect.Scrub(f.c.sc.User()),
		App:           r.app,
		Kind:          r.kind,
		Behind:        r.behind,
		Target:        disconnect.Scrub(to),
		End:           end,
	})
}

// report tells how the forward ended, or adds that to the row that it shares.
func (f *forward) report() {
	a, _ := f.end.Get()
	e := Ended{Attribution: a, ExitCode: -1, BytesSent: f.bytes.sent.Load(), BytesReceived: f.bytes.received.Load()}
	if f.row.shared {
		f.c.addShared(e)
		return
	}
	f.row.app = f.c.application()
	f.c.reportRow(f.row, e, slog.String("target", disconnect.Scrub(f.target.address)))
}

// reportRow is the one line and the one report of a row that has ended.
func (c *conn) reportRow(r row, e Ended, more ...slog.Attr) {
	e.App = r.app
	if r.ended != nil {
		r.ended(e)
	}
	message := r.kind.closed()
	if r.behind == appJetBrains {
		message = "jetbrains channel closed"
	}
	e.Attribution.Log(context.Background(), c.srv.logger, message, append(more,
		slog.String("connection_id", r.id), slog.String("kind", string(r.kind)),
		slog.String("app", r.app.Name), slog.String("app_source", string(r.app.Source)))...)
}

// mayReport takes a place in the log for one forward, if there is one at this rate.
func (c *conn) mayReport(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if oldest := now.Add(-forwardBurst * forwardEvery); c.reportedUntil.Before(oldest) {
		c.reportedUntil = oldest
	}
	next := c.reportedUntil.Add(forwardEvery)
	if next.After(now) {
		return false
	}
	c.reportedUntil = next
	return true
}

// addShared adds the end of a forward to the row that it shares.
func (c *conn) addShared(e Ended) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.shared
	s.sent, s.received = s.sent+e.BytesSent, s.received+e.BytesReceived
	if !e.Expected() {
		s.failed++
	}
	if s.failed == 0 || (s.failed == 1 && !e.Expected()) {
		s.worst = e.Attribution
	}
}

// endShared reports the row that forwards share, if there is one. All of them have ended.
func (c *conn) endShared() {
	c.mu.Lock()
	s := c.shared
	c.mu.Unlock()
	if !s.began {
		return
	}
	a := s.worst
	a.Detail = disconnect.Scrub(fmt.Sprintf("%s (%d forwards, of which %d ended unexpectedly)", a.Detail, s.members, s.failed))
	s.row.app = c.application()
	c.reportRow(s.row, Ended{Attribution: a, ExitCode: -1, BytesSent: s.sent, BytesReceived: s.received},
		slog.Int("forwards", s.members))
}

// stopShared ends the forwards that share a row.
func (c *conn) stopShared(a disconnect.Attribution) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for f := range c.forwards {
		if f.row.shared {
			f.stop(a)
		}
	}
}

// maxRemembered bounds the targets of a connection that are remembered.
const maxRemembered = 64

// remember notes which app listened at a target, so that its absence can be told later.
func (c *conn) remember(to target, app string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if app == "" {
		delete(c.apps, to)
		return
	}
	if c.apps == nil || len(c.apps) >= maxRemembered {
		c.apps = make(map[target]string)
	}
	c.apps[to] = app
}

// remembered is the app that this connection has found at a target before.
func (c *conn) remembered(to target) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apps[to]
}
