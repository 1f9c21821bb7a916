package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Answers that a caller must tell apart from a failure of the database.
var (
	// ErrNotFound: no such row.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the name, or another value that must be unique, is taken.
	ErrConflict = errors.New("already exists")
)

// Store is an open database. All methods are safe for concurrent use; each returns
// ErrNotFound or ErrConflict (wrapped) where its comment says so, and any other error
// only when the database failed.
type Store struct {
	// read and write are the same database. SQLite allows one writer at a time: a pool
	// of one connection queues writers in Go instead of making them retry.
	read, write *sql.DB
	engine      engine
	release     func() error // gives back the state directory
}

// engine is what differs between databases.
type engine struct {
	// isUnique reports whether err is a violated unique constraint.
	isUnique func(err error) bool
	// syncCommits makes a connection's commits wait for the disk; deferSyncs ends that.
	syncCommits, deferSyncs string
	// pageHint stands behind the table in the query for a page of connections.
	pageHint func(ConnFilter, connRange) string
}

// Close closes the database and releases the state directory. Call it once.
func (s *Store) Close() error {
	return errors.Join(s.read.Close(), s.write.Close(), s.release())
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.read.QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	return nil
}

// queryer is what *sql.DB and *sql.Tx share.
type queryer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// beginner is what *sql.DB and *sql.Conn share.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// transact runs fn in one write transaction: all of it, or nothing. What it wrote
// survives the end of the process; the next checkpoint, or withdrawal, makes it survive
// a power cut.
func (s *Store) transact(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return transact(ctx, s.write, fn)
}

// withdraw is transact for what takes a right away, or what somebody else forgets once
// it is here: it is on the disk, with all that was
// written before, when withdraw returns without an error.
func (s *Store) withdraw(ctx context.Context, fn func(tx *sql.Tx) error) error {
	conn, err := s.write.Conn(ctx) // the only one: other writers wait
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, s.engine.syncCommits); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	// Should this fail, the commits that follow cost more than they must.
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), s.engine.deferSyncs) }()
	return transact(ctx, conn, fn)
}

// withdrawOne is withdraw for one statement that must change a row; none is ErrNotFound.
func (s *Store) withdrawOne(ctx context.Context, query string, args ...any) error {
	return s.withdraw(ctx, func(tx *sql.Tx) error { return affectOne(ctx, tx, query, args...) })
}

func transact(ctx context.Context, db beginner, fn func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := fn(tx); err != nil {
		if rollback := tx.Rollback(); rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
			return errors.Join(err, fmt.Errorf("roll back: %w", rollback))
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// insert executes an INSERT; a taken unique value is ErrConflict.
func (s *Store) insert(ctx context.Context, q queryer, query string, args ...any) error {
	_, err := q.ExecContext(ctx, query, args...)
	if err != nil && s.engine.isUnique(err) {
		return ErrConflict
	}
	return err
}

// affectOne executes a statement that must change a row; none is ErrNotFound.
func affectOne(ctx context.Context, q queryer, query string, args ...any) error {
	res, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrNotFound
	}
	return nil
}

// scanned turns the absence of a row into ErrNotFound.
func scanned(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

func micros(t time.Time) int64 { return t.UnixMicro() }

// nullMicros stores the zero time as NULL.
func nullMicros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// fromNullMicros is the inverse of nullMicros.
func fromNullMicros(us sql.NullInt64) time.Time {
	if !us.Valid {
		return time.Time{}
	}
	return fromMicros(us.Int64)
}
