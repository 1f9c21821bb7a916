package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"
)

// Relay is a relay that runs as a process of its own.
type Relay struct {
	ID        string // UUID
	Name      string // unique
	Region    int32  // its number in the map of relays, unique for ever; given by CreateRelay
	Code      string // short name of the region
	TokenHash string // hex SHA-256, unique
	CreatedAt time.Time

	// What it last registered: how nodes reach it.
	AccessURL string // empty: it never did
	STUNPort  uint16 // 0: no STUN
	// InMap: it was in reach when this was written, or was lost without a goodbye.
	InMap  bool
	SeenAt time.Time // when it last registered or left; zero: never
}

const relayColumns = `id, name, region, code, token_hash, created_at, access_url, stun_port, in_map, seen_at`

func scanRelay(scan func(dest ...any) error) (Relay, error) {
	var (
		r       Relay
		created int64
		seen    sql.NullInt64
	)
	err := scan(&r.ID, &r.Name, &r.Region, &r.Code, &r.TokenHash, &created, &r.AccessURL, &r.STUNPort, &r.InMap, &seen)
	r.CreatedAt, r.SeenAt = fromMicros(created), fromNullMicros(seen)
	return r, err
}

// lastRegion is the setting that holds the highest region number given so far. firstRegion is
// the first: those below are the server's own.
const (
	lastRegion  = "last_relay_region"
	firstRegion = 10
	maxRegion   = 1<<16 - 1
)

// CreateRelay stores a relay with a region number of its own, which it returns. A name
// that is taken is ErrConflict.
func (s *Store) CreateRelay(ctx context.Context, r Relay) (Relay, error) {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		var text string
		err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, lastRegion).Scan(&text)
		last := firstRegion - 1
		switch err = scanned(err); {
		case err == nil:
			if last, err = strconv.Atoi(text); err != nil {
				return fmt.Errorf("read %s: %w", lastRegion, err)
			}
		case err != ErrNotFound:
			return err
		}
		if last >= maxRegion {
			return fmt.Errorf("all %d region numbers were given", maxRegion)
		}
		r.Region = int32(last + 1)
		if _, err := tx.ExecContext(ctx,
			`INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			lastRegion, strconv.Itoa(last+1)); err != nil {
			return err
		}
		return s.insert(ctx, tx, `INSERT INTO relays (id, name, region, code, token_hash, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			r.ID, r.Name, r.Region, r.Code, r.TokenHash, micros(r.CreatedAt))
	})
	if err != nil {
		return Relay{}, fmt.Errorf("create relay %s: %w", r.Name, err)
	}
	return r, nil
}

// Relays returns every relay in the order of names.
func (s *Store) Relays(ctx context.Context) ([]Relay, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+relayColumns+` FROM relays ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list relays: %w", err)
	}
	defer rows.Close()
	var all []Relay
	for rows.Next() {
		r, err := scanRelay(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list relays: %w", err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list relays: %w", err)
	}
	return all, nil
}

// RelayByToken returns the relay whose token has that hash, or ErrNotFound.
func (s *Store) RelayByToken(ctx context.Context, hash string) (Relay, error) {
	return s.relay(ctx, ` WHERE token_hash = $1`, hash)
}

// RelayByID returns one relay, or ErrNotFound.
func (s *Store) RelayByID(ctx context.Context, id string) (Relay, error) {
	return s.relay(ctx, ` WHERE id = $1`, id)
}

// RelayByName returns the relay of that name, or ErrNotFound.
func (s *Store) RelayByName(ctx context.Context, name string) (Relay, error) {
	return s.relay(ctx, ` WHERE name = $1`, name)
}

func (s *Store) relay(ctx context.Context, where string, arg any) (Relay, error) {
	r, err := scanRelay(s.read.QueryRowContext(ctx, `SELECT `+relayColumns+` FROM relays`+where, arg).Scan)
	if err != nil {
		return Relay{}, fmt.Errorf("look up relay: %w", scanned(err))
	}
	return r, nil
}

// DeleteRelay removes a relay, or returns ErrNotFound.
func (s *Store) DeleteRelay(ctx context.Context, id string) error {
	if err := s.withdrawOne(ctx, `DELETE FROM relays WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete relay: %w", err)
	}
	return nil
}

// RelayRegistered records how nodes reach a relay from now on, or returns ErrNotFound.
func (s *Store) RelayRegistered(ctx context.Context, id, accessURL string, stunPort uint16, at time.Time) error {
	err := affectOne(ctx, s.write, `UPDATE relays SET access_url = $1, stun_port = $2, in_map = TRUE, seen_at = $3 WHERE id = $4`,
		accessURL, int(stunPort), micros(at), id)
	if err != nil {
		return fmt.Errorf("record relay: %w", err)
	}
	return nil
}

// RelayLeft records that a relay is not in the map any more. One that is gone is no error.
func (s *Store) RelayLeft(ctx context.Context, id string, at time.Time) error {
	_, err := s.write.ExecContext(ctx, `UPDATE relays SET in_map = FALSE, seen_at = $1 WHERE id = $2`, micros(at), id)
	if err != nil {
		return fmt.Errorf("record relay: %w", err)
	}
	return nil
}
