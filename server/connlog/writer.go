package connlog

import (
	"context"
	"errors"
	"fmt"

	"fairlead.dev/fairlead/server/store"
)

// maxBatch bounds the operations of one transaction.
const maxBatch = 256

// errClosed refuses to write after Close.
var errClosed = errors.New("the connection log is closed")

// apply is one operation on the log. It may run more than once, and only the last run
// counts. It returns the rows that it closed for the first time.
type apply func(context.Context, *store.ConnTx) (closed []store.Connection, err error)

// change is an operation and who waits for it.
type change struct {
	apply apply
	done  chan error // has one place
}

// write makes a change in a transaction that it shares with whoever writes at the same
// time, and returns when that is on disk. A change whose caller has left is still made.
func (l *Log) write(ctx context.Context, apply apply) error {
	c := &change{apply: apply, done: make(chan error, 1)}
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

// writeAll makes the changes until Close, each time all that wait.
func (l *Log) writeAll() {
	for {
		select {
		case first := <-l.changes:
			l.commit(l.gather(first))
		case <-l.done:
			return
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

// commit makes a batch in one transaction. If that fails, each change has a transaction
// of its own: one that cannot be made must not stop the others.
func (l *Log) commit(batch []*change) {
	err := l.transact(batch)
	if err == nil || len(batch) == 1 {
		for _, c := range batch {
			c.done <- err
		}
		return
	}
	for _, c := range batch {
		c.done <- l.transact([]*change{c})
	}
}

func (l *Log) transact(batch []*change) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	var closed []store.Connection
	err := l.cfg.Store.WriteConnections(ctx, func(tx *store.ConnTx) error {
		for _, c := range batch {
			rows, err := c.apply(ctx, tx)
			if err != nil {
				return err
			}
			closed = append(closed, rows...)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write to the connection log: %w", err)
	}
	for _, row := range closed {
		l.cfg.Ended(row)
	}
	return nil
}
