package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Gap is a time in which a workspace's agent may have had connections that are not in
// the log.
type Gap struct {
	ID        string
	Workspace LoggedWorkspace
	Began     time.Time
	Ended     time.Time
	Detail    string
}

// maxGaps bounds the gaps of one workspace. Beyond it the newest one grows: what is
// said stays true.
const maxGaps = 1000

// InsertGap adds a gap, unless one of its id is there. One that touches the workspace's newest becomes part of it.
func (t *ConnTx) InsertGap(ctx context.Context, g Gap) error {
	workspace, err := t.workspaceNo(ctx, g.Workspace)
	if err != nil {
		return err
	}
	var id string
	var began, ended int64
	var count int
	err = t.row(ctx, `SELECT id, began_at, ended_at, (SELECT count(*) FROM connection_gaps WHERE workspace = $1)
		FROM connection_gaps WHERE workspace = $1 ORDER BY ended_at DESC LIMIT 1`, []any{workspace}, &id, &began, &ended, &count)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return fmt.Errorf("look up gap: %w", err)
	case id == g.ID:
		return nil
	case micros(g.Began) <= ended && micros(g.Ended) >= began || count >= maxGaps:
		_, err = t.exec(ctx, `UPDATE connection_gaps SET began_at = $2, ended_at = $3 WHERE id = $1`,
			id, min(began, micros(g.Began)), max(ended, micros(g.Ended)))
		if err != nil {
			return fmt.Errorf("extend gap: %w", err)
		}
		return nil
	}
	_, err = t.exec(ctx, `INSERT INTO connection_gaps (id, workspace, began_at, ended_at, detail) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO NOTHING`,
		g.ID, workspace, micros(g.Began), micros(g.Ended), g.Detail)
	if err != nil {
		return fmt.Errorf("insert gap: %w", err)
	}
	return nil
}

// GapFilter chooses gaps; a zero field chooses all.
type GapFilter struct {
	For                      string // the id of the user whose workspaces count; empty: an admin
	WorkspaceName, OwnerName string
	Since                    time.Time // those that ended at this time or later
	Limit                    int
}

// Gaps returns the gaps that f chooses, the newest first.
func (s *Store) Gaps(ctx context.Context, f GapFilter) ([]Gap, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT g.id, w.id, w.name, o.id, o.name, g.began_at, g.ended_at, g.detail
		FROM connection_gaps g JOIN logged_workspaces w ON w.no = g.workspace JOIN logged_users o ON o.no = w.owner
		WHERE g.ended_at >= $1 AND ($2 = '' OR o.id = $2) AND ($3 = '' OR w.name = $3) AND ($4 = '' OR o.name = $4)
		ORDER BY g.ended_at DESC LIMIT $5`, max(0, micros(f.Since)), f.For, f.WorkspaceName, f.OwnerName, f.Limit)
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
