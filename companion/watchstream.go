package companion

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// run keeps a stream until the watch is over.
func (w *Watch) run() {
	backoff := minBackoff
	for w.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(w.ctx, dialTimeout)
		conn, err := w.config.Dial(ctx)
		cancel()
		if err != nil {
			w.config.Logger.Debug("companion dial failed", "error", disconnect.Scrub(err.Error()))
		} else if w.follow(conn) {
			backoff = minBackoff
		}
		select {
		case <-w.done:
			return
		case <-w.redial:
			backoff = minBackoff
		case <-time.After(backoff/2 + rand.N(backoff/2)):
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// follow serves one stream until it breaks, and reports whether the agent said
// hello on it.
func (w *Watch) follow(conn net.Conn) (greeted bool) {
	s := newStream(conn, w.config.Heartbeat)
	defer context.AfterFunc(w.ctx, s.cut)()
	defer func() {
		s.cut()
		close(s.done)
		w.mu.Lock()
		if w.stream == s {
			w.stream = nil
		}
		w.mu.Unlock()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(staleBeats * w.config.Heartbeat))
	frame, err := s.read()
	var hello *proto.CompanionHello
	if err == nil {
		if g := frame.GetGoodbye(); g != nil {
			w.dismissed(g)
			return true
		}
		hello, err = checkHello(frame)
	}
	if err != nil {
		w.broken(err)
		return false
	}
	if !w.greet(s, hello) {
		return true
	}
	w.tasks.Go(func() { s.write(nil) })
	for {
		_ = conn.SetReadDeadline(time.Now().Add(staleBeats * time.Duration(s.beat.Load())))
		frame, err := s.read()
		if err != nil {
			w.broken(err)
			return true
		}
		if g := frame.GetGoodbye(); g != nil {
			w.dismissed(g)
			return true
		}
		w.heard(frame)
	}
}

// greet answers the agent's hello. It reports false when another life of the agent
// answered, or the watch is over: then nothing is said to it.
func (w *Watch) greet(s *stream, hello *proto.CompanionHello) bool {
	instance := hello.GetInstanceId()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.mournLocked(hello.GetTombstones())
	if w.instance == "" {
		w.instance = instance
		close(w.hello)
	}
	if instance != w.instance {
		if w.replaced.IsZero() {
			w.replaced, w.replacedAt, w.replacedBy = time.Now(), w.config.Clock().Boot, instance
		}
		nudge(w.recheck)
		return false
	}
	w.stream, w.addresses = s, usableAddresses(hello.GetAddresses())
	w.vigil.beat = w.config.Heartbeat // until it announces another
	w.allowLocked(hello)
	s.send(helloFrame(w.config.Instance, w.config.Version, 0))
	if !w.hearLocked() {
		s.confess(w.vigil, w.config.Clock())
	}
	return true
}

// dismissed records the agent's goodbye. Who leaves after it only answers. An agent that
// had heard nothing for too long cannot know that we slept.
func (w *Watch) dismissed(g *wire.Goodbye) {
	a := wire.ToGoodbye(g).From(disconnect.Agent).On(disconnect.AgentToClient)
	w.mu.Lock()
	now := w.config.Clock()
	w.vigil.look(now)
	if !w.ended {
		w.received = told{a, disconnect.Agent, now.Boot}
	}
	if own, known := w.vigil.lately(now); known && a.Reason == disconnect.NetworkTimeout {
		a.Reason, a.Initiator = own.Reason, own.Initiator
		a.Detail = disconnect.Scrub(own.Detail + "; the agent had given up: " + a.Detail)
	}
	first := w.endLocked(a)
	w.mu.Unlock()
	if first {
		w.cancel()
	}
}

// broken judges the end of a stream without a goodbye. Invalid bytes end the watch;
// anything else is an interruption.
func (w *Watch) broken(err error) {
	if errors.Is(err, errBadFrame) {
		if w.end(disconnect.Attribution{
			ConnectType: disconnect.AgentToClient,
			Reason:      disconnect.ProtocolError,
			Initiator:   disconnect.Agent,
			Detail:      disconnect.Scrub(err.Error()),
		}) {
			w.cancel()
		}
		return
	}
	select {
	case <-w.done:
	default:
		w.config.Logger.Debug("companion stream interrupted", "error", disconnect.Scrub(err.Error()))
	}
}

// allowLocked takes the agent's outage limit, unless our user has set one.
func (w *Watch) allowLocked(hello *proto.CompanionHello) {
	if ms := hello.GetOutageLimitMs(); ms > 0 && w.config.OutageLimit <= 0 {
		w.limit = time.Duration(min(ms, uint64(longestLimit.Milliseconds())))*time.Millisecond + patience
	}
}

// hearLocked takes note of a life sign, and tells the agent if a silence was ours. It
// reports whether it has.
func (w *Watch) hearLocked() (confessed bool) {
	confession := w.vigil.hear(w.config.Clock(), w.openLocked)
	if confessed = confession != nil && w.stream != nil; confessed {
		w.stream.send(explanationFrame(*confession))
	}
	close(w.changed)
	w.changed = make(chan struct{})
	return confessed
}

// heard takes in what the agent said.
func (w *Watch) heard(frame *proto.CompanionFrame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hearLocked()
	switch {
	case frame.GetHeartbeat() != nil:
		w.terminals = usable(frame.GetHeartbeat().GetTerminals())
		w.keepPaceLocked(frame.GetHeartbeat())
	case frame.GetHello() != nil:
		w.allowLocked(frame.GetHello())
	case frame.GetExplanation() != nil:
		w.vigil.explained(wire.ToAttribution(frame.GetExplanation().GetAttribution()))
	case frame.GetFlow() != nil:
		f := frame.GetFlow()
		if !validID(f.GetConnectionId()) || f.GetClientPort() > 65535 {
			return
		}
		port := uint16(f.GetClientPort())
		if _, known := w.connections[port]; !known && len(w.connections) >= maxConnections && !w.makeRoomLocked() {
			return
		}
		if w.connections[port] != f.GetConnectionId() { // it is told again on every stream
			w.connections[port] = f.GetConnectionId()
			w.config.Logger.Info("the agent named a connection", "connection_id", f.GetConnectionId())
		}
	case frame.GetEnded() != nil:
		e := frame.GetEnded()
		w.buryLocked(e.GetConnectionId(), e.GetAttribution(), e.ExitCode)
	}
}

// keepPaceLocked makes our heartbeats as frequent as the agent's, which knows whether
// anything is open.
func (w *Watch) keepPaceLocked(beat *proto.CompanionHeartbeat) {
	w.vigil.beat = announced(beat, w.config.Heartbeat)
	if w.stream != nil {
		w.stream.every(w.vigil.beat)
	}
}
