package connlog

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

const (
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
	// Now is the server's clock; nil: time.Now.
	Now func() time.Time
	// Ended is told of each row that is closed for the first time; nil: nobody is.
	Ended func(store.Connection)
}

// Log is the connection log. All methods are safe for concurrent use.
type Log struct {
	cfg Config

	changes chan *change
	done    chan struct{} // closed by Close
	once    sync.Once
	work    sync.WaitGroup
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
	l := &Log{cfg: cfg, changes: make(chan *change), done: make(chan struct{})}
	l.work.Go(l.writeAll)
	if err := l.write(ctx, l.buryFormerLife); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close stops the log. What is being written is finished first.
func (l *Log) Close() {
	l.once.Do(func() { close(l.done) })
	l.work.Wait()
}

// buryFormerLife closes what the server itself observed in its former life.
func (l *Log) buryFormerLife(ctx context.Context, tx *store.ConnTx) (closed []store.Connection, err error) {
	rows, err := tx.Live(ctx, "", 0)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.ConnectType == disconnect.AgentToClient {
			row.Status = store.StatusUnheard
		} else {
			closeRow(&row, l.cfg.Now(), disconnect.Attribution{
				Reason: disconnect.PeerCrashed, Initiator: disconnect.Server, Detail: "the server died without a goodbye",
			})
			closed = append(closed, row)
		}
		if err := tx.Update(ctx, &row); err != nil {
			return nil, err
		}
	}
	return closed, nil
}

// closeRow closes a row at a time of the server's clock.
func closeRow(row *store.Connection, at time.Time, ending disconnect.Attribution) {
	if row.Status == store.StatusClosed {
		row.Revision++
	}
	row.Status = store.StatusClosed
	row.DisconnectedAt = later(at, row.ConnectedAt)
	row.Ending = ending.On(row.ConnectType)
	row.Provisional = false
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
