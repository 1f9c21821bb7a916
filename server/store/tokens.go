package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Scope is what a token may be used for, within what its user may do.
type Scope string

// Scopes.
const (
	// ScopeFull: everything that the user may do.
	ScopeFull Scope = "full"
	// ScopeRead: to look at things through the API, not to change them nor to connect.
	ScopeRead Scope = "read"
	// ScopeSSH: to list workspaces and connect to them.
	ScopeSSH Scope = "ssh"
)

// Token is a user's credential. Only its hash is stored.
type Token struct {
	ID         string // UUID
	UserID     string
	UserName   string // read only: the user's name
	Label      string // what it was made for; for people
	Scope      Scope  // empty when stored: full
	Hash       string // hex SHA-256 of the token, unique
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: not yet
}

const tokenColumns = `tokens.id, tokens.user_id, tokens.label, tokens.scope, tokens.hash,
	tokens.created_at, tokens.expires_at, tokens.last_used_at, ` + userColumns

const tokenFrom = ` FROM tokens JOIN users ON users.id = tokens.user_id`

// scanToken reads a row of tokenColumns.
func scanToken(scan func(dest ...any) error) (Token, User, error) {
	var (
		t                 Token
		created           int64
		expires, lastUsed sql.NullInt64
		user              userRow
	)
	dest := append([]any{&t.ID, &t.UserID, &t.Label, &t.Scope, &t.Hash, &created, &expires, &lastUsed}, user.dest()...)
	if err := scan(dest...); err != nil {
		return Token{}, User{}, err
	}
	t.CreatedAt, t.ExpiresAt, t.LastUsedAt = fromMicros(created), fromNullMicros(expires), fromNullMicros(lastUsed)
	u := user.value()
	t.UserName = u.Name
	return t, u, nil
}

// CreateToken stores t. A hash that exists is ErrConflict.
func (s *Store) CreateToken(ctx context.Context, t Token) error {
	return s.createToken(ctx, s.write, t)
}

func (s *Store) createToken(ctx context.Context, q queryer, t Token) error {
	err := s.insert(ctx, q,
		`INSERT INTO tokens (id, user_id, label, scope, hash, created_at, expires_at, last_used_at)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		t.ID, t.UserID, t.Label, string(cmp.Or(t.Scope, ScopeFull)), t.Hash, micros(t.CreatedAt), nullMicros(t.ExpiresAt), nullMicros(t.LastUsedAt))
	if err != nil {
		return fmt.Errorf("create token: %w", err)
	}
	return nil
}

// TokenByHash returns the token with that hash and its user, or ErrNotFound.
func (s *Store) TokenByHash(ctx context.Context, hash string) (Token, User, error) {
	return s.token(ctx, ` WHERE tokens.hash = $1`, hash)
}

// TokenByID returns one token and its user, or ErrNotFound.
func (s *Store) TokenByID(ctx context.Context, id string) (Token, User, error) {
	return s.token(ctx, ` WHERE tokens.id = $1`, id)
}

func (s *Store) token(ctx context.Context, where string, args ...any) (Token, User, error) {
	t, u, err := scanToken(s.read.QueryRowContext(ctx, `SELECT `+tokenColumns+tokenFrom+where, args...).Scan)
	if err != nil {
		return Token{}, User{}, fmt.Errorf("look up token: %w", scanned(err))
	}
	return t, u, nil
}

// Tokens returns the tokens of one user (everybody's when userID is empty), the newest
// of each user first.
func (s *Store) Tokens(ctx context.Context, userID string) ([]Token, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+tokenColumns+tokenFrom+
		` WHERE $1 = '' OR tokens.user_id = $1 ORDER BY users.name, tokens.created_at DESC, tokens.id`, userID)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	defer rows.Close()
	var all []Token
	for rows.Next() {
		t, _, err := scanToken(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list tokens: %w", err)
		}
		all = append(all, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return all, nil
}

// TouchToken records that a token was used at that time. A token that is gone is no
// error.
func (s *Store) TouchToken(ctx context.Context, id string, at time.Time) error {
	if _, err := s.write.ExecContext(ctx, `UPDATE tokens SET last_used_at = $1 WHERE id = $2`, micros(at), id); err != nil {
		return fmt.Errorf("touch token: %w", err)
	}
	return nil
}

// DeleteToken removes a token, or returns ErrNotFound.
func (s *Store) DeleteToken(ctx context.Context, id string) error {
	if err := s.withdrawOne(ctx, `DELETE FROM tokens WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete token: %w", err)
	}
	return nil
}

// ReplaceToken stores t and removes the user's older tokens of the same label, so that
// something which needs a token at every start does not collect them.
func (s *Store) ReplaceToken(ctx context.Context, t Token) error {
	return s.withdraw(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE user_id = $1 AND label = $2`, t.UserID, t.Label); err != nil {
			return fmt.Errorf("replace token: %w", err)
		}
		return s.createToken(ctx, tx, t)
	})
}
