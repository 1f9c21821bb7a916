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

// ErrNoAdmin: there is no admin of that name with an open account.
var ErrNoAdmin = errors.New("no such admin")

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
	return s.redeem(ctx, hash, at, func(tx *sql.Tx) error {
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

// RedeemCodeForAdmin uses up the code with that hash and stores t, whose user it sets to
// the admin of that name with an open account, or to the oldest one when name is empty.
// It returns that admin. ErrNotFound: the code is unknown, used or expired. ErrNoAdmin:
// nobody is meant. ErrUsersExist: an admin has a token with which to get in.
func (s *Store) RedeemCodeForAdmin(ctx context.Context, hash string, at time.Time, name string, t Token) (u User, err error) {
	err = s.redeem(ctx, hash, at, func(tx *sql.Tx) error {
		n, err := countAdminTokens(ctx, tx, at)
		if err == nil && n > 0 {
			err = ErrUsersExist
		}
		if err == nil {
			u, err = openAdmin(ctx, tx, name)
		}
		if err != nil {
			return fmt.Errorf("redeem code: %w", err)
		}
		t.UserID = u.ID
		return s.createToken(ctx, tx, t)
	})
	return u, err
}

// redeem uses up a code and does what it is for, or neither.
func (s *Store) redeem(ctx context.Context, hash string, at time.Time, do func(tx *sql.Tx) error) error {
	return s.withdraw(ctx, func(tx *sql.Tx) error {
		err := affectOne(ctx, tx,
			`UPDATE codes SET used_at = $1 WHERE hash = $2 AND used_at IS NULL AND expires_at > $1`,
			micros(at), hash)
		if err != nil {
			return fmt.Errorf("redeem code: %w", err)
		}
		return do(tx)
	})
}

// LockedOut returns the oldest admin with an open account when no such admin has a token
// of full scope that is valid at that time. ErrNotFound: one has, or there is no admin.
func (s *Store) LockedOut(ctx context.Context, at time.Time) (User, error) {
	n, err := countAdminTokens(ctx, s.read, at)
	if err == nil && n > 0 {
		err = ErrNotFound
	}
	if err != nil {
		return User{}, err
	}
	u, err := openAdmin(ctx, s.read, "")
	if errors.Is(err, ErrNoAdmin) {
		err = ErrNotFound
	}
	return u, err
}

// openAdmin returns the admin of that name with an open account, the oldest one when it
// is empty, or ErrNoAdmin.
func openAdmin(ctx context.Context, q queryer, name string) (User, error) {
	u, err := user(ctx, q, ` WHERE role = $1 AND NOT disabled AND ($2 = '' OR name = $2) ORDER BY created_at, id LIMIT 1`,
		string(RoleAdmin), name)
	if errors.Is(err, ErrNotFound) {
		err = ErrNoAdmin
	}
	return u, err
}

// countAdminTokens returns with how many tokens somebody could administer the server.
func countAdminTokens(ctx context.Context, q queryer, at time.Time) (int, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM tokens JOIN users ON users.id = tokens.user_id
		 WHERE users.role = $1 AND NOT users.disabled AND tokens.scope = $2
		   AND (tokens.expires_at IS NULL OR tokens.expires_at > $3)`,
		string(RoleAdmin), string(ScopeFull), micros(at)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count admins' tokens: %w", err)
	}
	return n, nil
}
