package coordinator

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

// addTunnel answers a client that asks for the agent of a workspace.
func (c *Coordinator) addTunnel(s *session, workspace string) {
	if refusal := c.tryTunnel(s, workspace); refusal != nil {
		s.send(topic{}, tunnelReply(&proto.TunnelReply{Workspace: workspace, Refusal: refusal}))
	}
}

func (c *Coordinator) tryTunnel(s *session, workspace string) *proto.Refusal {
	if s.isAgent() {
		return refuse(proto.Refusal_INVALID, "an agent may not ask for tunnels")
	}
	if workspace == "" {
		return refuse(proto.Refusal_INVALID, "the workspace's name is empty")
	}
	asked := c.recheckCount()
	right, err := c.authorize(s.ctx, s.id, workspace)
	if errors.Is(err, ErrNotFound) {
		return refuse(proto.Refusal_NOT_FOUND, ErrNotFound.Error())
	}
	if err != nil {
		c.logger.Error("authorize tunnel failed", "peer_id", s.id.ID, "error", err)
		return refuse(proto.Refusal_INTERNAL, "the server could not look the workspace up")
	}
	t, refusal := c.openTunnel(s, workspace, right)
	c.recheckIfStale(t, asked)
	return refusal
}

// openTunnel makes the tunnel of an authorized client and tells both sides, or says
// why there is none.
func (c *Coordinator) openTunnel(s *session, workspace string, right Right) (*tunnel, *proto.Refusal) {
	c.mu.Lock()
	rec := c.agents[right.WorkspaceID]
	if rec == nil || rec.session == nil {
		var last *proto.Presence
		if rec != nil {
			last = rec.presence
		}
		c.mu.Unlock()
		return nil, c.refuseOffline(s.ctx, right.WorkspaceID, last)
	}
	defer c.mu.Unlock()
	if !s.live {
		return nil, nil // nobody listens any more
	}
	agent := rec.session.key
	known := c.members[s.key].tunnels[agent] != nil
	if !known {
		c.makeRoomLocked(c.members[agent])
	}
	if agent == s.key || !known && (c.fullLocked(c.members[s.key]) || c.fullLocked(c.members[agent])) {
		return nil, refuse(proto.Refusal_INVALID, "this node, or the agent, has too many tunnels")
	}
	t := c.tunnelLocked(s.key, agent)
	t.identity, t.workspace, t.asked, t.readyOwed = s.id, right.WorkspaceID, s, true
	t.until = right.Until
	c.issueLocked(t, c.now())
	c.tellClientLocked(t)
	s.send(topic{}, tunnelReply(&proto.TunnelReply{
		Workspace: workspace, NodeKey: agent.Bytes(), SshHostKey: right.HostKey,
	}))
	s.sendPresence(rec.presence)
	c.tellAgentLocked(t)
	c.checkReadyLocked(t) // the agent may have it installed since earlier
	return t, nil
}

// refuseOffline says since when, and by what ending, the agent is away, as far as
// anyone knows.
func (c *Coordinator) refuseOffline(ctx context.Context, id string, last *proto.Presence) *proto.Refusal {
	r := refuse(proto.Refusal_AGENT_OFFLINE, "the workspace's agent is not connected")
	if last != nil && !last.GetOnline() {
		r.OfflineSince, r.Ending = last.GetAt(), last.GetEnding()
		return r
	}
	if c.cfg.Offline == nil {
		return r
	}
	if since, ending, ok := c.cfg.Offline(ctx, id); ok {
		if !since.IsZero() {
			r.OfflineSince = timestamppb.New(since)
		}
		if !ending.IsZero() {
			r.Ending = wire.FromAttribution(ending)
		}
	}
	return r
}

func (c *Coordinator) authorize(ctx context.Context, id control.Identity, workspace string) (Right, error) {
	if c.cfg.Authorize == nil {
		return Right{}, ErrNotFound
	}
	return c.cfg.Authorize(ctx, id, workspace)
}

func refuse(code proto.Refusal_Code, message string) *proto.Refusal {
	return &proto.Refusal{Code: code, Message: message}
}

func tunnelReply(r *proto.TunnelReply) *proto.CoordinateResponse {
	return &proto.CoordinateResponse{Response: &proto.CoordinateResponse_TunnelReply{TunnelReply: r}}
}

// announce answers each peer that a node says it has installed: keep or drop.
func (c *Coordinator) announce(s *session, peers []*proto.AnnouncedPeer) error {
	if len(peers) > maxAnnounced {
		return fmt.Errorf("announce: %d peers, at most %d", len(peers), maxAnnounced)
	}
	for _, p := range peers {
		key, err := proto.ParseNodeKey(p.GetNodeKey())
		if err != nil {
			return fmt.Errorf("announce: %w", err)
		}
		if s.asks.Wait(s.ctx) != nil {
			return nil // the stream has ended
		}
		c.announced(s, key, p.GetGrant())
	}
	return nil
}

// announced decides about one announced peer.
func (c *Coordinator) announced(s *session, peer proto.NodeKey, sealed []byte) {
	g, ok := c.checkGrant(s, peer, sealed)
	if !ok {
		c.answerUnproved(s, peer)
		return
	}
	id := s.id
	if s.isAgent() {
		id = control.Identity{Kind: control.ClientPeer, ID: g.user, Principal: g.principal, TokenID: g.token}
	}
	asked := c.recheckCount()
	right, err := c.authorize(s.ctx, id, g.workspace)
	switch {
	case errors.Is(err, ErrNotFound) || err == nil && right.WorkspaceID != g.workspace:
		c.withdraw(s, peer, withdrawn(err))
		return
	case err != nil:
		c.logger.Error("authorize announced peer failed", "peer_id", s.id.ID, "error", err)
	}
	t := c.keep(s, g, id, sealed, right, err == nil)
	c.recheckIfStale(t, asked)
}

// checkGrant reads the grant that s announces for its peer.
func (c *Coordinator) checkGrant(s *session, peer proto.NodeKey, b []byte) (grant, bool) {
	g, err := openGrant(c.cfg.GrantKey, b, c.now())
	if err != nil {
		return grant{}, false
	}
	if s.isAgent() {
		return g, g.agent == s.key && g.client == peer && g.workspace == s.id.ID
	}
	return g, g.client == s.key && g.agent == peer && g.user == s.id.ID
}

// keep re-establishes the tunnel of a grant that s announced, and returns it if there
// is one now.
func (c *Coordinator) keep(s *session, g grant, id control.Identity, sealed []byte, right Right, confirmed bool) *tunnel {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.live {
		return nil
	}
	if !c.fitsLocked(g) {
		c.answerUnprovedLocked(s, otherOf(s, g))
		return nil
	}
	t := c.tunnelLocked(g.client, g.agent)
	if t.workspace == "" || !s.isAgent() {
		t.identity, t.workspace = id, g.workspace
	}
	if t.grant == nil || t.expires.Before(g.expires) {
		t.grant, t.expires = sealed, g.expires
	}
	if !s.isAgent() {
		t.asked = s
	}
	c.renewLocked(t, right, confirmed)
	if rec := c.agents[t.workspace]; !s.isAgent() && rec != nil {
		s.sendPresence(rec.presence)
	}
	return t
}

func otherOf(s *session, g grant) proto.NodeKey {
	if s.isAgent() {
		return g.client
	}
	return g.agent
}

// fitsLocked reports whether a grant agrees with what is known of its two nodes now.
func (c *Coordinator) fitsLocked(g grant) bool {
	if rec := c.agents[g.workspace]; rec != nil && rec.session != nil && rec.session.key != g.agent {
		return false // the workspace's agent has another node key today
	}
	client, agent := c.members[g.client], c.members[g.agent]
	if client != nil && client.session != nil && (client.id.Kind != control.ClientPeer || client.id.ID != g.user) {
		return false // another user proved that key to be theirs
	}
	if client != nil && client.tunnels[g.agent] != nil {
		t := client.tunnels[g.agent]
		return t.identity.ID == g.user && t.workspace == g.workspace
	}
	return !c.fullLocked(client) && !c.fullLocked(agent)
}

// renewLocked gives a tunnel whose right was confirmed a new grant, and sends it to
// whoever of the two is there. Without its client a tunnel keeps the grant that it
// has, so that the peers of clients that died lapse at their agents. So does a
// tunnel whose right could not be asked for; that is tried again soon.
func (c *Coordinator) renewLocked(t *tunnel, right Right, confirmed bool) {
	now := c.now()
	switch {
	case !confirmed:
		t.recheckAt = now.Add(recheckInterval)
	case t.clientLive() != nil:
		t.until = right.Until
		c.issueLocked(t, now)
	default:
		t.until = right.Until
		c.dueLocked(t, now)
	}
	c.tellClientLocked(t)
	c.tellAgentLocked(t)
}

// answerUnproved answers an announced peer whose grant proves nothing.
func (c *Coordinator) answerUnproved(s *session, peer proto.NodeKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.live {
		c.answerUnprovedLocked(s, peer)
	}
}

// answerUnprovedLocked drops the peer, unless the two have a tunnel all the same.
func (c *Coordinator) answerUnprovedLocked(s *session, peer proto.NodeKey) {
	t := c.members[s.key].tunnels[peer]
	switch {
	case t == nil:
		c.sendDropLocked(s, peer, noNews)
	case s.isAgent():
		c.tellAgentLocked(t)
	default:
		t.asked = s
		c.tellClientLocked(t)
	}
}

// withdrawn is what to tell about a right that Authorize denies: what its error says,
// if it does.
func withdrawn(denied error) disconnect.Goodbye {
	if a, ok := disconnect.FromError(denied); ok {
		return a.Goodbye()
	}
	return disconnect.Goodbye{
		Reason: disconnect.AuthRevoked, Initiator: disconnect.Server,
		Detail: "the right to reach this workspace was withdrawn",
	}
}

// withdraw drops an announced peer that may not be one any more, on both sides.
func (c *Coordinator) withdraw(s *session, peer proto.NodeKey, why disconnect.Goodbye) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.live {
		return
	}
	if t := c.members[s.key].tunnels[peer]; t != nil {
		c.dropLocked(t, s, why)
	}
	c.sendDropLocked(s, peer, why)
}
