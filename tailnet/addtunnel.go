package tailnet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

// tunnelWaiter is one AddTunnel that has not returned. Its tunnel is written before
// it moves from byReply to byReady; done receives one result.
type tunnelWaiter struct {
	workspace string
	tunnel    Tunnel
	done      chan error
}

// AddTunnel asks for a tunnel to the agent of a workspace, named by name or id, and
// waits until that agent has this node installed: then dialling it works at once. A
// refusal is a [*RefusedError]; when the stream ends first, the error is
// [ErrCoordinationEnded]. Asking again for a tunnel that exists is no error.
func (c *BasicCoordination) AddTunnel(ctx context.Context, workspace string) (Tunnel, error) {
	if len(workspace) > proto.MaxWorkspaceText {
		return Tunnel{}, &RefusedError{
			Workspace: disconnect.Scrub(workspace), Code: proto.Refusal_INVALID, Message: "the name is too long",
		}
	}
	w := &tunnelWaiter{workspace: workspace, done: make(chan error, 1)}
	c.mu.Lock()
	c.byReply[workspace] = append(c.byReply[workspace], w)
	c.queue = append(c.queue, &proto.CoordinateRequest{Request: &proto.CoordinateRequest_AddTunnel{
		AddTunnel: &proto.AddTunnel{Workspace: workspace},
	}})
	c.mu.Unlock()
	c.poke()
	select {
	case err := <-w.done:
		if err != nil {
			return Tunnel{}, err
		}
		return w.tunnel, nil
	case <-c.ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.endErr != nil {
			return Tunnel{}, fmt.Errorf("add tunnel: %w: %w", ErrCoordinationEnded, c.endErr)
		}
		return Tunnel{}, fmt.Errorf("add tunnel: %w", ErrCoordinationEnded)
	case <-ctx.Done():
		c.forgetWaiter(w)
		return Tunnel{}, fmt.Errorf("add tunnel: %w", context.Cause(ctx))
	}
}

// RemoveTunnel gives a tunnel back: the peer is removed here and, by the server, there.
func (c *BasicCoordination) RemoveTunnel(key proto.NodeKey) {
	c.cfg.Book.drop(key, c.cfg.Node.RemovePeer, disconnect.Goodbye{})
	c.enqueue(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_RemoveTunnel{
		RemoveTunnel: &proto.RemoveTunnel{NodeKey: key.Bytes()},
	}})
}

func (c *BasicCoordination) forgetWaiter(w *tunnelWaiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byReply[w.workspace] = slices.DeleteFunc(c.byReply[w.workspace], func(o *tunnelWaiter) bool { return o == w })
	if len(c.byReply[w.workspace]) == 0 {
		delete(c.byReply, w.workspace)
	}
	if waiting := c.byReady[w.tunnel.Key]; waiting != nil {
		waiting = slices.DeleteFunc(waiting, func(o *tunnelWaiter) bool { return o == w })
		c.byReady[w.tunnel.Key] = waiting
		if len(waiting) == 0 {
			delete(c.byReady, w.tunnel.Key)
		}
	}
}

// replied passes the server's answer to everyone who asks for that workspace now; it
// is as good for all of them.
func (c *BasicCoordination) replied(r *proto.TunnelReply) error {
	refused := refusal(r)
	var key proto.NodeKey
	if refused == nil {
		var err error
		if key, err = proto.ParseNodeKey(r.GetNodeKey()); err != nil {
			return fmt.Errorf("coordinate: tunnel reply: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.byReply[r.GetWorkspace()]
	delete(c.byReply, r.GetWorkspace())
	for _, w := range waiting {
		if refused != nil {
			w.done <- refused
			continue
		}
		w.tunnel = Tunnel{Key: key, SSHHostKey: disconnect.ScrubTo(r.GetSshHostKey(), maxHostKeyText)}
		c.byReady[key] = append(c.byReady[key], w)
	}
	return nil
}

// maxHostKeyText is the room for an SSH public key's text, in bytes: RSA of 16384
// bits has 2800.
const maxHostKeyText = 4096

func refusal(r *proto.TunnelReply) error {
	ref := r.GetRefusal()
	if ref == nil {
		return nil
	}
	e := &RefusedError{
		Workspace: disconnect.Scrub(r.GetWorkspace()), Code: ref.GetCode(),
		Message: disconnect.Scrub(ref.GetMessage()), Ending: wire.ToAttribution(ref.GetEnding()),
	}
	if since := ref.GetOfflineSince(); since.IsValid() {
		e.Since = since.AsTime()
	}
	return e
}

// resolve ends the wait for an agent: it is ready, or refused tells why it will not be.
func (c *BasicCoordination) resolve(key proto.NodeKey, refused *RefusedError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.byReady[key] {
		if refused == nil {
			w.done <- nil
			continue
		}
		own := *refused
		own.Workspace = disconnect.Scrub(w.workspace)
		w.done <- &own
	}
	delete(c.byReady, key)
}

// withdrawn ends the wait for an agent whose tunnel the server has taken back.
func (c *BasicCoordination) withdrawn(key proto.NodeKey) {
	c.resolve(key, &RefusedError{
		Code: proto.Refusal_AGENT_OFFLINE, Message: "the server took the tunnel back", Since: time.Now(),
	})
}

// presence passes on what the server knows of an agent's life; whoever still waits
// for an agent that is gone need not wait longer.
func (c *BasicCoordination) presence(p *proto.Presence) error {
	key, err := proto.ParseNodeKey(p.GetNodeKey())
	if err != nil {
		return fmt.Errorf("coordinate: presence: %w", err)
	}
	if !p.GetOnline() {
		gone := &RefusedError{
			Code: proto.Refusal_AGENT_OFFLINE, Message: "the workspace's agent went away",
			Ending: wire.ToAttribution(p.GetEnding()), Since: time.Now(),
		}
		if p.GetAt().IsValid() {
			gone.Since = p.GetAt().AsTime()
		}
		c.resolve(key, gone)
	}
	if c.cfg.OnPresence != nil {
		c.cfg.OnPresence(p)
	}
	return nil
}
