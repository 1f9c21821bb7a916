package connlog

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

const (
	// maxWaiting bounds the rows of control links that wait to be written. Beginnings
	// take half of the places at most: the end of a connection tells of its beginning.
	maxWaiting = 10_000
	// maxOwn is how many of them one transaction takes.
	maxOwn = 500
	// retryOwn is how long a row that could not be written waits for the next attempt.
	retryOwn = 5 * time.Second
)

// Link is one control link that the server has accepted.
type Link struct {
	// ConnectType is ServerToAgent, with a workspace, or ClientToServer, with a user.
	ConnectType disconnect.ConnectType
	// ID names its row, and nothing else; empty: one is made.
	ID        string
	Workspace store.LoggedWorkspace
	// Instance is the life of the agent's process.
	Instance      string
	User          store.LoggedUser
	IP            string
	ClientVersion string
	ConnectedAt   time.Time
	// Heard returns when something was last heard over the link; nil: just now.
	Heard func() time.Time
}

// LinkRow is the row of a control link.
type LinkRow struct {
	log   *Log
	heard func() time.Time

	// What follows is guarded by log.mu.
	row     store.Connection // has a key once it is stored
	proved  bool             // row.Peer is who it says to be
	waiting bool             // it is in log.waiting
	changed bool             // since it was last written
	own     sight
}

// sight is what the server saw of its own host at the end of a link, on which it last heard
// something at heard. Without facts it says nothing.
type sight struct {
	heard time.Time
	facts []verdict.Fact
}

func (s sight) addTo(t *verdict.Testimony) {
	if len(s.facts) == 0 {
		return
	}
	t.Facts = append(t.Facts, s.facts...)
	if !s.heard.IsZero() {
		t.LastGood = verdict.Moment{Wall: s.heard}
		t.FirstNoticed = verdict.Moment{Wall: s.heard.Add(min(unheardFor, t.FirstNoticed.Wall.Sub(s.heard)))}
	}
}

// ID is the connection's id.
func (r *LinkRow) ID() string { return r.row.ID }

// LinkOpened adds the row of a control link. It does not wait: the row is written soon,
// or, if the database cannot take it, kept in memory and written when it can.
func (l *Log) LinkOpened(link Link) *LinkRow {
	if link.ID == "" {
		link.ID = uuid.NewString()
	}
	r := &LinkRow{log: l, heard: link.Heard, row: store.Connection{
		ID: link.ID, ConnectType: link.ConnectType, Type: store.TypeControl,
		Workspace: link.Workspace, User: link.User, Instance: l.cfg.Instance, Peer: link.Instance,
		IP: link.IP, ClientVersion: link.ClientVersion, ConnectedAt: link.ConnectedAt, Status: store.StatusOpen,
	}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links[link.ID] = r
	if peer, known := l.early[link.ID]; known {
		delete(l.early, link.ID)
		l.proveLocked(r, peer)
	}
	l.waitLocked(r, maxWaiting/2)
	return r
}

// maxEarly bounds the links of which it is known whose they are before they are opened.
const maxEarly = 1000

// LinkOf says that whoever is at the other end of a control link, which may be about to be
// opened, has proved to be peer: of an agent the life of its process, of a client its
// address inside the tailnet. From then on what becomes of the link is evidence of the
// party's connections.
func (l *Log) LinkOf(id, peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.links[id]; r != nil {
		was := r.row.Peer
		if l.proveLocked(r, peer); r.row.Peer != was {
			l.waitLocked(r, maxWaiting/2)
		}
		return
	}
	if len(l.early) >= maxEarly { // of links that had ended already
		clear(l.early)
	}
	l.early[id] = peer
}

func (l *Log) proveLocked(r *LinkRow, peer string) {
	if r.proved && r.row.Peer == peer {
		return
	}
	l.strikeLocked(r)
	r.row.Peer, r.proved = peer, true
	l.enlistLocked(r)
}

// Revise replaces the end of a row that was closed: it is known better now.
func (r *LinkRow) Revise(ending disconnect.Attribution) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	closeRow(&r.row, r.row.DisconnectedAt, ending)
	l.waitLocked(r, maxWaiting)
}

// Ended closes the row, as LinkOpened does. Facts are what the server saw of its own host
// since something was last heard over the link. Call it once.
func (r *LinkRow) Ended(at time.Time, ending disconnect.Attribution, facts ...verdict.Fact) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.links, r.row.ID)
	l.strikeLocked(r)
	closeRow(&r.row, at, ending)
	r.own.facts = facts
	if r.heard != nil {
		r.own.heard = r.heard()
	}
	l.linkLostLocked(r)
	if l.waitLocked(r, maxWaiting) {
		return
	}
	if l.dropped++; l.dropped == 1 {
		l.cfg.Logger.Error("control links are missing from the connection log: too many could not be written",
			"connection_id", r.row.ID)
	}
}

// waitLocked has a row written, unless limit of them wait.
func (l *Log) waitLocked(r *LinkRow, limit int) bool {
	r.changed = true
	if r.waiting {
		return true
	}
	if len(l.waiting) >= limit {
		return false
	}
	r.waiting = true
	l.waiting = append(l.waiting, r)
	tell(l.written)
	return true
}

// Waiting tells how many rows of control links the database has not taken yet, and how
// many there was no place for.
func (l *Log) Waiting() (waiting int, dropped int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting), l.dropped
}

// own is what the log itself has to write: the rows of control links, and which agents
// have fallen silent.
type own struct {
	links   []*LinkRow
	was     []store.Connection // what is to be stored of links
	seen    []sight            // at their ends
	rows    []store.Connection // what was stored
	silent  map[string]*silence
	remarks []remark
	now     time.Time
}

// takeOwn returns what the log itself has to write; nil: there is nothing.
func (l *Log) takeOwn() *own {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &own{now: l.cfg.Now(), silent: map[string]*silence{}, links: slices.Clone(l.waiting[:min(len(l.waiting), maxOwn)])}
	for _, r := range o.links {
		r.changed = false
		o.was, o.seen = append(o.was, r.row), append(o.seen, r.own)
	}
	for workspace, s := range l.silent {
		if !s.marked {
			o.silent[workspace] = s
		}
	}
	o.remarks = slices.Clone(l.remarks[:min(len(l.remarks), maxOwn)])
	if len(o.was)+len(o.silent)+len(o.remarks) == 0 {
		return nil
	}
	return o
}

func (o *own) apply(ctx context.Context, tx *store.ConnTx) (changed []store.Connection, err error) {
	for workspace := range o.silent {
		if err := tx.Unheard(ctx, workspace); err != nil {
			return nil, err
		}
		rows, err := tx.Live(ctx, workspace, disconnect.AgentToClient)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			closed, err := closeAbandoned(ctx, tx, &rows[i], o.now)
			if err != nil {
				return nil, err
			}
			if closed {
				changed = append(changed, rows[i])
			}
		}
	}
	o.rows = slices.Clone(o.was)
	for i := range o.rows {
		row := &o.rows[i]
		named := row.Key != 0 && row.Status == store.StatusOpen // whose it is, no more
		if err := storeLink(ctx, tx, row, o.seen[i], o.now); err != nil {
			return nil, err
		}
		if !named {
			changed = append(changed, *row)
		}
	}
	for i := range o.remarks {
		better, err := o.remarks[i].write(ctx, tx, o.now)
		if err != nil {
			return nil, err
		}
		changed = append(changed, better...)
	}
	return changed, nil
}

// storeLink writes the row of a control link, and judges one that is closed.
func storeLink(ctx context.Context, tx *store.ConnTx, row *store.Connection, own sight, now time.Time) error {
	if row.Key == 0 {
		if err := tx.Insert(ctx, row); err != nil {
			return err
		}
	} else {
		if row.Revision > 0 { // the verdict on it may have been revised too
			stored, err := tx.ByID(ctx, row.ID)
			if err != nil {
				return err
			}
			row.Revision = max(row.Revision, stored.Revision+1)
		}
		if err := tx.Update(ctx, row); err != nil {
			return err
		}
	}
	switch {
	case row.Status != store.StatusClosed:
		return nil
	case row.Word.Reason != disconnect.WorkspaceEvicted && row.Revision == 0: // a notice may be taken back
		t := linkEnded(row)
		own.addTo(&t)
		if _, err := keep(ctx, tx, row, t, now); err != nil {
			return err
		}
	}
	_, changed, err := rejudge(ctx, tx.Reader(), row, now)
	if err != nil || !changed {
		return err
	}
	return tx.Update(ctx, row)
}

// ownWritten takes note of what became of o, and reports whether there is more to write.
func (l *Log) ownWritten(o *own, err error) (more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if !l.failing {
			l.cfg.Logger.Error("cannot record control links now: they are kept until it can be done", "rows", len(l.waiting), "error", err)
		}
		l.failing = true
		return true
	}
	if l.failing {
		l.cfg.Logger.Warn("control links are recorded again", "rows", len(l.waiting))
	}
	l.failing = false
	for _, s := range o.silent {
		s.marked = true
		tell(l.leased)
	}
	for i, r := range o.links {
		r.row.Key = o.rows[i].Key
		r.waiting = r.changed
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(r *LinkRow) bool { return !r.waiting })
	l.remarks = l.remarks[min(len(o.remarks), len(l.remarks)):]
	return len(l.waiting)+len(l.remarks) > 0
}
