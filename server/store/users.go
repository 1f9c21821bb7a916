package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Role is what a user may do in general.
type Role string

// Roles.
const (
	// RoleAdmin reaches every workspace.
	RoleAdmin Role = "admin"
	// RoleMember reaches the workspaces that they own, and those shared with them.
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

// CreateUserWithToken stores u and their first token, or neither. A taken name is
// ErrConflict.
func (s *Store) CreateUserWithToken(ctx context.Context, u User, t Token) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		if err := s.createUser(ctx, tx, u); err != nil {
			return err
		}
		return s.createToken(ctx, tx, t)
	})
}

// UserByName returns the user of that name, or ErrNotFound.
func (s *Store) UserByName(ctx context.Context, name string) (User, error) {
	return user(ctx, s.read, ` WHERE name = $1`, name)
}

func user(ctx context.Context, q queryer, where string, args ...any) (User, error) {
	var r userRow
	err := q.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users`+where, args...).Scan(r.dest()...)
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

// Users returns every user in the order of their names.
func (s *Store) Users(ctx context.Context) ([]User, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+userColumns+` FROM users ORDER BY users.name`)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	defer rows.Close()
	var all []User
	for rows.Next() {
		var r userRow
		if err := rows.Scan(r.dest()...); err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		all = append(all, r.value())
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return all, nil
}

// ErrLastAdmin: the change would leave nobody with the admin role and an open account.
var ErrLastAdmin = errors.New("the last admin must stay")

// UpdateUser changes the role of a user, and whether the account is closed, from what
// they are by then: two changes at one time do not undo each other. It returns the user
// as stored. ErrNotFound: no such user. ErrLastAdmin: nobody would be left to administer
// the server.
func (s *Store) UpdateUser(ctx context.Context, id string, change func(*User)) (u User, err error) {
	err = s.withdraw(ctx, func(tx *sql.Tx) error {
		if u, err = user(ctx, tx, ` WHERE id = $1`, id); err != nil {
			return err
		}
		change(&u)
		before, err := countAdmins(ctx, tx)
		if err != nil {
			return err
		}
		err = affectOne(ctx, tx, `UPDATE users SET role = $1, disabled = $2 WHERE id = $3`, string(u.Role), u.Disabled, id)
		if err != nil {
			return fmt.Errorf("update user: %w", err)
		}
		after, err := countAdmins(ctx, tx)
		if err == nil && after == 0 && before > 0 {
			err = fmt.Errorf("update user: %w", ErrLastAdmin)
		}
		return err
	})
	return u, err
}

// countAdmins returns how many admins have an open account.
func countAdmins(ctx context.Context, q queryer) (int, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM users WHERE role = $1 AND NOT disabled`, string(RoleAdmin)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count admins: %w", err)
	}
	return n, nil
}
