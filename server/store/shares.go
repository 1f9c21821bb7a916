package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Share lets a user reach a workspace of somebody else. To share twice is no error.
// ErrNotFound: the workspace, or the user, is gone.
func (s *Store) Share(ctx context.Context, workspaceID, userID string, at time.Time) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		var one int
		err := tx.QueryRowContext(ctx, `SELECT 1 FROM workspaces, users WHERE workspaces.id = $1 AND users.id = $2`,
			workspaceID, userID).Scan(&one)
		if err == nil {
			_, err = tx.ExecContext(ctx,
				`INSERT INTO shares (workspace_id, user_id, created_at) VALUES ($1, $2, $3)
				 ON CONFLICT (workspace_id, user_id) DO NOTHING`, workspaceID, userID, micros(at))
		}
		if err != nil {
			return fmt.Errorf("share workspace: %w", scanned(err))
		}
		return nil
	})
}

// Unshare takes that back, or returns ErrNotFound.
func (s *Store) Unshare(ctx context.Context, workspaceID, userID string) error {
	err := s.withdrawOne(ctx, `DELETE FROM shares WHERE workspace_id = $1 AND user_id = $2`, workspaceID, userID)
	if err != nil {
		return fmt.Errorf("unshare workspace: %w", err)
	}
	return nil
}

// IsShared reports whether a workspace is shared with a user.
func (s *Store) IsShared(ctx context.Context, workspaceID, userID string) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM shares WHERE workspace_id = $1 AND user_id = $2`,
		workspaceID, userID).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look up share: %w", err)
	}
	return n > 0, nil
}

// SharedWith returns the names of the users that a workspace is shared with.
func (s *Store) SharedWith(ctx context.Context, workspaceID string) ([]string, error) {
	rows, err := s.read.QueryContext(ctx,
		`SELECT users.name FROM shares JOIN users ON users.id = shares.user_id
		 WHERE shares.workspace_id = $1 ORDER BY users.name`, workspaceID)
	if err != nil {
		return nil, fmt.Errorf("list shares: %w", err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list shares: %w", err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list shares: %w", err)
	}
	return names, nil
}
