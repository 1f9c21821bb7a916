package coordinator

import (
	"bytes"
	"time"

	"google.golang.org/grpc/codes"
	protobuf "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

// member is one node: it exists while it has a stream or a tunnel. All fields are
// guarded by Coordinator.mu.
type member struct {
	key     proto.NodeKey
	id      control.Identity // of its present or last stream; zero: not seen yet
	session *session         // nil: no live stream
	node    *proto.Node      // what it last said of itself; never changed in place
	tunnels map[proto.NodeKey]*tunnel
}

// tunnel is the permission of one client node and one agent node to be peers. It
// stays while either has no stream; it ends by removal in order, by a withdrawn
// right, or when its grant lapses because the client does not come back.
//
// All fields are guarded by Coordinator.mu.
type tunnel struct {
	client, agent *member
	identity      control.Identity // the client's
	workspace     string           // id

	grant     []byte
	expires   time.Time
	until     time.Time // when the right ends by itself; zero: never
	recheckAt time.Time // when the right is to be asked for again and the grant renewed

	// asked is the client's stream that asked for this tunnel or announced it; only
	// that one hears of it. A client that was restarted may not want it any more.
	asked *session
	// The agent's acknowledgement: sentTo is its stream that was told of the client,
	// sentDisco the disco key that it was told, need the generation it must
	// acknowledge for the client to be reachable, acked the highest that it did.
	sentTo    *session
	sentDisco []byte
	need      uint64
	acked     uint64
	// readyOwed: the client waits to hear that the agent has it installed.
	readyOwed bool
}

// clientLive returns the stream on which the tunnel's client listens for it, or nil.
func (t *tunnel) clientLive() *session {
	if t.asked != nil && t.asked == t.client.session {
		return t.asked
	}
	return nil
}

func (c *Coordinator) memberLocked(key proto.NodeKey) *member {
	m := c.members[key]
	if m == nil {
		m = &member{key: key, tunnels: make(map[proto.NodeKey]*tunnel)}
		c.members[key] = m
	}
	return m
}

// forgetLocked drops a member that has nothing any more.
func (c *Coordinator) forgetLocked(m *member) {
	if m.session == nil && len(m.tunnels) == 0 {
		delete(c.members, m.key)
	}
}

// tunnelLocked returns the tunnel between two nodes, made if need be.
func (c *Coordinator) tunnelLocked(client, agent proto.NodeKey) *tunnel {
	cm, am := c.memberLocked(client), c.memberLocked(agent)
	t := cm.tunnels[agent]
	if t == nil {
		t = &tunnel{client: cm, agent: am}
		cm.tunnels[agent] = t
		am.tunnels[client] = t
	}
	return t
}

// fullLocked reports whether a member, nil is none yet, may have no more tunnels.
func (c *Coordinator) fullLocked(m *member) bool { return m != nil && len(m.tunnels) >= c.tunnels }

// makeRoomLocked ends one of the tunnels of an agent that may have no more: that of the
// client that has been away for longest. Clients that died without a word would keep
// everybody else out for a day.
func (c *Coordinator) makeRoomLocked(agent *member) {
	if !c.fullLocked(agent) {
		return
	}
	var oldest *tunnel
	for _, t := range agent.tunnels {
		if t.agent == agent && t.client.session == nil && (oldest == nil || t.expires.Before(oldest.expires)) {
			oldest = t
		}
	}
	if oldest != nil {
		c.dropLocked(oldest, nil, noNews)
	}
}

// issueLocked gives the tunnel a new grant.
func (c *Coordinator) issueLocked(t *tunnel, now time.Time) {
	g := grant{
		client: t.client.key, agent: t.agent.key,
		user: t.identity.ID, principal: t.identity.Principal, workspace: t.workspace, token: t.identity.TokenID,
		issued: now, expires: notAfter(now.Add(proto.GrantLife), t.until),
	}
	t.grant = g.seal(c.cfg.GrantKey)
	t.expires = g.expires
	c.dueLocked(t, now)
}

// dueLocked sets when a right that was confirmed now is to be asked for again: when it
// ends by itself at the latest, whether or not its client is there by then.
func (c *Coordinator) dueLocked(t *tunnel, now time.Time) {
	t.recheckAt = notAfter(now.Add(renewInterval), t.until)
	if t.recheckAt.Sub(now) < tickInterval {
		select {
		case c.sooner <- struct{}{}:
		default:
		}
	}
}

// notAfter returns at, or the limit if that is earlier and not zero.
func notAfter(at, limit time.Time) time.Time {
	if !limit.IsZero() && limit.Before(at) {
		return limit
	}
	return at
}

// tellClientLocked sends the client what is known of the agent's node, with the grant.
func (c *Coordinator) tellClientLocked(t *tunnel) {
	if s := t.clientLive(); s != nil {
		c.upsertLocked(s, t.agent, t, "")
	}
}

// tellAgentLocked sends the agent what is known of the client's node, with the grant
// and the user behind it.
func (c *Coordinator) tellAgentLocked(t *tunnel) {
	s := t.agent.session
	if s == nil {
		return
	}
	generation := c.upsertLocked(s, t.client, t, t.identity.Principal)
	if t.client.node == nil {
		return
	}
	if t.sentTo != s || !bytes.Equal(t.sentDisco, t.client.node.GetDiscoKey()) {
		t.sentTo, t.sentDisco, t.need = s, t.client.node.GetDiscoKey(), generation
	}
}

func (c *Coordinator) upsertLocked(to *session, about *member, t *tunnel, principal string) uint64 {
	node := about.node
	if node == nil {
		node = &proto.Node{Key: about.key.Bytes()}
	}
	c.generation++
	to.send(topic{kind: topicPeer, node: about.key}, peerUpdate(&proto.PeerUpdate{
		Kind: proto.PeerUpdate_UPSERT, Node: node, Generation: c.generation,
		Principal: principal, Grant: t.grant,
	}))
	return c.generation
}

// noNews is for a peer that is removed because the other node left or has changed.
var noNews disconnect.Goodbye

// sendDropLocked tells a node to remove a peer, and why unless that is no news.
func (c *Coordinator) sendDropLocked(to *session, key proto.NodeKey, why disconnect.Goodbye) {
	c.generation++
	u := &proto.PeerUpdate{Kind: proto.PeerUpdate_DROP, Node: &proto.Node{Key: key.Bytes()}, Generation: c.generation}
	if why != noNews {
		u.Goodbye = wire.FromGoodbye(why)
	}
	to.send(topic{kind: topicPeer, node: key}, peerUpdate(u))
}

func peerUpdate(u *proto.PeerUpdate) *proto.CoordinateResponse {
	return &proto.CoordinateResponse{Response: &proto.CoordinateResponse_PeerUpdate{PeerUpdate: u}}
}

// dropLocked ends a tunnel and tells both sides, except the stream that asked for it.
func (c *Coordinator) dropLocked(t *tunnel, except *session, why disconnect.Goodbye) {
	delete(t.client.tunnels, t.agent.key)
	delete(t.agent.tunnels, t.client.key)
	if s := t.agent.session; s != nil && s != except {
		c.sendDropLocked(s, t.client.key, why)
	}
	if s := t.clientLive(); s != nil && s != except {
		c.sendDropLocked(s, t.agent.key, why)
	}
	c.forgetLocked(t.client)
	c.forgetLocked(t.agent)
}

// checkReadyLocked tells a waiting client to dial, once the agent has it installed
// and has said where it is itself.
func (c *Coordinator) checkReadyLocked(t *tunnel) {
	s, a := t.clientLive(), t.agent.session
	if !t.readyOwed || s == nil || a == nil || !a.selfSeen || t.sentTo != a || t.acked < t.need {
		return
	}
	t.readyOwed = false
	s.send(topic{}, &proto.CoordinateResponse{Response: &proto.CoordinateResponse_Ready{
		Ready: &proto.Ready{NodeKey: t.agent.key.Bytes()},
	}})
}

// admit makes a proved stream its node's live one. It reports false when the stream
// has ended meanwhile.
func (c *Coordinator) admit(s *session, key proto.NodeKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.key = key
	if _, ok := c.sessions[s]; !ok || s.ctx.Err() != nil {
		return false
	}
	m := c.memberLocked(key)
	if m.session != nil {
		c.replaceLocked(m.session)
	}
	c.changeOwnerLocked(m, s.id)
	m = c.memberLocked(key) // the change of owner may have forgotten it
	m.id, m.session, s.live = s.id, s, true
	if c.cfg.Admitted != nil {
		c.cfg.Admitted(s.id, key)
	}
	s.sendAdmittedLocked(c.now())
	if s.isAgent() {
		c.agentAdmittedLocked(s)
	}
	return true
}

// replaceLocked ends a stream in favour of a newer one of the same node or agent.
func (c *Coordinator) replaceLocked(old *session) {
	c.unliveLocked(old)
	old.end(&streamEnd{code: codes.Aborted, attribution: disconnect.Attribution{
		Reason: disconnect.NetworkError, Initiator: disconnect.Network,
		Detail: "a newer stream of the same identity took over",
	}})
}

// changeOwnerLocked ends the tunnels of a node that another identity now proves to
// be its own: a tunnel made for one user must never serve the next.
func (c *Coordinator) changeOwnerLocked(m *member, id control.Identity) {
	if m.id.Kind != id.Kind || m.id.ID != id.ID {
		m.node = nil
	}
	for _, t := range m.tunnels {
		asClient := t.client == m && id.Kind == control.ClientPeer && t.identity.ID == id.ID
		asAgent := t.agent == m && id.Kind == control.AgentPeer && t.workspace == id.ID
		if !asClient && !asAgent {
			c.dropLocked(t, nil, noNews)
		}
	}
}

// unliveLocked takes a stream out of the state; its tunnels stay.
func (c *Coordinator) unliveLocked(s *session) {
	delete(c.sessions, s)
	if !s.live {
		return
	}
	s.live = false
	if m := c.members[s.key]; m != nil && m.session == s {
		m.session = nil
		c.forgetLocked(m)
	}
	if rec := c.agents[s.id.ID]; s.isAgent() && rec != nil && rec.session == s {
		rec.session = nil
		rec.since = c.now()
	}
}

// sessionEnded takes an ended stream out of the state.
func (c *Coordinator) sessionEnded(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unliveLocked(s)
}

// updateSelf takes what a node says of itself and passes it to its peers.
func (c *Coordinator) updateSelf(s *session, node *proto.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.live {
		return
	}
	m := c.members[s.key]
	first := !s.selfSeen
	if !first && protobuf.Equal(m.node, node) {
		return
	}
	m.node, s.selfSeen = node, true
	for _, t := range m.tunnels {
		if t.client == m {
			c.tellAgentLocked(t)
			continue
		}
		c.tellClientLocked(t)
		if first { // an agent that came back, perhaps with nothing installed
			t.readyOwed = true
			c.tellAgentLocked(t)
		}
		c.checkReadyLocked(t)
	}
}

// installed notes that an agent has a client in its packet engine.
func (c *Coordinator) installed(s *session, client proto.NodeKey, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.live || !s.isAgent() {
		return // a client's acknowledgement concerns nobody
	}
	t := c.members[s.key].tunnels[client]
	if t == nil || t.agent.session != s || generation > c.generation {
		return
	}
	t.acked = max(t.acked, generation)
	c.checkReadyLocked(t)
}

// removeTunnel ends the tunnel between the stream's node and another.
func (c *Coordinator) removeTunnel(s *session, peer proto.NodeKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.live {
		return
	}
	if t := c.members[s.key].tunnels[peer]; t != nil {
		// The one who asked hears it too: an update of that peer may be on its way.
		c.dropLocked(t, nil, noNews)
	}
}

// leave ends a stream in order, as its node asked. A client takes its tunnels with
// it; an agent's stay, for its clients wait for its return.
func (c *Coordinator) leave(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.live && !s.isAgent() {
		for _, t := range c.members[s.key].tunnels {
			c.dropLocked(t, s, noNews)
		}
	}
	c.unliveLocked(s)
	s.end(&streamEnd{code: codes.OK, attribution: disconnect.Attribution{
		Reason: disconnect.Graceful, Initiator: s.party(), Detail: "the node left in order",
	}})
}
