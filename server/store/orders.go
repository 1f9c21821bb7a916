package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Orders are what a workspace's agent is told to do.
type Orders struct {
	// StoppedAt is when StoppedBy stopped the workspace; zero: it is not stopped.
	StoppedAt time.Time
	StoppedBy string // user name
	Policy
	// Notice is the platform's last word that the host will be gone.
	Notice Notice
}

// Policy is what a workspace's sessions may do.
type Policy struct {
	// IdleTimeout and SessionLimit bound sessions; 0: never, nil: the server's default
	// counts.
	IdleTimeout, SessionLimit *time.Duration
	// Blocked are words, separated by commas; AcceptEnv are the names of variables that
	// clients may set, the same way, and "" any.
	Blocked, AcceptEnv string
}

// Notice is a platform's word, given at At, that a host will be gone at the deadline.
// The zero value is none.
type Notice struct {
	Kind         string
	At, Deadline time.Time
}

// ordersColumns are those of Orders, in the order of scanOrders.
const ordersColumns = `workspaces.stopped_at, workspaces.stopped_by, workspaces.idle_timeout_ms,
	workspaces.session_limit_ms, workspaces.notice_kind, workspaces.notice_at, workspaces.notice_deadline,
	workspaces.blocked, workspaces.accept_env`

// scannedOrders are the columns of Orders as the database gives them.
type scannedOrders struct {
	stoppedAt, idle, limit, noticeAt, deadline sql.NullInt64
	stoppedBy, kind, blocked, acceptEnv        string
}

func (o *scannedOrders) dest() []any {
	return []any{&o.stoppedAt, &o.stoppedBy, &o.idle, &o.limit, &o.kind, &o.noticeAt, &o.deadline, &o.blocked, &o.acceptEnv}
}

func (o *scannedOrders) orders() Orders {
	return Orders{
		StoppedAt: fromNullMicros(o.stoppedAt), StoppedBy: o.stoppedBy,
		Policy: Policy{
			IdleTimeout: fromNullMillis(o.idle), SessionLimit: fromNullMillis(o.limit),
			Blocked: o.blocked, AcceptEnv: o.acceptEnv,
		},
		Notice: Notice{Kind: o.kind, At: fromNullMicros(o.noticeAt), Deadline: fromNullMicros(o.deadline)},
	}
}

func fromNullMillis(ms sql.NullInt64) *time.Duration {
	if !ms.Valid {
		return nil
	}
	d := time.Duration(ms.Int64) * time.Millisecond
	return &d
}

func nullMillis(d *time.Duration) sql.NullInt64 {
	if d == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: d.Milliseconds(), Valid: true}
}

// StopWorkspace stops a workspace, and reports false for one that is stopped already,
// which keeps who stopped it, or that does not exist.
func (s *Store) StopWorkspace(ctx context.Context, id, by string, at time.Time) (changed bool, err error) {
	return s.changeWorkspace(ctx, "stop workspace",
		`UPDATE workspaces SET stopped_at = $1, stopped_by = $2 WHERE id = $3 AND stopped_at IS NULL`, micros(at), by, id)
}

// StartWorkspace lets sessions into a workspace again, and reports false for one that
// is not stopped or does not exist.
func (s *Store) StartWorkspace(ctx context.Context, id string) (changed bool, err error) {
	return s.changeWorkspace(ctx, "start workspace",
		`UPDATE workspaces SET stopped_at = NULL, stopped_by = '' WHERE id = $1 AND stopped_at IS NOT NULL`, id)
}

// SetPolicy sets what a workspace's sessions may do, times to the millisecond. No such
// workspace is ErrNotFound.
func (s *Store) SetPolicy(ctx context.Context, id string, p Policy) error {
	err := affectOne(ctx, s.write, `UPDATE workspaces SET idle_timeout_ms = $1, session_limit_ms = $2, blocked = $3, accept_env = $4 WHERE id = $5`,
		nullMillis(p.IdleTimeout), nullMillis(p.SessionLimit), p.Blocked, p.AcceptEnv, id)
	if err != nil {
		return fmt.Errorf("set policy: %w", err)
	}
	return nil
}

// SetNotice keeps a platform's notice; the zero value takes the last one back. No such
// workspace is ErrNotFound.
func (s *Store) SetNotice(ctx context.Context, id string, n Notice) error {
	err := affectOne(ctx, s.write, `UPDATE workspaces SET notice_kind = $1, notice_at = $2, notice_deadline = $3 WHERE id = $4`,
		n.Kind, nullMicros(n.At), nullMicros(n.Deadline), id)
	if err != nil {
		return fmt.Errorf("set notice: %w", err)
	}
	return nil
}

func (s *Store) changeWorkspace(ctx context.Context, what, query string, args ...any) (bool, error) {
	res, err := s.write.ExecContext(ctx, query, args...)
	if err != nil {
		return false, fmt.Errorf("%s: %w", what, err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
