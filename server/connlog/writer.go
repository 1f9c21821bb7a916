package connlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fairlead.dev/fairlead/server/store"
)

// maxBatch bounds the operations of one transaction.
const maxBatch = 256

// errClosed refuses to write after Close.
var errClosed = errors.New("the connection log is closed")

// apply is one operation on the log. It may run more than once, and only the last run
// counts. It returns the rows that have opened or closed by it, or have a better ending.
type apply func(context.Context, *store.ConnTx) (changed []store.Connection, err error)

// change is an operation and who waits for it.
type change struct {
	apply  apply
	synced bool       // it must survive a power cut
	done   chan error // has one place
}

// write makes a change in a transaction that it shares with whoever writes at the same
// time, and returns when that is stored. A change whose caller has left is still made.
func (l *Log) write(ctx context.Context, apply apply) error {
	return l.make(ctx, &change{apply: apply, done: make(chan error, 1)})
}

// writeSynced is write for what somebody else forgets when it returns: it survives a
// power cut.
func (l *Log) writeSynced(ctx context.Context, apply apply) error {
	return l.make(ctx, &change{apply: apply, synced: true, done: make(chan error, 1)})
}

func (l *Log) make(ctx context.Context, c *change) error {
	select {
	case l.changes <- c:
	case <-l.done:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// writeAll makes the changes until Close, each time all that wait, and what the log
// itself has to write.
func (l *Log) writeAll() {
	retry := time.NewTimer(0)
	defer retry.Stop()
	due := true // the log's own may be tried
	for {
		var batch []*change
		select {
		case first := <-l.changes:
			batch = l.gather(first)
		case <-l.written:
		case <-retry.C:
			due = true
		case <-l.done:
			for l.commit(nil, true) == nil && l.more() {
			}
			l.tellLost()
			return
		}
		if err := l.commit(batch, due); err != nil {
			due = false
			retry.Reset(retryOwn)
		}
	}
}

func (l *Log) gather(first *change) []*change {
	batch := []*change{first}
	for len(batch) < maxBatch {
		select {
		case c := <-l.changes:
			batch = append(batch, c)
		default:
			return batch
		}
	}
	return batch
}

// more reports whether the log itself has something to write.
func (l *Log) more() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)+len(l.remarks) > 0
}

// WriteFailures tells how many transactions the database did not take. What was in them
// was tried again, or whoever wanted it written was told.
func (l *Log) WriteFailures() uint64 { return l.failed.Load() }

// tellLost says what the log could not write until its end.
func (l *Log) tellLost() {
	if waiting, dropped := l.Waiting(); waiting > 0 || dropped > 0 {
		l.cfg.Logger.Error("control links are missing from the connection log", "rows", int64(waiting)+dropped)
	}
}

// commit makes a batch in one transaction, with the log's own changes if due. One change
// that cannot be made does not stop the others. The error is that of the log's own.
func (l *Log) commit(batch []*change, due bool) error {
	var mine *own
	if due {
		mine = l.takeOwn()
	}
	if mine == nil {
		l.makeAll(batch)
		return nil
	}
	c := &change{apply: mine.apply, done: make(chan error, 1)}
	l.makeAll(append([]*change{c}, batch...))
	err := <-c.done
	if l.ownWritten(mine, err) && err == nil {
		tell(l.written)
	}
	return err
}

// makeAll makes changes in one transaction, but for those that cannot be made.
func (l *Log) makeAll(batch []*change) {
	for len(batch) > 0 {
		changed, failed, err := l.transact(batch)
		if err != nil {
			l.failed.Add(1)
		}
		if err != nil && failed >= 0 {
			batch[failed].done <- err
			batch = append(batch[:failed:failed], batch[failed+1:]...)
			continue
		}
		if err == nil {
			l.publish(changed)
		}
		for _, c := range batch {
			c.done <- err
		}
		return
	}
}

// transact makes changes in one transaction. If it fails because of one of them, failed
// is which; otherwise, below zero, none of them could have been made.
func (l *Log) transact(batch []*change) (changed []store.Connection, failed int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	failed = -1
	synced := slices.ContainsFunc(batch, func(c *change) bool { return c.synced })
	err = l.cfg.Store.WriteConnections(ctx, synced, func(tx *store.ConnTx) error {
		for i, c := range batch {
			rows, err := c.apply(ctx, tx)
			if err != nil {
				failed = i
				return err
			}
			also, err := buryLinks(ctx, tx, rows, l.cfg.Now())
			if err != nil {
				failed = i
				return err
			}
			changed = append(append(changed, rows...), also...)
		}
		return nil
	})
	if err != nil {
		return nil, failed, fmt.Errorf("write to the connection log: %w", err)
	}
	return changed, -1, nil
}
