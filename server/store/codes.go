package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// ErrUsersExist: the one-time code makes the first user, and there is one already.
var ErrUsersExist = errors.New("users exist already")

// SetCode makes the code with that hash the only one, valid until expires.
func (s *Store) SetCode(ctx context.Context, hash string, created, expires time.Time) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM codes`); err != nil {
			return fmt.Errorf("store code: %w", err)
		}
		if err := s.insert(ctx, tx, `INSERT INTO codes (hash, created_at, expires_at) VALUES ($1, $2, $3)`,
			hash, micros(created), micros(expires)); err != nil {
			return fmt.Errorf("store code: %w", err)
		}
		return nil
	})
}

// DeleteCodes makes every code invalid.
func (s *Store) DeleteCodes(ctx context.Context) error {
	if _, err := s.write.ExecContext(ctx, `DELETE FROM codes`); err != nil {
		return fmt.Errorf("delete codes: %w", err)
	}
	return nil
}

// CodeValid reports whether the code with that hash could be redeemed at that time. It
// only reads, so that guesses do not queue for the writer.
func (s *Store) CodeValid(ctx context.Context, hash string, at time.Time) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx,
		`SELECT count(*) FROM codes WHERE hash = $1 AND used_at IS NULL AND expires_at > $2`,
		hash, micros(at)).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look up code: %w", err)
	}
	return n > 0, nil
}

// RedeemCode uses up the code with that hash and stores the first user with a token.
// All of it happens or nothing. ErrNotFound: the code is unknown, used or expired.
// ErrUsersExist: it came too late.
func (s *Store) RedeemCode(ctx context.Context, hash string, at time.Time, u User, t Token) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		err := affectOne(ctx, tx,
			`UPDATE codes SET used_at = $1 WHERE hash = $2 AND used_at IS NULL AND expires_at > $1`,
			micros(at), hash)
		if err != nil {
			return fmt.Errorf("redeem code: %w", err)
		}
		n, err := countUsers(ctx, tx)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("redeem code: %w", ErrUsersExist)
		}
		if err := s.createUser(ctx, tx, u); err != nil {
			return err
		}
		return s.createToken(ctx, tx, t)
	})
}
