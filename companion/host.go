package companion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/disconnect/wire"
)

const (
	// helloTimeout is how long a fresh stream may take to say hello.
	helloTimeout = 10 * time.Second
	// goodbyeTimeout is how long anybody waits for a goodbye to be read.
	goodbyeTimeout = 200 * time.Millisecond
	// maxStreams bounds the streams that one address may have open.
	maxStreams = 8
)

// HostConfig is what a [Host] needs to know.
type HostConfig struct {
	// Instance names this life of the agent's process: the same id as on its
	// control link.
	Instance string
	Version  string
	Logger   *slog.Logger // nil discards
	// Heartbeat is the interval of heartbeats; 0 means [DefaultHeartbeat].
	Heartbeat time.Duration
	// OutageLimit is how long a client may be silent, its and our sleep included; 0 means
	// [DefaultOutageLimit]. [Host.SetOutageLimit] changes it.
	OutageLimit time.Duration
	// OnGoodbye is called once when a client declared that it leaves. The ending is
	// already recorded (see [Host.Ending]). It may block: only that client's stream
	// goroutine waits.
	OnGoodbye func(peer netip.Addr, g disconnect.Goodbye)
	// OnSilence is called once when the host itself gave a client up: silent beyond
	// the outage limit, or invalid bytes after its hello. Otherwise as OnGoodbye.
	OnSilence func(peer netip.Addr, a disconnect.Attribution)
	// Terminals names the terminals that are kept for the user of a client, who is told;
	// nil: there are none. It must not block.
	Terminals func(peer netip.Addr) []string
	// OnInterruption is told of each silence of a client that its connections survived,
	// once it is over and explained as far as that is possible. It must not block.
	OnInterruption func(peer netip.Addr, i Interruption)
	// Kick is called every second or so while a client is silent: it should try to reach
	// it. It must not block.
	Kick func(peer netip.Addr)
	// Tombstones returns how connections of a client ended lately, the newest first, which
	// a client hears that was away; nil: nothing is known. It must not block.
	Tombstones func(peer netip.Addr) []*proto.CompanionTombstone
	// Addresses returns the IP addresses of the agent's own interfaces, which clients are
	// told; nil: they are not. It must not block.
	Addresses func() []netip.Addr
	// Facts is what the agent's machine can testify of itself since a time of its wall
	// clock; nil: nothing. It must not block.
	Facts func(since time.Time) []verdict.Fact
	// Clock is the host's clock; nil means the system's.
	Clock func() Reading
}

// Host is the agent's end: it serves the companion streams of all clients, and
// knows of each client whether it lives and how it left. A client is known by its
// tailnet address, since one client process is one node. Methods are safe for
// concurrent use; none but Close and Serve waits for the network.
type Host struct {
	config HostConfig
	tasks  sync.WaitGroup // stream and clock goroutines

	mu        sync.Mutex    // guards all below, and every field of every peer
	limit     time.Duration // the outage limit
	closing   bool
	listeners map[net.Listener]struct{}
	streams   map[*stream]netip.Addr
	peers     map[netip.Addr]*peer
	paths     map[netip.Addr]Path // of all clients that packets reach
}

// NewHost returns a host that serves nothing yet.
func NewHost(config HostConfig) *Host {
	if config.Heartbeat <= 0 {
		config.Heartbeat = DefaultHeartbeat
	}
	if config.OutageLimit <= 0 {
		config.OutageLimit = DefaultOutageLimit
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.OnInterruption == nil {
		config.OnInterruption = func(netip.Addr, Interruption) {}
	}
	if config.Kick == nil {
		config.Kick = func(netip.Addr) {}
	}
	if config.Clock == nil {
		config.Clock = now
	}
	return &Host{
		config:    config,
		limit:     config.OutageLimit,
		listeners: make(map[net.Listener]struct{}),
		streams:   make(map[*stream]netip.Addr),
		peers:     make(map[netip.Addr]*peer),
		paths:     make(map[netip.Addr]Path),
	}
}

// SetOutageLimit changes how long clients may be silent, also for those that are. They are
// told.
func (h *Host) SetOutageLimit(limit time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if limit <= 0 || limit == h.limit {
		return
	}
	h.limit = limit
	for s := range h.streams {
		s.send(helloFrame(h.config.Instance, h.config.Version, limit))
	}
}

func (h *Host) hello() *proto.CompanionFrame {
	h.mu.Lock()
	defer h.mu.Unlock()
	return helloFrame(h.config.Instance, h.config.Version, h.limit)
}

// Serve accepts streams from l until l fails or the host closes, and closes l. It
// returns nil when the host was closed.
func (h *Host) Serve(l net.Listener) error {
	defer l.Close()
	h.mu.Lock()
	if h.closing {
		h.mu.Unlock()
		return nil
	}
	h.listeners[l] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.listeners, l)
		h.mu.Unlock()
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			h.mu.Lock()
			closing := h.closing
			h.mu.Unlock()
			if closing {
				return nil
			}
			return fmt.Errorf("accept companion stream: %w", err)
		}
		h.admit(conn)
	}
}

// admit starts to serve conn unless the host is closing or the address has too
// many streams.
func (h *Host) admit(conn net.Conn) {
	addr, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		h.config.Logger.Warn("companion stream from no address", "error", err)
		_ = conn.Close()
		return
	}
	from := clean(addr.Addr())
	s := newStream(conn, h.config.Heartbeat)
	h.mu.Lock()
	defer h.mu.Unlock()
	open := 0
	for _, other := range h.streams {
		if other == from {
			open++
		}
	}
	if h.closing || open >= maxStreams {
		s.cut()
		return
	}
	h.streams[s] = from
	h.tasks.Go(func() { h.serve(s, from) })
}

// serve runs one stream from its first to its last byte.
func (h *Host) serve(s *stream, from netip.Addr) {
	hello := h.hello()
	if h.config.Tombstones != nil {
		stones := h.config.Tombstones(from)
		hello.GetHello().Tombstones = stones[:min(len(stones), maxTombstones)]
	}
	if h.config.Addresses != nil {
		hello.GetHello().Addresses = addressTexts(h.config.Addresses())
	}
	s.send(hello)
	var terminals func() []string
	if h.config.Terminals != nil {
		terminals = func() []string { return h.config.Terminals(from) }
	}
	h.tasks.Go(func() { s.write(terminals) })
	defer func() {
		s.cut()
		close(s.done)
		h.mu.Lock()
		delete(h.streams, s)
		h.mu.Unlock()
	}()

	theirs, err := h.readHello(s)
	if err != nil {
		h.refuse(s, from, err)
		return
	}
	p, ending := h.attach(from, theirs, s)
	if p == nil {
		h.answerEnded(s, ending)
		return
	}
	defer h.detach(p, s)
	for {
		frame, err := s.read()
		if err != nil {
			h.broken(p, s, err)
			return
		}
		if g := frame.GetGoodbye(); g != nil {
			h.left(p, s, wire.ToGoodbye(g).From(disconnect.Client))
			return
		}
		h.heard(p, frame)
	}
}

func (h *Host) readHello(s *stream) (*proto.CompanionHello, error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(helloTimeout))
	frame, err := s.read()
	if err != nil {
		return nil, err
	}
	hello, err := checkHello(frame)
	if err != nil {
		return nil, err
	}
	_ = s.conn.SetReadDeadline(time.Time{})
	return hello, nil
}

// refuse ends a stream that never said a valid hello. Leaving before the hello is
// no ending of anything; invalid bytes are answered and logged.
func (h *Host) refuse(s *stream, from netip.Addr, err error) {
	if !errors.Is(err, errBadFrame) {
		h.config.Logger.Debug("companion stream without hello", "peer", from.String(), "error", err)
		return
	}
	a := badBytes(err)
	a.Log(context.Background(), h.config.Logger, "companion stream refused", slog.String("peer", from.String()))
	s.send(goodbyeFrame(a.Goodbye()))
	h.drain(s)
}

// answerEnded tells a client that comes back after its ending what that was.
func (h *Host) answerEnded(s *stream, ending disconnect.Attribution) {
	s.send(goodbyeFrame(ending.Goodbye()))
	h.drain(s)
}

// drain reads until the other end closes, so that a goodbye just queued arrives,
// for at most goodbyeTimeout.
func (h *Host) drain(s *stream) {
	_ = s.conn.SetReadDeadline(time.Now().Add(goodbyeTimeout))
	for {
		if _, err := s.in.Discard(1); err != nil {
			return
		}
	}
}

// badBytes is the ending for invalid bytes from a client.
func badBytes(err error) disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.ProtocolError,
		Initiator:   disconnect.Client,
		Detail:      disconnect.Scrub(err.Error()),
	}
}

// Flow tells the client of a connection which id it has, the last one if it has several
// open. The id is told again on every stream that the client opens until [Host.Ended]. From the first flow on the
// client's silence counts: one that never opens a companion stream is given up
// after the outage limit.
func (h *Host) Flow(client netip.AddrPort, connectionID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return
	}
	p := h.peerLocked(clean(client.Addr()))
	u := p.useOf(client.Port())
	u.open = append(u.open, connectionID)
	p.rename(client.Port(), u)
}

// Hold keeps a client's connection from looking as if nothing were open on it any more,
// because of something whose ending the client is not told: a forward. Its id names the
// connection while nothing else does.
func (h *Host) Hold(client netip.AddrPort, connectionID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return
	}
	p := h.peerLocked(clean(client.Addr()))
	u := p.useOf(client.Port())
	u.held = append(u.held, connectionID)
	p.rename(client.Port(), u)
}

// Release is the end of a Hold.
func (h *Host) Release(client netip.AddrPort, connectionID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[clean(client.Addr())]
	if p == nil || p.flows[client.Port()] == nil {
		return
	}
	u := p.flows[client.Port()]
	u.held = without(u.held, connectionID)
	p.rename(client.Port(), u)
}

// Ended tells the client how one of its connections ended at the agent. A negative
// exitCode means that there is none. A client whose stream is down hears it when it
// is back.
func (h *Host) Ended(client netip.AddrPort, connectionID string, a disconnect.Attribution, exitCode int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[clean(client.Addr())]
	if p == nil {
		return
	}
	if u := p.flows[client.Port()]; u != nil {
		u.open, u.last = without(u.open, connectionID), connectionID
		p.rename(client.Port(), u) // before the ending, which is not the connection's
	}
	frame := endedFrame(connectionID, a, exitCode)
	p.remember(client.Port(), connectionID, frame)
	if p.stream != nil {
		p.stream.send(frame)
	}
}

// PathChanged tells the host how packets reach a client now.
func (h *Host) PathChanged(client netip.Addr, path Path) {
	client = clean(client)
	h.mu.Lock()
	defer h.mu.Unlock()
	if path.Via == "" {
		delete(h.paths, client)
	} else {
		h.paths[client] = path
	}
	if p := h.peers[client]; p != nil {
		p.vigil.pathChanged(path, h.config.Clock())
	}
}

// RelayLost tells the host how a connection of the agent to a relay ended, which may be the
// server's own.
func (h *Host) RelayLost(a disconnect.Attribution, ofServer bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.peers {
		p.vigil.relayLost(a, ofServer, h.config.Clock())
	}
}

// Ending returns how the client at peer left: what it declared, or what the host
// decided. It reports false while the client may still be there.
func (h *Host) Ending(peer netip.Addr) (disconnect.Attribution, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[clean(peer)]; p != nil && p.ended {
		return p.ending, true
	}
	return disconnect.Attribution{}, false
}

// LastHeard returns when the client at peer was last heard, by the wall clock, and when it
// could be noticed that nothing followed, if nothing did; that is zero otherwise. It
// reports false if nothing is known of the client.
func (h *Host) LastHeard(peer netip.Addr) (heard, missing time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[clean(peer)]
	if p == nil || p.instance == "" {
		return time.Time{}, time.Time{}, false
	}
	now := h.config.Clock()
	heard = clock.Now().Add(-p.vigil.silence(now)).Round(0)
	if p.vigil.missed(now) {
		missing = heard.Add(3 * p.vigil.beat / 2)
	}
	return heard, missing, true
}

// RelayGone is how this end lost the relay that carried the connections of the client at
// peer when that was last heard; ok is false if it did not.
func (h *Host) RelayGone(peer netip.Addr) (f verdict.Fact, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[clean(peer)]
	if p == nil {
		return f, false
	}
	return p.vigil.relayGone(p.vigil.heard.Boot, h.config.Clock())
}

// EndPeer ends a client for a cause that others told: the server, which withdrew its
// right. The client is told nothing, for it is a peer no more.
func (h *Host) EndPeer(peer netip.Addr, a disconnect.Attribution) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[clean(peer)]
	if p == nil || !h.endLocked(p, a.On(disconnect.AgentToClient)) {
		return
	}
	if p.stream != nil {
		p.stream.cut()
	}
}

// Close says goodbye to every client as the last frame, waits for it to be read
// (at most until ctx ends or one second), and stops. It returns when all of the
// host's goroutines have. Neither callback is called for an ending by Close.
func (h *Host) Close(ctx context.Context, g disconnect.Goodbye) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	h.mu.Lock()
	h.closing = true
	for l := range h.listeners {
		_ = l.Close()
	}
	for _, p := range h.peers {
		h.endLocked(p, g.On(disconnect.AgentToClient))
	}
	for s := range h.streams {
		h.tasks.Go(func() { s.finish(ctx, g) })
	}
	h.mu.Unlock()
	h.tasks.Wait()
}

// clean makes addresses comparable.
func clean(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
