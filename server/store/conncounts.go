package store

import (
	"context"
	"fmt"

	"fairlead.dev/fairlead/disconnect"
)

// LiveCount is how many connections of one kind are not closed.
type LiveCount struct {
	ConnectType disconnect.ConnectType
	Type        ConnType
	Path        ConnPath
	Status      ConnStatus
	Count       int
}

// CountLive counts the connections that are not closed. It costs as much as there are of
// them.
func (s *Store) CountLive(ctx context.Context) ([]LiveCount, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT connect_type, type, path, live, count(*) FROM connections
		WHERE live IS NOT NULL GROUP BY connect_type, type, path, live`)
	if err != nil {
		return nil, fmt.Errorf("count live connections: %w", err)
	}
	all, err := collect(rows, func(scan func(...any) error) (c LiveCount, err error) {
		err = scan(&c.ConnectType, &c.Type, &c.Path, &c.Status, &c.Count)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("count live connections: %w", err)
	}
	return all, nil
}

// CountConnections counts all connections of the log. It reads an index of all of them.
func (s *Store) CountConnections(ctx context.Context) (n int64, err error) {
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM connections`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	return n, nil
}
