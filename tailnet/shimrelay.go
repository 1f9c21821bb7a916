package tailnet

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
)

// This file is the far side of the shim: reaching the relay, and one relay
// connection's life.

// reach dials the region's relay until it succeeds, is refused, or the hold time is
// over. A dial that hangs does not hold up the next: after an outage the first packet
// of a new socket gets through at once, while an old one's waits for its
// retransmission timer.
func (s *shim) reach(r *shimRegion) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timing.hold)
	defer cancel()
	region, wait := r.plan(time.Now())
	if wait > 0 && !sleep(ctx, wait) {
		return nil, ctx.Err()
	}
	conn, err := s.race(ctx, region)
	if s.ctx.Err() != nil && err != nil {
		return nil, err
	}
	s.report(r, err)
	s.turned(region, err == nil)
	if refused(err) {
		r.holdBack(time.Now().Add(s.timing.penalty))
	}
	return conn, err
}

// plan returns the region to dial, and how long to wait first.
func (r *shimRegion) plan(now time.Time) (*proto.DERPRegion, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.region, r.after.Sub(now)
}

func (r *shimRegion) holdBack(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.after = until
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

type dialResult struct {
	conn net.Conn
	err  error
}

// race is the dials of one upgrade: it starts one, and another each redial interval;
// the first to succeed wins.
type race struct {
	shim    *shim
	region  *proto.DERPRegion
	results chan dialResult
	cancels []context.CancelFunc // of the youngest dials, oldest first
	pending int                  // dials whose result was not received
}

// race dials until ctx ends, or the relay is reached or refuses.
func (s *shim) race(ctx context.Context, region *proto.DERPRegion) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &race{shim: s, region: region, results: make(chan dialResult)}
	d.start(ctx)
	next := time.NewTimer(jitter(s.timing.redial))
	defer next.Stop()
	doubt := time.NewTicker(s.timing.doubt)
	defer doubt.Stop()
	var last error
	for {
		select {
		case <-ctx.Done():
			return d.photoFinish(last)
		case <-doubt.C:
			s.turned(region, false)
		case <-next.C:
			next.Reset(jitter(s.timing.redial))
			d.start(ctx)
		case result := <-d.results:
			d.pending--
			if result.err == nil || refused(result.err) {
				cancel()
				s.wg.Go(d.discard)
				return result.conn, result.err
			}
			last = moreTelling(last, result.err)
		}
	}
}

// turned tells whether a region was reached.
func (s *shim) turned(region *proto.DERPRegion, reached bool) {
	if s.onTurn != nil {
		s.onTurn(region.GetId(), reached)
	}
}

func (d *race) start(ctx context.Context) {
	if len(d.cancels) == maxDials {
		d.cancels[0]()
		d.cancels = d.cancels[1:]
	}
	ctx, cancel := context.WithCancel(ctx)
	d.cancels = append(d.cancels, cancel)
	d.pending++
	d.shim.wg.Go(func() {
		defer cancel()
		conn, err := d.shim.dial(ctx, d.region)
		d.results <- dialResult{conn, err}
	})
}

// photoFinish takes the results of the dials that the race's end cut short: they
// know what they were waiting for, and one may just have succeeded.
func (d *race) photoFinish(last error) (net.Conn, error) {
	for d.pending > 0 {
		result := <-d.results
		d.pending--
		if result.err == nil {
			d.shim.wg.Go(d.discard)
			return result.conn, nil
		}
		last = moreTelling(last, result.err)
	}
	return nil, last
}

// discard waits for the dials that lost.
func (d *race) discard() {
	for ; d.pending > 0; d.pending-- {
		if result := <-d.results; result.err == nil {
			result.conn.Close()
		}
	}
}

// moreTelling prefers a dial's own failure to its cancellation by us, and a later
// failure to an earlier one.
func moreTelling(earlier, later error) error {
	if earlier != nil && (errors.Is(later, context.Canceled) || errors.Is(later, context.DeadlineExceeded)) {
		return earlier
	}
	return later
}

// jitter spreads d by a fifth, so that nodes that lost one relay do not come back in
// step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// refused reports whether the relay said no: asking again soon would not help.
func refused(err error) bool {
	a, ok := disconnect.FromError(err)
	return ok && relayRefuses(a.Reason)
}

func relayRefuses(reason disconnect.Reason) bool {
	switch reason {
	case disconnect.AuthFailed, disconnect.VersionMismatch, disconnect.LimitExceeded:
		return true
	default:
		return false
	}
}

// report logs a dial's outcome when it differs from the one before: engines retry
// for as long as it takes.
func (s *shim) report(r *shimRegion, err error) {
	trouble := ""
	switch a, known := disconnect.FromError(err); {
	case err == nil:
	case known:
		trouble = a.Reason.String()
	case errors.Is(err, errNoRelayToken):
		trouble = "no token"
	default:
		trouble = disconnect.Judge(err, disconnect.ClientToServer, disconnect.Client).Reason.String()
	}
	r.mu.Lock()
	before := r.trouble
	r.trouble = trouble
	r.mu.Unlock()
	switch {
	case trouble == before:
	case err == nil:
		s.logger.Info("relay reached again", "region", r.id)
	default:
		s.logger.Info("relay cannot be reached", "region", r.id, "error", disconnect.Scrub(err.Error()))
	}
}

// relayLocal is the engine's side of a session; bytes that came with the upgrade
// request may still be in the reader.
type relayLocal struct {
	net.Conn
	reader io.Reader
}

func (l relayLocal) Read(p []byte) (int, error) { return l.reader.Read(p) }

// relaySession is one relay connection and the engine's connection that uses it.
// Every cause is recorded before anything is closed for it.
type relaySession struct {
	shim   *shim
	region *shimRegion
	local  net.Conn
	remote net.Conn
	leg    disconnect.ConnectType
	self   disconnect.Initiator

	ctx  context.Context // ends with the session
	stop context.CancelFunc

	cause   disconnect.Latch
	closing sync.Once
	began   time.Time
	heard   atomic.Int64 // when bytes or a pong came last, in Unix ns
	// stalled says that the engine does not take what the relay sent; meanwhile
	// nobody reads the relay's life signs, and silence is not the relay's.
	stalled atomic.Bool
}

func newRelaySession(s *shim, r *shimRegion, local relayLocal, remote net.Conn) *relaySession {
	c := &relaySession{
		shim: s, region: r, local: local, remote: remote, began: time.Now(),
		leg: disconnect.ClientToServer, self: disconnect.Client,
	}
	if conn, ok := remote.(interface {
		role() (disconnect.ConnectType, disconnect.Initiator)
	}); ok {
		c.leg, c.self = conn.role()
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.sign()
	return c
}

// run copies until the session ends, then accounts for it.
func (c *relaySession) run() {
	var wg sync.WaitGroup
	wg.Go(c.up)
	wg.Go(c.down)
	if p, ok := c.remote.(interface{ Ping(context.Context) error }); ok {
		wg.Go(func() { c.ask(p) })
		wg.Go(c.watch)
	}
	wg.Wait()
	c.account()
}

// account tells the one ending of the session.
func (c *relaySession) account() {
	cause, _ := c.cause.Get()
	now := time.Now()
	switch {
	case relayRefuses(cause.Reason):
		c.region.holdBack(now.Add(c.shim.timing.penalty))
	case !cause.Expected() && now.Sub(c.began) < c.shim.timing.redial:
		// Something accepts connections only to drop them.
		c.region.holdBack(now.Add(c.shim.timing.redial))
	}
	level := slog.LevelInfo
	if cause.Expected() {
		level = slog.LevelDebug
	}
	c.shim.logger.LogAttrs(context.Background(), level, "relay connection ended",
		cause.Attr(), slog.Int("region", int(c.region.id)), slog.Duration("lasted", now.Sub(c.began)))
	if c.shim.onEnd != nil {
		c.shim.onEnd(c.region.now(), cause)
	}
}

// up copies from the engine to the relay.
func (c *relaySession) up() {
	buf := make([]byte, relayBuffer)
	for {
		n, err := c.local.Read(buf)
		if n > 0 {
			if _, err := c.remote.Write(buf[:n]); err != nil {
				c.remoteFailed()
				return
			}
		}
		if err != nil {
			c.localGone()
			return
		}
	}
}

// down copies from the relay to the engine.
func (c *relaySession) down() {
	buf := make([]byte, relayBuffer)
	for {
		n, err := c.remote.Read(buf)
		if n > 0 {
			c.sign()
			c.stalled.Store(true)
			_, err := c.local.Write(buf[:n])
			c.stalled.Store(false)
			if err != nil {
				c.localGone()
				return
			}
		}
		if err != nil {
			c.end(c.judge(err))
			return
		}
	}
}

// remoteFailed is for a write that failed, which is mostly a consequence: the reader
// has the cause, and gets a moment to find it.
func (c *relaySession) remoteFailed() {
	const moment = 500 * time.Millisecond
	c.remote.SetReadDeadline(time.Now().Add(moment))
}

// localGone is the engine's close. The engine lives in this process and closes a
// relay connection when it needs it no more, so this is an act of ours.
func (c *relaySession) localGone() {
	c.end(disconnect.Attribution{
		ConnectType: c.leg, Reason: disconnect.Graceful, Initiator: c.self,
		Detail: "the node needs this relay connection no longer",
	})
}

// leave ends the session because the shim closes.
func (c *relaySession) leave() {
	reason := disconnect.ServerShutdown
	if c.self == disconnect.Client {
		reason = disconnect.ClientClosed
	}
	c.end(disconnect.Attribution{ConnectType: c.leg, Reason: reason, Initiator: c.self, Detail: "the node is stopping"})
}

// end records the cause and closes both sides. The engine hears of it at once; the
// relay is told the cause.
func (c *relaySession) end(a disconnect.Attribution) {
	c.cause.Set(a)
	c.closing.Do(func() {
		cause, _ := c.cause.Get()
		c.stop()
		c.local.Close()
		if conn, ok := c.remote.(interface{ CloseWith(int, string) error }); ok {
			_ = conn.CloseWith(cause.Goodbye().CloseCode()) // best effort: it may be gone
			return
		}
		c.remote.Close()
	})
}

func (c *relaySession) judge(err error) disconnect.Attribution {
	if conn, ok := c.remote.(interface{ Ending() wsconn.Ending }); ok {
		if ending := conn.Ending(); !ending.IsZero() {
			return wsconn.Judge(ending, c.leg, c.self, disconnect.Server)
		}
	}
	return disconnect.Judge(err, c.leg, c.self)
}

// sign notes a life sign of the relay.
func (c *relaySession) sign() { c.heard.Store(time.Now().UnixNano()) }

// ask asks the relay for life signs.
func (c *relaySession) ask(p interface{ Ping(context.Context) error }) {
	for sleep(c.ctx, c.shim.timing.ping) {
		if p.Ping(c.ctx) != nil {
			return // the reader says why
		}
		c.sign()
	}
}

// watch cuts the session when the relay has been silent for too long.
func (c *relaySession) watch() {
	limit := c.shim.timing.silence
	for {
		silent := time.Since(time.Unix(0, c.heard.Load()))
		switch {
		case c.stalled.Load():
			c.sign() // the wait begins anew when the engine reads again
			silent = 0
		case silent >= limit:
			c.end(disconnect.Attribution{
				ConnectType: c.leg, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
				Detail: "nothing heard of the relay for " + silent.Round(time.Millisecond).String(),
			})
			return
		}
		if !sleep(c.ctx, limit-silent) {
			return
		}
	}
}
