package companion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

const (
	// retainEnded is how long the host still answers for a client that left.
	retainEnded = 10 * time.Minute
	// maxRemembered bounds the endings kept for a client whose stream is down.
	maxRemembered = 32
)

// peer is what the host knows of one client. All fields are guarded by Host.mu but
// addr and gone, which never change.
//
// Its states: unheard (flows, no hello yet) -> alive (hello; its stream may come
// and go) -> ended (goodbye, or given up). A hello with another instance id makes
// an ended peer alive again: another process took over the address.
type peer struct {
	addr     netip.Addr
	gone     chan struct{} // closed when the peer ended
	instance string        // empty before the first hello
	stream   *stream       // nil while there is none
	vigil    *vigil
	flows    map[uint16]*use // by the client's port, those with anything open
	busy     time.Duration   // when it last had anything open, or came, by the boot clock
	rests    bool            // it knows heartbeats that announce the next
	recent   []remembered

	ended   bool
	ending  disconnect.Attribution
	endedAt time.Time
}

// use is what is open on one connection of a client, which has one name there.
type use struct {
	open []string // connections that the client is told of
	held []string // others, which only keep it from looking unused
	last string   // the one that ended last of open, if it is remembered
	told string   // the name that the client was told
}

// name is what the connection is called now: what is open goes before what has ended.
func (u *use) name() string {
	switch {
	case len(u.open) > 0:
		return u.open[len(u.open)-1]
	case len(u.held) > 0:
		return u.held[0]
	}
	return u.last
}

// useOf returns what is open on a port of the client.
func (p *peer) useOf(port uint16) *use {
	u := p.flows[port]
	if u == nil {
		u = &use{}
		p.flows[port] = u
	}
	if p.stream != nil {
		p.stream.every(p.vigil.tick) // it has something to lose from now on
	}
	return u
}

// paceLocked slows heartbeats down when the client has had nothing open for a while.
func (h *Host) paceLocked(p *peer, now Reading) {
	switch {
	case len(p.flows) > 0:
		p.busy = now.Boot
	case p.rests && p.stream != nil && now.Boot-p.busy >= restAfter:
		p.stream.every(restingHeartbeat)
	}
}

// open returns the ids of all that is open.
func (p *peer) open() (ids []string) {
	for _, u := range p.flows {
		ids = append(append(ids, u.open...), u.held...)
	}
	slices.Sort(ids)
	return ids
}

// rename tells the client when its connection has another name now, and forgets a
// connection that is not in use any more.
func (p *peer) rename(port uint16, u *use) {
	if name := u.name(); name != "" && name != u.told {
		u.told = name
		if p.stream != nil {
			p.stream.send(flowFrame(port, name))
		}
	}
	if len(u.open)+len(u.held) == 0 {
		delete(p.flows, port)
	}
}

// without returns ids without id.
func without(ids []string, id string) []string {
	return slices.DeleteFunc(ids, func(other string) bool { return other == id })
}

// remembered is an ending to tell again when the client is back.
type remembered struct {
	flow, ended *proto.CompanionFrame
}

func (p *peer) remember(port uint16, id string, frame *proto.CompanionFrame) {
	if len(p.recent) == maxRemembered {
		p.recent = append(p.recent[:0], p.recent[1:]...)
	}
	p.recent = append(p.recent, remembered{flow: flowFrame(port, id), ended: frame})
}

// peerLocked returns the record of addr, and makes one with a running clock if
// there is none.
func (h *Host) peerLocked(addr netip.Addr) *peer {
	if p := h.peers[addr]; p != nil {
		return p
	}
	h.forgetEndedLocked()
	p := &peer{
		addr: addr, gone: make(chan struct{}), flows: make(map[uint16]*use),
		vigil: newVigil(disconnect.Agent, disconnect.Client, h.config.Heartbeat, h.config.Heartbeat, h.config.Clock()),
	}
	p.vigil.facts = h.config.Facts
	p.vigil.pathChanged(h.paths[addr], h.config.Clock())
	h.peers[addr] = p
	h.tasks.Go(func() { h.clock(p) })
	return p
}

// attach makes s the stream of the client at addr. It returns a nil peer and the
// ending when that very instance had ended before.
func (h *Host) attach(addr netip.Addr, hello *proto.CompanionHello, s *stream) (*peer, disconnect.Attribution) {
	instance := hello.GetInstanceId()
	h.mu.Lock()
	known := h.peers[addr]
	h.mu.Unlock()
	if known != nil {
		h.expire(known) // it comes too late, though nobody has looked yet
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[addr]
	if p != nil && p.ended {
		if p.instance == instance || h.closing {
			return nil, p.ending
		}
		flows := p.flows
		delete(h.peers, addr)
		p = h.peerLocked(addr)
		p.flows = flows
	}
	if h.closing {
		return nil, disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent,
		}
	}
	if p == nil {
		p = h.peerLocked(addr)
	}
	if p.stream != nil {
		p.stream.cut()
	}
	p.instance, p.stream = instance, s
	p.busy, p.rests = h.config.Clock().Boot, hello.GetProtocol() >= announcingProtocol
	if !h.hearLocked(p) {
		s.confess(p.vigil, h.config.Clock())
	}
	for _, r := range p.recent {
		s.send(r.flow)
		s.send(r.ended)
	}
	for port, u := range p.flows {
		s.send(flowFrame(port, u.told))
	}
	return p, disconnect.Attribution{}
}

// detach forgets that s was the stream of p. The client may come back.
func (h *Host) detach(p *peer, s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.stream == s {
		p.stream = nil
	}
}

// heard takes in a frame of the client. One that comes after the outage limit is too
// late, also if nobody has looked at the clock since.
func (h *Host) heard(p *peer, frame *proto.CompanionFrame) {
	if h.expire(p) {
		return
	}
	h.mu.Lock()
	h.hearLocked(p)
	if beat := frame.GetHeartbeat(); beat != nil {
		p.vigil.beat = announced(beat, h.config.Heartbeat)
	}
	if e := frame.GetExplanation(); e != nil {
		p.vigil.explained(wire.ToAttribution(e.GetAttribution()))
	}
	ready := h.ripeLocked(p)
	h.mu.Unlock()
	h.interrupted(p, ready)
}

// ripeLocked returns the interruptions to be recorded now, and tells the client what we
// hold to be the reason of the last one.
func (h *Host) ripeLocked(p *peer) []Interruption {
	ready, word := p.vigil.ripe(h.config.Clock())
	if word != nil && p.stream != nil {
		p.stream.send(explanationFrame(*word))
	}
	return ready
}

// hearLocked takes note of a life sign, and tells the client if a silence was ours. It
// reports whether it has.
func (h *Host) hearLocked(p *peer) (confessed bool) {
	confession := p.vigil.hear(h.config.Clock(), p.open)
	if confession == nil || p.stream == nil {
		return false
	}
	p.stream.send(explanationFrame(*confession))
	return true
}

// interrupted passes on interruptions that befell connections.
func (h *Host) interrupted(p *peer, all []Interruption) {
	for _, i := range all {
		if len(i.Connections) > 0 {
			h.config.OnInterruption(p.addr, i)
		}
	}
}

// left records a goodbye. The stream is cut, which tells the client that its word
// was read, before the callback may take its time.
func (h *Host) left(p *peer, s *stream, g disconnect.Goodbye) {
	h.mu.Lock()
	first := h.endLocked(p, g.On(disconnect.AgentToClient))
	h.mu.Unlock()
	s.cut()
	if first && h.config.OnGoodbye != nil {
		h.config.OnGoodbye(p.addr, g)
	}
}

// broken judges the end of a stream without a goodbye. Only invalid bytes end the
// client; after anything else it may come back until the outage limit.
func (h *Host) broken(p *peer, s *stream, err error) {
	if !errors.Is(err, errBadFrame) {
		h.mu.Lock()
		known := p.ended || p.stream != s
		h.mu.Unlock()
		if !known {
			h.config.Logger.Debug("companion stream interrupted", "peer", p.addr.String(), "error", err)
		}
		return
	}
	a := badBytes(err)
	h.mu.Lock()
	first := h.endLocked(p, a)
	h.mu.Unlock()
	s.send(goodbyeFrame(a.Goodbye()))
	h.drain(s)
	if first {
		h.givenUp(p, a)
	}
}

// endLocked records the first terminal cause of p, and reports whether a is it.
func (h *Host) endLocked(p *peer, a disconnect.Attribution) bool {
	if p.ended {
		return false
	}
	p.ended, p.ending, p.endedAt = true, a, time.Now()
	close(p.gone)
	return true
}

func (h *Host) givenUp(p *peer, a disconnect.Attribution) {
	h.config.Logger.Debug("companion client given up", slog.String("peer", p.addr.String()), a.Attr())
	if h.config.OnSilence != nil {
		h.config.OnSilence(p.addr, a)
	}
}

// clock watches over p until it is gone, or was silent for longer than the outage limit.
func (h *Host) clock(p *peer) {
	defer func() {
		h.mu.Lock()
		rest := p.vigil.rest()
		h.mu.Unlock()
		h.interrupted(p, rest)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.gone:
			return
		case <-timer.C:
		}
		if h.expire(p) {
			return
		}
		h.mu.Lock()
		now := h.config.Clock()
		p.vigil.look(now)
		ready, noticed, silence, open := h.ripeLocked(p), p.vigil.notice(now), p.vigil.silence(now), len(p.flows) > 0
		limit, kick, next := h.limit, p.vigil.missed(now) || p.vigil.unsettled(), p.vigil.pace(now)
		h.paceLocked(p, now)
		h.mu.Unlock()
		h.interrupted(p, ready)
		if noticed && open {
			h.config.Logger.Info("a client is not heard", "peer", p.addr.String(), "silent_for", silence.Round(time.Second))
		}
		timer.Reset(min(next, max(0, limit-silence)))
		if kick {
			h.config.Kick(p.addr)
		}
	}
}

// expire ends p if it was silent for the outage limit, and reports whether it is over.
func (h *Host) expire(p *peer) (over bool) {
	h.mu.Lock()
	now := h.config.Clock()
	if p.ended || p.vigil.silence(now) < h.limit {
		over = p.ended
		h.mu.Unlock()
		return over
	}
	if p.instance == "" && len(p.flows) == 0 {
		// It never said hello and has nothing open: there is nothing to end.
		h.endLocked(p, disconnect.Attribution{})
		delete(h.peers, p.addr)
		h.mu.Unlock()
		return true
	}
	p.vigil.look(now)
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.NetworkTimeout,
		Initiator:   disconnect.Network,
		Detail:      fmt.Sprintf("nothing heard from the client for %v", h.limit),
	}
	if cause, known := p.vigil.cause(now); known {
		a = cause
		a.Detail += fmt.Sprintf(", longer than the outage limit of %v", h.limit)
	}
	h.endLocked(p, a)
	s := p.stream
	h.mu.Unlock()
	h.giveUp(p, s, a)
	return true
}

// giveUp reports a silent client, and tells it so in case it can hear us.
func (h *Host) giveUp(p *peer, s *stream, a disconnect.Attribution) {
	if s != nil {
		s.send(goodbyeFrame(a.Goodbye()))
	}
	h.givenUp(p, a)
	if s != nil {
		ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
		defer cancel()
		s.finish(ctx, a.Goodbye())
	}
}

// forgetEndedLocked drops peers that ended long ago.
func (h *Host) forgetEndedLocked() {
	for addr, p := range h.peers {
		if p.ended && p.stream == nil && time.Since(p.endedAt) > retainEnded {
			delete(h.peers, addr)
		}
	}
}
