package connlog

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

const (
	// cleanEvery is how often what is too old is looked for, cleanPause the time between
	// two batches of it: others want to write too.
	cleanEvery = time.Hour
	cleanPause = 100 * time.Millisecond
	// cleanBatch is how many rows one batch deletes.
	cleanBatch = 500
)

// silence is an agent that is not heard: its rows are unheard until it announces what
// lives, or its lease is over.
type silence struct {
	since  time.Time // by the server's clock
	ending disconnect.Attribution

	// What follows is guarded by Log.mu.
	until  time.Time // by the process' clock
	marked bool      // its rows are unheard; the lease does not end before
}

// AgentLost begins the lease of an agent whose control link has ended. It does not wait.
func (l *Log) AgentLost(workspaceID string, at time.Time, ending disconnect.Attribution) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent[workspaceID] = &silence{since: at, ending: ending, until: time.Now().Add(l.cfg.Lease)}
	tell(l.written)
}

// silenceOf returns the silence of an agent; nil: it is heard.
func (l *Log) silenceOf(workspaceID string) *silence {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.silent[workspaceID]
}

// heard ends the silence s of an agent, unless another has begun.
func (l *Log) heard(workspaceID string, s *silence) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silent[workspaceID] == s {
		delete(l.silent, workspaceID)
	}
}

// tend ends leases and deletes what is too old, until Close.
func (l *Log) tend() {
	lease, clean := time.NewTimer(0), time.NewTimer(cleanPause)
	defer lease.Stop()
	defer clean.Stop()
	if l.cfg.Retention <= 0 {
		clean.Stop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-l.done:
			return
		case <-l.leased:
		case <-lease.C:
			l.endLeases(ctx)
		case <-clean.C:
			clean.Reset(l.clean(ctx))
		}
		if d, any := l.nextLease(); any {
			lease.Reset(d)
		}
	}
}

// nextLease tells when the next lease is over.
func (l *Log) nextLease() (d time.Duration, any bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.silent {
		if left := time.Until(s.until); s.marked && (!any || left < d) {
			d, any = left, true
		}
	}
	return max(0, d), any
}

// endLeases closes, provisionally, the rows of the agents whose lease is over.
func (l *Log) endLeases(ctx context.Context) {
	over := map[string]*silence{}
	l.mu.Lock()
	for workspace, s := range l.silent {
		if s.marked && time.Until(s.until) <= 0 {
			over[workspace] = s
		}
	}
	l.mu.Unlock()
	for workspace, s := range over {
		err := l.write(ctx, func(ctx context.Context, tx *store.ConnTx) ([]store.Connection, error) {
			return closeSilent(ctx, tx, workspace, s, l.cfg.Lease)
		})
		if err == nil {
			l.heard(workspace, s) // there is nothing left to close
			continue
		}
		select {
		case <-l.done:
			return
		default:
		}
		l.cfg.Logger.Error("cannot close the connections of a silent agent yet", "workspace_id", workspace, "error", err)
		l.mu.Lock()
		s.until = time.Now().Add(retryOwn)
		l.mu.Unlock()
	}
}

// closeSilent closes what a silent agent had open: when it was last heard, for the reason
// that its own link ended for if somebody said so. What it has announced meanwhile is not
// unheard any more.
func closeSilent(ctx context.Context, tx *store.ConnTx, workspaceID string, s *silence, lease time.Duration) ([]store.Connection, error) {
	ending := s.ending
	if !declared(ending) {
		ending = disconnect.Attribution{
			Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
			Detail: fmt.Sprintf("nothing was heard of the agent for %v", lease),
		}
	}
	rows, err := tx.Live(ctx, workspaceID, disconnect.AgentToClient)
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(c store.Connection) bool { return c.Status != store.StatusUnheard })
	for i := range rows {
		closeRow(&rows[i], s.since, ending)
		rows[i].Provisional = true
		if err := tx.Update(ctx, &rows[i]); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// declared reports whether the ending of an agent's link ends its connections too: the
// agent said that it stops, or was told to. A server that stops leaves them alone.
func declared(e disconnect.Attribution) bool {
	switch e.Initiator {
	case disconnect.Agent:
		return e.Expected()
	case disconnect.Server:
		switch e.Reason {
		case disconnect.AuthRevoked, disconnect.WorkspaceStopped, disconnect.WorkspaceEvicted, disconnect.DuplicateAgent:
			return true
		}
	}
	return false
}

// clean deletes a batch of what is too old, and returns when to do so again.
func (l *Log) clean(ctx context.Context) (next time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	n, err := l.cfg.Store.DeleteConnections(ctx, l.cfg.Now().Add(-l.cfg.Retention), cleanBatch)
	if err == nil && n > 0 {
		return cleanPause
	}
	if err == nil {
		err = l.cfg.Store.ForgetNames(ctx)
	}
	if err != nil {
		l.cfg.Logger.Warn("cannot delete old connections, trying again later", "error", err)
	}
	return cleanEvery
}
