package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// ConnFilter chooses rows of the connection log; a zero field chooses all.
type ConnFilter struct {
	// For is the id of the user who may see the rows: their own connections, and those
	// to workspaces that they own. Empty: an admin, who sees all.
	For string

	WorkspaceID string
	UserName    string
	Type        *ConnType
	App         string
	ConnectType disconnect.ConnectType
	Reason      *disconnect.Reason
	Initiator   *disconnect.Initiator
	Expected    *bool
	Status      ConnStatus
	IDPrefix    string
	// Since and Until bound the time of the beginning: Since <= it < Until.
	Since, Until time.Time

	// Before continues after a row: those that began before it, by its key.
	Before int64
	// Ascending gives the oldest first, and continues after After.
	Ascending bool
	After     int64
	Limit     int
}

// Connections returns the rows that f chooses, the newest first unless it says
// otherwise.
func (s *Store) Connections(ctx context.Context, f ConnFilter) ([]Connection, error) {
	if f.For == "" {
		return s.connections(ctx, f, "", nil)
	}
	// Each of the two is a range of an index; one query for both would be none.
	own, err := s.connections(ctx, f, `c.user_no = (SELECT no FROM logged_users WHERE id = $1)`, []any{f.For})
	if err != nil {
		return nil, err
	}
	owned, err := s.connections(ctx, f,
		`c.workspace IN (SELECT no FROM logged_workspaces WHERE owner = (SELECT no FROM logged_users WHERE id = $1))`, []any{f.For})
	if err != nil {
		return nil, err
	}
	return mergeRows(f, own, owned), nil
}

// mergeRows makes one page of two.
func mergeRows(f ConnFilter, a, b []Connection) []Connection {
	order := func(x, y Connection) int {
		if f.Ascending {
			return int(min(1, max(-1, x.Key-y.Key)))
		}
		return int(min(1, max(-1, y.Key-x.Key)))
	}
	all := append(a, b...)
	slices.SortFunc(all, order)
	all = slices.CompactFunc(all, func(x, y Connection) bool { return x.Key == y.Key })
	return all[:min(len(all), f.Limit)]
}

func (s *Store) connections(ctx context.Context, f ConnFilter, scope string, args []any) ([]Connection, error) {
	q := connWhere{args: args}
	if scope != "" {
		q.terms = append(q.terms, scope)
	}
	q.filter(f)
	query := connSelect
	if len(q.terms) > 0 {
		query += " WHERE " + strings.Join(q.terms, " AND ")
	}
	query += " ORDER BY c.key"
	if !f.Ascending {
		query += " DESC"
	}
	query += " LIMIT " + strconv.Itoa(f.Limit)
	rows, err := s.read.QueryContext(ctx, query, q.args...)
	if err != nil {
		return nil, fmt.Errorf("query connections: %w", err)
	}
	all, err := collect(rows, scanConnection)
	if err != nil {
		return nil, fmt.Errorf("query connections: %w", err)
	}
	return all, nil
}

// connWhere grows a condition.
type connWhere struct {
	terms []string
	args  []any
}

// and adds a term in which ? stands for v.
func (q *connWhere) and(term string, v any) {
	q.args = append(q.args, v)
	q.terms = append(q.terms, strings.ReplaceAll(term, "?", "$"+strconv.Itoa(len(q.args))))
}

func (q *connWhere) filter(f ConnFilter) {
	if f.WorkspaceID != "" {
		q.and(`c.workspace = (SELECT no FROM logged_workspaces WHERE id = ?)`, f.WorkspaceID)
	}
	if f.UserName != "" {
		q.and(`c.user_no = (SELECT no FROM logged_users WHERE name = ?)`, f.UserName)
	}
	if f.Type != nil {
		q.and(`c.type = ?`, int(*f.Type))
	}
	if f.App != "" {
		q.and(`c.app = ?`, f.App)
	}
	if f.ConnectType != 0 {
		q.and(`c.connect_type = ?`, int(f.ConnectType))
	}
	if f.Reason != nil {
		q.and(`c.reason = ?`, int(*f.Reason))
	}
	if f.Initiator != nil {
		q.and(`c.initiator = ?`, int(*f.Initiator))
	}
	if f.Expected != nil {
		q.and(`c.expected = ?`, *f.Expected)
	}
	switch f.Status {
	case 0:
	case StatusClosed:
		q.terms = append(q.terms, `c.live IS NULL`)
	default:
		q.and(`c.live = ?`, int(f.Status))
	}
	if f.IDPrefix != "" {
		q.and(`c.id >= ?`, f.IDPrefix)
		q.and(`c.id < ?`, f.IDPrefix+"g") // ids are lower-case hex digits and -
	}
	q.keys(f)
}

// keys bounds the range of keys.
func (q *connWhere) keys(f ConnFilter) {
	if !f.Since.IsZero() {
		q.and(`c.key >= ?`, keyAt(f.Since))
	}
	if !f.Until.IsZero() {
		q.and(`c.key < ?`, keyAt(f.Until))
	}
	if f.Before != 0 {
		q.and(`c.key < ?`, f.Before)
	}
	if f.After != 0 {
		q.and(`c.key > ?`, f.After)
	}
}

// Gaps returns the gaps in a workspace's record, or in all that a user owns or may see
// when workspaceID is empty, that lie after a time; the newest first, 100 at most.
func (s *Store) Gaps(ctx context.Context, forUser, workspaceID string, after time.Time) ([]Gap, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT g.id, w.id, w.name, o.id, o.name, g.began_at, g.ended_at, g.detail
		FROM connection_gaps g JOIN logged_workspaces w ON w.no = g.workspace JOIN logged_users o ON o.no = w.owner
		WHERE g.ended_at > $1 AND ($2 = '' OR o.id = $2) AND ($3 = '' OR w.id = $3)
		ORDER BY g.ended_at DESC LIMIT 100`, micros(after), forUser, workspaceID)
	if err != nil {
		return nil, fmt.Errorf("list gaps: %w", err)
	}
	all, err := collect(rows, func(scan func(...any) error) (g Gap, err error) {
		var began, ended int64
		err = scan(&g.ID, &g.Workspace.ID, &g.Workspace.Name, &g.Workspace.Owner.ID, &g.Workspace.Owner.Name, &began, &ended, &g.Detail)
		g.Began, g.Ended = fromMicros(began), fromMicros(ended)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("list gaps: %w", err)
	}
	return all, nil
}

// DeleteConnections removes closed rows that began before a time, at most limit of
// them, and returns how many there were.
func (s *Store) DeleteConnections(ctx context.Context, before time.Time, limit int) (int64, error) {
	var n int64
	err := s.transact(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM connections WHERE key IN
			(SELECT key FROM connections WHERE key < $1 AND live IS NULL ORDER BY key LIMIT $2)`, keyAt(before), limit)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("delete old connections: %w", err)
	}
	return n, nil
}
