package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Role is what a user may do in general.
type Role string

// Roles.
const (
	// RoleAdmin reaches every workspace.
	RoleAdmin Role = "admin"
	// RoleMember reaches the workspaces that they own.
	RoleMember Role = "member"
)

// User is a person who may log in.
type User struct {
	ID        string // UUID
	Name      string // unique
	Role      Role
	CreatedAt time.Time
	Disabled  bool
}

const userColumns = `users.id, users.name, users.role, users.created_at, users.disabled`

// userRow is the scan destination of userColumns.
type userRow struct {
	user    User
	created int64
}

func (r *userRow) dest() []any {
	return []any{&r.user.ID, &r.user.Name, &r.user.Role, &r.created, &r.user.Disabled}
}

func (r *userRow) value() User {
	r.user.CreatedAt = fromMicros(r.created)
	return r.user
}

// CreateUser stores u. A taken name is ErrConflict.
func (s *Store) CreateUser(ctx context.Context, u User) error {
	return s.createUser(ctx, s.write, u)
}

func (s *Store) createUser(ctx context.Context, q queryer, u User) error {
	err := s.insert(ctx, q,
		`INSERT INTO users (id, name, role, created_at, disabled) VALUES ($1, $2, $3, $4, $5)`,
		u.ID, u.Name, string(u.Role), micros(u.CreatedAt), u.Disabled)
	if err != nil {
		return fmt.Errorf("create user %s: %w", u.Name, err)
	}
	return nil
}

// UserByName returns the user of that name, or ErrNotFound.
func (s *Store) UserByName(ctx context.Context, name string) (User, error) {
	return s.user(ctx, ` WHERE name = $1`, name)
}

// UserByID returns one user, or ErrNotFound.
func (s *Store) UserByID(ctx context.Context, id string) (User, error) {
	return s.user(ctx, ` WHERE id = $1`, id)
}

func (s *Store) user(ctx context.Context, where string, args ...any) (User, error) {
	var r userRow
	err := s.read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users`+where, args...).Scan(r.dest()...)
	if err != nil {
		return User{}, fmt.Errorf("look up user: %w", scanned(err))
	}
	return r.value(), nil
}

// CountUsers returns how many users there are, disabled ones included.
func (s *Store) CountUsers(ctx context.Context) (int, error) {
	return countUsers(ctx, s.read)
}

func countUsers(ctx context.Context, q queryer) (int, error) {
	var n int
	if err := q.QueryRowContext(ctx, `SELECT count(*) FROM users`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count users: %w", err)
	}
	return n, nil
}

// SetUserDisabled closes or reopens a user's account, or returns ErrNotFound.
func (s *Store) SetUserDisabled(ctx context.Context, id string, disabled bool) error {
	if err := affectOne(ctx, s.write, `UPDATE users SET disabled = $1 WHERE id = $2`, disabled, id); err != nil {
		return fmt.Errorf("disable user: %w", err)
	}
	return nil
}

// Token is a user's credential. Only its hash is stored.
type Token struct {
	ID         string // UUID
	UserID     string
	Label      string // what it was made for; for people
	Hash       string // hex SHA-256 of the token, unique
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: not yet
}

// CreateToken stores t. A hash that exists is ErrConflict.
func (s *Store) CreateToken(ctx context.Context, t Token) error {
	return s.createToken(ctx, s.write, t)
}

func (s *Store) createToken(ctx context.Context, q queryer, t Token) error {
	err := s.insert(ctx, q,
		`INSERT INTO tokens (id, user_id, label, hash, created_at, expires_at, last_used_at)
		 VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		t.ID, t.UserID, t.Label, t.Hash, micros(t.CreatedAt), nullMicros(t.ExpiresAt), nullMicros(t.LastUsedAt))
	if err != nil {
		return fmt.Errorf("create token: %w", err)
	}
	return nil
}

// TokenByHash returns the token with that hash and its user, or ErrNotFound.
func (s *Store) TokenByHash(ctx context.Context, hash string) (Token, User, error) {
	var (
		t                 Token
		created           int64
		expires, lastUsed sql.NullInt64
		user              userRow
	)
	dest := append([]any{&t.ID, &t.UserID, &t.Label, &t.Hash, &created, &expires, &lastUsed}, user.dest()...)
	err := s.read.QueryRowContext(ctx,
		`SELECT tokens.id, tokens.user_id, tokens.label, tokens.hash, tokens.created_at, tokens.expires_at,
		        tokens.last_used_at, `+userColumns+`
		 FROM tokens JOIN users ON users.id = tokens.user_id
		 WHERE tokens.hash = $1`, hash).Scan(dest...)
	if err != nil {
		return Token{}, User{}, fmt.Errorf("look up token: %w", scanned(err))
	}
	t.CreatedAt, t.ExpiresAt, t.LastUsedAt = fromMicros(created), fromNullMicros(expires), fromNullMicros(lastUsed)
	return t, user.value(), nil
}

// TouchToken records that a token was used at that time. A token that is gone is no
// error.
func (s *Store) TouchToken(ctx context.Context, id string, at time.Time) error {
	if _, err := s.write.ExecContext(ctx, `UPDATE tokens SET last_used_at = $1 WHERE id = $2`, micros(at), id); err != nil {
		return fmt.Errorf("touch token: %w", err)
	}
	return nil
}

// ReplaceToken stores t and removes the user's older tokens of the same label, so that
// something which needs a token at every start does not collect them.
func (s *Store) ReplaceToken(ctx context.Context, t Token) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE user_id = $1 AND label = $2`, t.UserID, t.Label); err != nil {
			return fmt.Errorf("replace token: %w", err)
		}
		return s.createToken(ctx, tx, t)
	})
}
