package coordinator

import (
	"context"
	"errors"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

// renewLoop keeps relay tokens and grants from lapsing, asks again for rights that
// could not be decided, and ends streams that nobody reads.
func (c *Coordinator) renewLoop() {
	timer := time.NewTimer(tickInterval)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.sooner:
		case <-timer.C:
		}
		due, wait := c.renewStreams()
		for _, t := range due {
			_ = c.recheck(c.ctx, t) // it has logged what failed
		}
		timer.Reset(wait)
	}
}

// lapsed is what a node is told whose peer has not been with the server for so long
// that its grant has lapsed.
var lapsed = disconnect.Goodbye{
	Reason: disconnect.AuthExpired, Initiator: disconnect.Server,
	Detail: "the permission was not renewed in time",
}

// renewStreams renews what needs no question. It returns the tunnels whose right is to
// be asked for, and for how long nothing else is due.
func (c *Coordinator) renewStreams() (due []*tunnel, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for s := range c.sessions {
		if s.out.stalled(now) > stallTimeout {
			s.slowEnd("a message was not taken for " + stallTimeout.String())
		} else if s.live && !now.Before(s.tokenRenewAt) {
			s.sendAdmittedLocked(now)
		}
	}
	for id, rec := range c.agents {
		if rec.session == nil && now.Sub(rec.since) > proto.GrantLife && !rec.presence.GetOnline() {
			delete(c.agents, id) // nobody can have a tunnel to it any more
		}
	}
	wait = tickInterval
	for _, m := range c.members {
		for _, t := range m.tunnels {
			switch {
			case t.client != m: // seen from the other side
			case !now.Before(t.recheckAt): // before it lapses, for the answer tells why it ends
				due = append(due, t)
			case !now.Before(t.expires):
				c.dropLocked(t, nil, lapsed)
			default:
				wait = min(wait, t.recheckAt.Sub(now), t.expires.Sub(now))
			}
		}
	}
	return due, max(wait, tickLeast)
}

// recheckCount is what recheckIfStale compares with: taken before a right is asked for.
func (c *Coordinator) recheckCount() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rechecks
}

// recheckIfStale asks again for the right behind a new tunnel if some right was
// withdrawn since it was asked for: the Recheck that followed did not find the tunnel.
func (c *Coordinator) recheckIfStale(t *tunnel, asked uint64) {
	if t != nil && c.recheckCount() != asked {
		_ = c.recheck(c.ctx, t) // it has logged what failed, and asks again soon
	}
}

// Recheck asks again for the rights behind the tunnels of a user, or of everyone
// (userID ""), to a workspace, or to all (workspaceID ""), and ends those that no
// longer exist. Call it after rights were withdrawn. An error means that some could
// not be decided; those stay, and are asked for again soon.
func (c *Coordinator) Recheck(ctx context.Context, userID, workspaceID string) error {
	var due []*tunnel
	c.mu.Lock()
	c.rechecks++
	for _, m := range c.members {
		for _, t := range m.tunnels {
			if t.client == m && (userID == "" || t.identity.ID == userID) && (workspaceID == "" || t.workspace == workspaceID) {
				due = append(due, t)
			}
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, t := range due {
		errs = append(errs, c.recheck(ctx, t))
	}
	return errors.Join(errs...)
}

// EndTunnels ends every tunnel to a workspace's agent, and tells both sides why. Call it
// when the agent is no longer to be trusted, or the workspace is gone.
func (c *Coordinator) EndTunnels(workspaceID string, why disconnect.Goodbye) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rechecks++ // who is about to make one has to ask again
	for _, m := range c.members {
		for _, t := range m.tunnels {
			if t.client == m && t.workspace == workspaceID {
				c.dropLocked(t, nil, why)
			}
		}
	}
}

// recheck asks for the right behind one tunnel, and renews or ends it.
func (c *Coordinator) recheck(ctx context.Context, t *tunnel) error {
	c.mu.Lock()
	identity, workspace := t.identity, t.workspace
	c.mu.Unlock()
	right, err := c.authorize(ctx, identity, workspace)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.client.tunnels[t.agent.key] != t || t.identity.ID != identity.ID {
		return nil // ended, or became another's, meanwhile
	}
	if errors.Is(err, ErrNotFound) || err == nil && right.WorkspaceID != workspace {
		c.dropLocked(t, nil, withdrawn(err))
		return nil
	}
	if err != nil {
		c.logger.Error("authorize tunnel again failed", "peer_id", identity.ID, "error", err)
	}
	c.renewLocked(t, right, err == nil)
	return err
}
