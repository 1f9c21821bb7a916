package connlog

import (
	"errors"
	"sync"

	"fairlead.dev/fairlead/server/store"
)

// maxBehind is how many rows a reader of a feed may be behind.
const maxBehind = 20_000

// Ends of a feed.
var (
	ErrSlow   = errors.New("the connections came faster than they were read")
	ErrClosed = errClosed
)

// Feed is the connections as they open, close, and get a better ending, from
// [Log.Follow] on.
type Feed struct {
	log   *Log
	ready chan struct{} // one place: there is something to read

	mu     sync.Mutex // guards below
	rows   [][]store.Connection
	behind int
	err    error // no more rows come
}

// Follow returns a feed. The caller must Close it.
func (l *Log) Follow() *Feed {
	f := &Feed{log: l, ready: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.feeds == nil {
		f.end(errClosed)
		return f
	}
	l.feeds[f] = true
	return f
}

// Ready is readable when Next has something to return.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Next returns rows that have come since the last call, none when there are none. They
// are shared: nobody may change them. After [ErrSlow] or [ErrClosed] nothing comes.
func (f *Feed) Next() ([]store.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rows) == 0 {
		return nil, f.err
	}
	rows := f.rows[0]
	f.rows = f.rows[1:]
	f.behind -= len(rows)
	if len(f.rows) > 0 || f.err != nil {
		tell(f.ready)
	}
	return rows, nil
}

// Close ends the feed.
func (f *Feed) Close() {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	delete(f.log.feeds, f)
}

func (f *Feed) add(rows []store.Connection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return
	}
	if f.behind > maxBehind {
		f.rows, f.behind, f.err = nil, 0, ErrSlow // what it missed it can ask for
	} else {
		f.rows = append(f.rows, rows)
		f.behind += len(rows)
	}
	tell(f.ready)
}

func (f *Feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	tell(f.ready)
}

// publish tells whoever wants to know of rows that have changed.
func (l *Log) publish(changed []store.Connection) {
	if len(changed) == 0 {
		return
	}
	for _, row := range changed {
		l.cfg.Changed(row)
		if row.Status == store.StatusClosed && row.Revision == 0 {
			l.cfg.Ended(row)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.feeds {
		f.add(changed)
	}
}

func (l *Log) endFeeds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.feeds {
		f.end(errClosed)
	}
	l.feeds = nil
}
