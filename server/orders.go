package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// evictionSlack is how long after the deadline of a platform's notice an end of the
// agent still counts as the platform's doing.
const evictionSlack = 2 * time.Minute

// orders knows what each workspace's agent is to do: what the database says of the
// workspace, and what is to end now. Whoever changes the former calls changed. All
// methods are safe for concurrent use.
type orders struct {
	store *store.Store
	now   func() time.Time
	// What counts for a workspace without a policy of its own; 0: never.
	idleTimeout, sessionLimit time.Duration
	// changed has a workspace's agent ask anew what it is to do, soon.
	changed func(workspaceID string)

	mu      sync.Mutex              // guards all below
	pending map[string]*pending     // by workspace id
	notices map[string]store.Notice // by workspace id, as the database last told
	lost    map[string]lostLink     // by workspace id: the last that judge called evicted
}

// pending is what an agent is to be told beside what the database says.
type pending struct {
	ends    map[string]disconnect.Goodbye // by connection id, until their end was reported
	deleted disconnect.Goodbye            // not zero: the workspace is being deleted
}

func newOrders(db *store.Store, opts Options, changed func(workspaceID string)) *orders {
	return &orders{
		store: db, now: opts.Now, idleTimeout: opts.IdleTimeout, sessionLimit: opts.SessionLimit, changed: changed,
		pending: make(map[string]*pending), notices: make(map[string]store.Notice),
		lost: make(map[string]lostLink),
	}
}

// pendingLocked returns what is pending for a workspace, made if need be.
func (o *orders) pendingLocked(workspaceID string) *pending {
	p := o.pending[workspaceID]
	if p == nil {
		p = &pending{ends: make(map[string]disconnect.Goodbye)}
		o.pending[workspaceID] = p
	}
	return p
}

// doneLocked forgets what nobody needs any more.
func (o *orders) doneLocked(workspaceID string) {
	if p := o.pending[workspaceID]; p != nil && len(p.ends) == 0 && p.deleted == (disconnect.Goodbye{}) {
		delete(o.pending, workspaceID)
	}
}

// end has a workspace's agent end one connection.
func (o *orders) end(workspaceID, connectionID string, g disconnect.Goodbye) {
	o.mu.Lock()
	o.pendingLocked(workspaceID).ends[connectionID] = g
	o.mu.Unlock()
	o.changed(workspaceID)
}

// ended takes note that a connection has ended.
func (o *orders) ended(workspaceID, connectionID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.pending[workspaceID]; p != nil {
		delete(p.ends, connectionID)
		o.doneLocked(workspaceID)
	}
}

// deleting has the agent of a workspace that is being deleted end all sessions, until
// over is called.
func (o *orders) deleting(workspaceID string, g disconnect.Goodbye) (over func()) {
	set := func(g disconnect.Goodbye) {
		o.mu.Lock()
		o.pendingLocked(workspaceID).deleted = g
		o.doneLocked(workspaceID)
		o.mu.Unlock()
		o.changed(workspaceID)
	}
	set(g)
	return func() { set(disconnect.Goodbye{}) }
}

// current returns all that a workspace's agent is to do now.
func (o *orders) current(ctx context.Context, workspaceID string) (*proto.Orders, error) {
	ws, err := o.store.WorkspaceByID(ctx, workspaceID)
	if err != nil {
		return nil, err
	}
	out := &proto.Orders{Policy: o.policy(ws.Orders).proto(), Notice: o.notice(workspaceID, ws.Orders.Notice)}
	if at := ws.Orders.StoppedAt; !at.IsZero() {
		out.Stopped = &proto.Orders_Stop{Goodbye: wire.FromGoodbye(stoppedBy("stopped by " + ws.Orders.StoppedBy))}
	}
	if err := o.forgetEnded(ctx, workspaceID); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pending[workspaceID]
	if p == nil {
		return out, nil
	}
	if p.deleted != (disconnect.Goodbye{}) {
		out.Stopped = &proto.Orders_Stop{Goodbye: wire.FromGoodbye(p.deleted)}
	}
	for _, text := range slices.Sorted(maps.Keys(p.ends)) {
		id, g := uuid.MustParse(text), p.ends[text]
		out.Ends = append(out.Ends, &proto.Orders_End{Id: id[:], Goodbye: wire.FromGoodbye(g)})
	}
	return out, nil
}

// forgetEnded drops what has ended without being told of: a row that was closed before,
// and open again.
func (o *orders) forgetEnded(ctx context.Context, workspaceID string) error {
	o.mu.Lock()
	var ids []string
	if p := o.pending[workspaceID]; p != nil {
		ids = slices.Collect(maps.Keys(p.ends))
	}
	o.mu.Unlock()
	for _, id := range ids {
		rows, err := o.store.Connections(ctx, store.ConnFilter{IDPrefix: id, Limit: 1})
		if err != nil {
			return err
		}
		if len(rows) == 1 && rows[0].Status == store.StatusClosed {
			o.ended(workspaceID, id)
		}
	}
	return nil
}

// stoppedBy is what everybody in a workspace is told that was stopped or deleted.
func stoppedBy(detail string) disconnect.Goodbye {
	return disconnect.Goodbye{Reason: disconnect.WorkspaceStopped, Initiator: disconnect.Server, Detail: disconnect.Scrub(detail)}
}

// notice returns what the agent is told of a platform's notice, nil if it is over, and
// remembers it for evicted.
func (o *orders) notice(workspaceID string, n store.Notice) *proto.Orders_Notice {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if n.Kind == "" || now.After(n.Deadline.Add(evictionSlack)) {
		delete(o.notices, workspaceID)
		return nil
	}
	o.notices[workspaceID] = n
	return &proto.Orders_Notice{
		Kind: n.Kind, Deadline: timestamppb.New(n.Deadline),
		Covers: durationpb.New(n.Deadline.Add(evictionSlack).Sub(now).Truncate(time.Second)), Goodbye: wire.FromGoodbye(evictedBy(n)),
	}
}

// evictedBy is how what a platform gave notice of ends.
func evictedBy(n store.Notice) disconnect.Goodbye {
	return disconnect.Goodbye{
		Reason: disconnect.WorkspaceEvicted, Initiator: disconnect.Server,
		Detail: fmt.Sprintf("%s: the platform gave notice for %s", n.Kind, n.Deadline.UTC().Format(time.RFC3339)),
	}
}

// judge returns how the link of a workspace's agent ended at that time: an end that a
// notice told of before is the platform's doing, and no other is.
func (o *orders) judge(workspaceID string, at time.Time, e control.Ending) control.Ending {
	o.mu.Lock()
	n, given := o.notices[workspaceID]
	o.mu.Unlock()
	covered := given && !at.Before(n.At) && !at.After(n.Deadline.Add(evictionSlack))
	switch {
	case covered && ownEnd(e.Attribution):
		return control.Ending{Attribution: evictedBy(n).On(disconnect.ServerToAgent), Goodbye: true}
	case !covered && e.Reason == disconnect.WorkspaceEvicted:
		e.Reason, e.Initiator = disconnect.ServerShutdown, disconnect.Agent
	}
	return e
}

// lostLink is a link that ended during a platform's notice. If the same process comes
// back, that was not the end of it.
type lostLink struct {
	row      *connlog.LinkRow
	instance string
	ending   disconnect.Attribution // by its own account
}

// evicted remembers the row of a link that judge called evicted, and how it ended by its
// own account.
func (o *orders) evicted(workspaceID string, l lostLink) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost[workspaceID] = l
}

// returned returns the link that a process lost during a notice and survived, if it is
// the one that is back.
func (o *orders) returned(workspaceID, instance string) (lostLink, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l, ok := o.lost[workspaceID]
	delete(o.lost, workspaceID)
	return l, ok && l.instance == instance
}

// judgeReport is judge for what an agent says of a connection: that it stopped, before it
// heard of the notice, or that its former life died. The time is by the server's clock.
func (o *orders) judgeReport(workspaceID string, at time.Time, a disconnect.Attribution) disconnect.Attribution {
	if a.Initiator != disconnect.Agent || a.Reason != disconnect.PeerCrashed && a.Reason != disconnect.ServerShutdown {
		return a
	}
	return o.judge(workspaceID, at, control.Ending{Attribution: a}).On(disconnect.AgentToClient)
}

// ownEnd reports whether a link may have ended so because the agent's host went.
func ownEnd(a disconnect.Attribution) bool {
	switch a.Reason {
	case disconnect.ServerShutdown:
		return a.Initiator == disconnect.Agent
	case disconnect.WorkspaceEvicted, disconnect.PeerCrashed, disconnect.NetworkError, disconnect.NetworkTimeout,
		disconnect.ConnectionReset, disconnect.NetworkUnreachable:
		return true
	}
	return false
}
