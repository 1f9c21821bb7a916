package coordinator

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

// agentRecord is what is known of the life of one workspace's agent. It is kept
// after the agent left, to tell how it did. All fields are guarded by Coordinator.mu.
type agentRecord struct {
	session  *session // live stream; nil: none
	since    time.Time
	key      proto.NodeKey   // of the last stream
	link     caller          // of the last stream
	presence *proto.Presence // the last word to clients; never changed in place
}

// agentAdmittedLocked takes note of an agent's stream: the newer one replaces the
// older, whatever its key, and clients hear that the agent is there.
func (c *Coordinator) agentAdmittedLocked(s *session) {
	rec := c.agents[s.id.ID]
	if rec == nil {
		rec = &agentRecord{}
		c.agents[s.id.ID] = rec
	}
	if rec.session != nil {
		c.replaceLocked(rec.session)
	}
	newKey := rec.key != s.key
	if newKey {
		c.dropOldKeyLocked(rec.key, s.id.ID)
	}
	if rec.link != nil && rec.link != s.link {
		select {
		case <-rec.link.Done(): // how it ended must be told before the return is
			c.agentGoneLocked(s.id.ID, rec)
		default:
		}
	}
	watched := rec.link == s.link
	rec.session, rec.since, rec.key, rec.link = s, c.now(), s.key, s.link
	if old := rec.presence; newKey || !old.GetOnline() || old.GetInstanceId() != s.instance {
		rec.presence = &proto.Presence{
			NodeKey: s.key.Bytes(), InstanceId: s.instance, Online: true, At: timestamppb.New(rec.since),
		}
		c.tellPresenceLocked(rec)
	}
	if !watched {
		workspace, link := s.id.ID, s.link
		context.AfterFunc(link.Context(), func() { c.linkEnded(workspace, link) })
	}
}

// dropOldKeyLocked ends the tunnels to a node key that a workspace's agent no longer
// has; nobody can come back under it.
func (c *Coordinator) dropOldKeyLocked(key proto.NodeKey, workspace string) {
	m := c.members[key]
	if m == nil {
		return
	}
	for _, t := range m.tunnels {
		if t.agent == m && t.workspace == workspace {
			c.dropLocked(t, nil, noNews)
		}
	}
}

// linkEnded is called when an agent's control link has ended. The link tells how; a
// stream's error could not.
func (c *Coordinator) linkEnded(workspace string, link caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rec := c.agents[workspace]; rec != nil && rec.link == link && !c.closed {
		c.agentGoneLocked(workspace, rec)
	}
}

// agentGoneLocked tells clients how their agent's link ended, once.
func (c *Coordinator) agentGoneLocked(workspace string, rec *agentRecord) {
	if !rec.presence.GetOnline() {
		return
	}
	ending := rec.link.Ending()
	if c.cfg.Judge != nil {
		ending = c.cfg.Judge(workspace, c.now(), ending)
	}
	rec.presence = &proto.Presence{
		NodeKey: rec.key.Bytes(), InstanceId: rec.presence.GetInstanceId(),
		Ending: wire.FromAttribution(ending.On(disconnect.ServerToAgent)),
		// A goodbye of the server's own is no word of the agent; a platform's notice is as good.
		Goodbye: ending.Goodbye && (ending.Initiator != disconnect.Server || ending.Reason == disconnect.WorkspaceEvicted),
		At:      timestamppb.New(c.now()),
	}
	c.tellPresenceLocked(rec)
}

func (c *Coordinator) tellPresenceLocked(rec *agentRecord) {
	m := c.members[rec.key]
	if m == nil {
		return
	}
	for _, t := range m.tunnels {
		if s := t.clientLive(); t.agent == m && s != nil {
			s.sendPresence(rec.presence)
		}
	}
}

// sendPresence tells a client the last word about its agent, nil: nothing.
func (s *session) sendPresence(p *proto.Presence) {
	if p == nil {
		return
	}
	key, err := proto.ParseNodeKey(p.GetNodeKey())
	if err != nil {
		return
	}
	s.send(topic{kind: topicPresence, node: key, instance: p.GetInstanceId()}, &proto.CoordinateResponse{
		Response: &proto.CoordinateResponse_Presence{Presence: p},
	})
}
