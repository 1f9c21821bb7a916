package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// RekeyLife is how long an agent may take to register the new key of a rekey.
const RekeyLife = 24 * time.Hour

// Rekey is an owner's word that a workspace's agent may have another SSH host key.
type Rekey struct {
	By     string // user name
	At     time.Time
	OldKey string
	NewKey string // empty until the agent registers it
}

// Rekey lets a workspace's agent register another SSH host key, once and within
// [RekeyLife]. Until it does, the pinned key stays good. ErrConflict: no key is pinned
// yet, so that the agent's first one will be anyway.
func (s *Store) Rekey(ctx context.Context, workspaceID, by string, at time.Time) error {
	return s.withdraw(ctx, func(tx *sql.Tx) error {
		var pinned string
		err := tx.QueryRowContext(ctx, `SELECT ssh_host_key FROM workspaces WHERE id = $1`, workspaceID).Scan(&pinned)
		if err == nil && pinned == "" {
			err = ErrConflict
		}
		if err == nil { // a newer word replaces one that nobody has used
			_, err = tx.ExecContext(ctx, `DELETE FROM rekeys WHERE workspace_id = $1 AND new_key = ''`, workspaceID)
		}
		if err == nil {
			_, err = tx.ExecContext(ctx,
				`INSERT INTO rekeys (id, workspace_id, user_name, created_at, old_key) VALUES ($1, $2, $3, $4, $5)`,
				uuid.NewString(), workspaceID, by, micros(at), pinned)
		}
		if err != nil {
			return fmt.Errorf("rekey workspace: %w", scanned(err))
		}
		return nil
	})
}

// Rekeys returns the changes of a workspace's host key that its owner allowed, the
// oldest first.
func (s *Store) Rekeys(ctx context.Context, workspaceID string) ([]Rekey, error) {
	rows, err := s.read.QueryContext(ctx,
		`SELECT user_name, created_at, old_key, new_key FROM rekeys WHERE workspace_id = $1 ORDER BY created_at, id`, workspaceID)
	if err != nil {
		return nil, fmt.Errorf("list rekeys: %w", err)
	}
	defer rows.Close()
	var all []Rekey
	for rows.Next() {
		var r Rekey
		var at int64
		if err := rows.Scan(&r.By, &at, &r.OldKey, &r.NewKey); err != nil {
			return nil, fmt.Errorf("list rekeys: %w", err)
		}
		r.At = fromMicros(at)
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list rekeys: %w", err)
	}
	return all, nil
}

// PinSSHHostKey pins key unless one is pinned already that no rekey lets go, and
// returns the pinned one. ErrNotFound: no such workspace.
func (s *Store) PinSSHHostKey(ctx context.Context, id, key string, at time.Time) (pinned string, err error) {
	err = s.withdraw(ctx, func(tx *sql.Tx) error { // a key that was replaced must not come back
		err := tx.QueryRowContext(ctx, `SELECT ssh_host_key FROM workspaces WHERE id = $1`, id).Scan(&pinned)
		if err != nil {
			return scanned(err)
		}
		if pinned == key {
			return nil
		}
		if pinned != "" {
			res, err := tx.ExecContext(ctx,
				`UPDATE rekeys SET new_key = $1 WHERE workspace_id = $2 AND new_key = '' AND created_at > $3`,
				key, id, micros(at.Add(-RekeyLife)))
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n == 0 || err != nil {
				return err
			}
		}
		pinned = key
		_, err = tx.ExecContext(ctx, `UPDATE workspaces SET ssh_host_key = $1 WHERE id = $2`, key, id)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("pin ssh host key: %w", err)
	}
	return pinned, nil
}
