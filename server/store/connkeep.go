package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// aliveAt is the setting that says when the server last knew that it lived.
const aliveAt = "alive_at"

// Alive records that the server lived at that time, and all that the database believes
// open was open.
func (s *Store) Alive(ctx context.Context, at time.Time) error {
	_, err := s.write.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, aliveAt, strconv.FormatInt(micros(at), 10))
	if err != nil {
		return fmt.Errorf("record a sign of life: %w", err)
	}
	return nil
}

// AliveAt returns the time of the last [Store.Alive]; zero when there was none.
func (t *ConnTx) AliveAt(ctx context.Context) (time.Time, error) {
	var at int64
	err := t.row(ctx, `SELECT CAST(value AS BIGINT) FROM settings WHERE name = $1`, []any{aliveAt}, &at)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read the last sign of life: %w", err)
	}
	return fromMicros(at), nil
}

// SilentAgent is an agent with connections that are not heard of.
type SilentAgent struct {
	WorkspaceID string
	// SeenAt is when its last control link ended, and Ending how; both are zero when
	// the workspace does not exist any more.
	SeenAt time.Time
	Ending disconnect.Attribution
}

// SilentAgents returns the agents with connections that are not heard of.
func (t *ConnTx) SilentAgents(ctx context.Context) ([]SilentAgent, error) {
	rows, err := t.tx.QueryContext(ctx, `SELECT DISTINCT l.id, w.agent_seen_at, COALESCE(w.ending_reason, 0),
		COALESCE(w.ending_initiator, 0), COALESCE(w.ending_detail, '')
		FROM connections c JOIN logged_workspaces l ON l.no = c.workspace LEFT JOIN workspaces w ON w.id = l.id
		WHERE c.live = $1`, int(StatusUnheard))
	if err != nil {
		return nil, fmt.Errorf("list silent agents: %w", err)
	}
	return collect(rows, func(scan func(...any) error) (a SilentAgent, err error) {
		var seen sql.NullInt64
		a.Ending.ConnectType = disconnect.ServerToAgent
		err = scan(&a.WorkspaceID, &seen, &a.Ending.Reason, &a.Ending.Initiator, &a.Ending.Detail)
		a.SeenAt = fromNullMicros(seen)
		return a, err
	})
}

// Reached records that a user was let into a workspace, which its agent may tell of
// when the right is long gone.
func (s *Store) Reached(ctx context.Context, workspaceID, userID string) error {
	var known int
	err := scanned(s.read.QueryRowContext(ctx, `SELECT 1 FROM reached WHERE workspace_id = $1 AND user_id = $2`,
		workspaceID, userID).Scan(&known))
	if errors.Is(err, ErrNotFound) { // a write only the first time
		_, err = s.write.ExecContext(ctx, `INSERT INTO reached (workspace_id, user_id) VALUES ($1, $2)
			ON CONFLICT (workspace_id, user_id) DO NOTHING`, workspaceID, userID)
	}
	if err != nil {
		return fmt.Errorf("record who reached a workspace: %w", err)
	}
	return nil
}

// UserOf returns the user of that name as the log remembers them, if they may reach the
// workspace or ever did; otherwise the zero value: an agent's word alone connects
// nobody with its workspace.
func (t *ConnTx) UserOf(ctx context.Context, workspaceID, name string) (LoggedUser, error) {
	if name == "" {
		return LoggedUser{}, nil
	}
	u := LoggedUser{Name: name}
	err := t.row(ctx, `SELECT id FROM users WHERE name = $1 AND (role = 'admin'
		OR id = (SELECT owner_id FROM workspaces WHERE id = $2)
		OR EXISTS (SELECT 1 FROM shares WHERE workspace_id = $2 AND user_id = users.id)
		OR EXISTS (SELECT 1 FROM reached WHERE workspace_id = $2 AND user_id = users.id))`, []any{name, workspaceID}, &u.ID)
	if errors.Is(err, ErrNotFound) {
		return LoggedUser{}, nil
	}
	if err != nil {
		return LoggedUser{}, fmt.Errorf("look up user: %w", err)
	}
	return u, nil
}

// Announced is what the log knows of one connection id.
type Announced struct {
	WorkspaceID string
	Live        bool // not closed
	Provisional bool // closed, and that may be wrong
}

// Announced looks up connection ids of agents; one that has no row is not in the answer.
func (s *Store) Announced(ctx context.Context, ids []string) (map[string]Announced, error) {
	stmt, err := s.read.PrepareContext(ctx, `SELECT COALESCE(w.id, ''), c.live IS NOT NULL, c.live IS NULL AND c.provisional
		FROM connections c LEFT JOIN logged_workspaces w ON w.no = c.workspace WHERE c.id = $1`)
	if err != nil {
		return nil, fmt.Errorf("look up connections: %w", err)
	}
	defer stmt.Close()
	found := make(map[string]Announced, len(ids))
	for _, id := range ids {
		var a Announced
		switch err := scanned(stmt.QueryRowContext(ctx, id).Scan(&a.WorkspaceID, &a.Live, &a.Provisional)); {
		case err == nil:
			found[id] = a
		case !errors.Is(err, ErrNotFound):
			return nil, fmt.Errorf("look up connections: %w", err)
		}
	}
	return found, nil
}

// DeleteConnections removes at most limit closed connections that began before a time,
// and as many gaps that ended before it. It returns how many rows went.
func (s *Store) DeleteConnections(ctx context.Context, before time.Time, limit int) (n int64, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		n = 0
		for query, at := range map[string]int64{
			`DELETE FROM connections WHERE key IN
				(SELECT key FROM connections WHERE key < $1 AND live IS NULL ORDER BY key LIMIT $2)`: keyAt(before),
			`DELETE FROM connection_gaps WHERE id IN
				(SELECT id FROM connection_gaps WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)`: micros(before),
		} {
			res, err := tx.ExecContext(ctx, query, at, limit)
			if err != nil {
				return err
			}
			gone, err := res.RowsAffected()
			if err != nil {
				return err
			}
			n += gone
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("delete old connections: %w", err)
	}
	return n, nil
}

// ForgetNames removes the users and workspaces from the log that no row of it names.
func (s *Store) ForgetNames(ctx context.Context) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM logged_workspaces
			WHERE NOT EXISTS (SELECT 1 FROM connections WHERE workspace = logged_workspaces.no)
			  AND NOT EXISTS (SELECT 1 FROM connection_gaps WHERE workspace = logged_workspaces.no)`)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM logged_users
			WHERE NOT EXISTS (SELECT 1 FROM connections WHERE user_no = logged_users.no)
			  AND NOT EXISTS (SELECT 1 FROM logged_workspaces WHERE owner = logged_users.no)`)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget names of the connection log: %w", err)
	}
	return nil
}
