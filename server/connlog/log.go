package connlog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

const (
	// DefaultLease is how long an agent may be silent before its connections are taken
	// for ended, beyond the outage limit of its clients: the minute that they wait longer
	// than that, and ten.
	DefaultLease = 11 * time.Minute
	// writeTimeout bounds one transaction.
	writeTimeout = 10 * time.Second
)

// Config says how a log is kept. Store is required.
type Config struct {
	Store *store.Store
	// Logger takes what an operator should know of the log itself; nil discards it.
	Logger *slog.Logger
	// Instance names this life of the server.
	Instance string
	// Now is the server's clock, for what is written down; nil: time.Now.
	Now func() time.Time
	// Ended is told of each row that is closed for the first time; nil: nobody is. It
	// holds up the log until it returns.
	Ended func(store.Connection)
	// Changed is told of each row that opens, closes, or has a better ending, as it was stored;
	// nil: nobody is. It, too, holds up the log.
	Changed func(store.Connection)
	// Lease is how long an agent may be silent; 0 means DefaultLease.
	Lease time.Duration
	// Retention is how long closed connections are kept, from when they began; 0: for
	// ever.
	Retention time.Duration
}

// Log is the connection log. All methods are safe for concurrent use.
type Log struct {
	cfg Config

	changes chan *change
	written chan struct{} // one place: the log itself has something to write
	leased  chan struct{} // one place: there is a lease that may end
	done    chan struct{} // closed by Close
	once    sync.Once
	work    sync.WaitGroup
	failed  atomic.Uint64 // transactions

	mu      sync.Mutex // guards all below, and the rows in waiting
	waiting []*LinkRow // to be written, in order
	dropped int64      // rows of control links for which there was no place
	failing bool       // the last attempt to write waiting has failed
	silent  map[string]*silence
	links   map[string]*LinkRow // those that are open, by id
	early   map[string]string   // peers of links that are about to be opened, by id
	byParty map[Party]map[*LinkRow]bool
	lost    map[Party]lost // the last link, if that is lost
	remarks []remark       // to be written, in order
	feeds   map[*Feed]bool // nil once the log is closed
}

// New returns a log that takes what the server's former life left open: control links
// of that life are closed, the connections of agents are unheard of until their agents
// tell. The caller must Close it.
func New(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Ended == nil {
		cfg.Ended = func(store.Connection) {}
	}
	if cfg.Changed == nil {
		cfg.Changed = func(store.Connection) {}
	}
	if cfg.Lease <= 0 {
		cfg.Lease = DefaultLease
	}
	l := &Log{
		cfg: cfg, changes: make(chan *change), written: make(chan struct{}, 1), leased: make(chan struct{}, 1),
		done: make(chan struct{}), silent: map[string]*silence{}, feeds: map[*Feed]bool{},
		links: map[string]*LinkRow{}, early: map[string]string{}, byParty: map[Party]map[*LinkRow]bool{}, lost: map[Party]lost{},
	}
	l.work.Go(l.writeAll)
	if err := l.takeOver(ctx); err != nil {
		l.Close()
		return nil, err
	}
	l.work.Go(l.tend)
	return l, nil
}

// Close stops the log. What is being written is finished first, and rows of control
// links that could not be written are tried once more.
func (l *Log) Close() {
	l.once.Do(func() { close(l.done) })
	l.work.Wait()
	l.endFeeds()
}

// takeOver closes what the server itself observed in its former life, at its last sign
// of life, and gives the agents time to tell what became of the rest.
func (l *Log) takeOver(ctx context.Context) error {
	var agents []store.SilentAgent
	var alive time.Time
	err := l.write(ctx, func(ctx context.Context, tx *store.ConnTx) (closed []store.Connection, err error) {
		if alive, err = tx.AliveAt(ctx); err != nil {
			return nil, err
		}
		for _, layer := range []disconnect.ConnectType{disconnect.ServerToAgent, disconnect.ClientToServer} {
			rows, err := tx.Live(ctx, "", layer)
			if err != nil {
				return nil, err
			}
			for _, row := range rows {
				closeRow(&row, alive, disconnect.Attribution{
					Reason: disconnect.PeerCrashed, Initiator: disconnect.Server, Detail: "the server died without a goodbye",
				})
				if err := tx.Update(ctx, &row); err != nil {
					return nil, err
				}
				if err := testify(ctx, tx, &row, ownEnd(row.Word, alive, l.cfg.Now()), l.cfg.Now()); err != nil {
					return nil, err
				}
				closed = append(closed, row)
			}
		}
		sessions, err := tx.Live(ctx, "", disconnect.AgentToClient)
		if err != nil {
			return nil, err
		}
		for i := range sessions {
			if _, err := keep(ctx, tx, &sessions[i], ownRestart(alive, l.cfg.Now(), l.cfg.Instance, len(closed) > 0), l.cfg.Now()); err != nil {
				return nil, err
			}
		}
		if err := tx.Unheard(ctx, ""); err != nil {
			return nil, err
		}
		agents, err = tx.SilentAgents(ctx)
		return closed, err
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range agents {
		if a.SeenAt.IsZero() { // its workspace is gone
			a.SeenAt = alive
		}
		l.silent[a.WorkspaceID] = &silence{since: a.SeenAt, ending: a.Ending, until: time.Now().Add(l.cfg.Lease), marked: true}
	}
	return nil
}

// closeRow closes a row at a time of the server's clock.
func closeRow(row *store.Connection, at time.Time, ending disconnect.Attribution) {
	if row.Status == store.StatusClosed {
		row.Revision++
	}
	row.Status = store.StatusClosed
	row.DisconnectedAt = later(at, row.ConnectedAt)
	row.Word = ending.On(row.ConnectType)
	row.Ending, row.Judgement = row.Word, store.Judgement{}
	row.Provisional = false
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// tell sets a flag that is a channel of one place.
func tell(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default: // it is set already
	}
}
