package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
)

// Answers that callers tell apart from a failure of the database.
var (
	// ErrUnauthenticated: nobody is behind this token.
	ErrUnauthenticated = errors.New("the token is not valid")
	// ErrExpired: the token was valid once.
	ErrExpired = errors.New("the token has expired")
	// ErrDisabled: the token is right, but its user's account is closed.
	ErrDisabled = errors.New("this account is disabled")
	// ErrInvalidCode: the one-time code cannot be redeemed.
	ErrInvalidCode = errors.New("the code is not valid: it is wrong, was used, or is older than 15 minutes")
	// ErrNotAdmin: the one-time code is right, but it lets only an admin in.
	ErrNotAdmin = errors.New("there is no admin of that name with an open account")
	// ErrInvalidName: see [sdk.ValidName].
	ErrInvalidName = errors.New(sdk.NameRule)
)

// touchEvery bounds how often the use of one token is written down.
const touchEvery = time.Minute

// Kind is what kind of peer a principal is.
type Kind uint8

// Kinds.
const (
	KindUser  Kind = 1
	KindAgent Kind = 2
	KindRelay Kind = 3
)

// Principal is who is behind a token.
type Principal struct {
	Kind Kind
	// UserID and UserName are the user; of an agent, the workspace's owner; empty for a relay.
	UserID   string
	UserName string
	// Role is the user's; empty for an agent.
	Role store.Role
	// WorkspaceID and WorkspaceName are an agent's own; empty for a user.
	WorkspaceID   string
	WorkspaceName string
	// RelayID and RelayName are a relay's own; empty for others.
	RelayID   string
	RelayName string
	// TokenID names the token in logs; it is no secret. For an agent see [AgentTokenID].
	TokenID string
	// Scope bounds what the token may be used for, and ExpiresAt until when (zero:
	// for ever). Empty for an agent or a relay.
	Scope     store.Scope
	ExpiresAt time.Time
}

// IsAdmin reports whether p is a user with the admin role.
func (p Principal) IsAdmin() bool { return p.Kind == KindUser && p.Role == store.RoleAdmin }

// Options configure [New].
type Options struct {
	Store *store.Store
	// StateDir is where the one-time code's file is written.
	StateDir string
	Logger   *slog.Logger     // nil discards
	Now      func() time.Time // nil: time.Now
}

// Auth answers who and whether. It is safe for concurrent use and keeps no state but
// the database's.
type Auth struct {
	store    *store.Store
	stateDir string
	logger   *slog.Logger
	now      func() time.Time
}

// New returns an Auth on a store, which it does not close.
func New(opts Options) *Auth {
	a := &Auth{store: opts.Store, stateDir: opts.StateDir, logger: opts.Logger, now: opts.Now}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// Authenticate returns who is behind a bearer token: ErrUnauthenticated, ErrExpired or
// ErrDisabled when nobody is, any other error when the database failed.
func (a *Auth) Authenticate(ctx context.Context, bearer string) (Principal, error) {
	kind, ok := KindOf(bearer)
	if !ok {
		return Principal{}, ErrUnauthenticated
	}
	switch kind {
	case KindAgent:
		return a.authenticateAgent(ctx, bearer)
	case KindRelay:
		return a.authenticateRelay(ctx, bearer)
	}
	return a.authenticateUser(ctx, bearer)
}

func (a *Auth) authenticateAgent(ctx context.Context, bearer string) (Principal, error) {
	w, err := a.store.WorkspaceByAgentToken(ctx, hashText(bearer))
	if errors.Is(err, store.ErrNotFound) {
		return Principal{}, ErrUnauthenticated
	}
	if err != nil {
		return Principal{}, fmt.Errorf("authenticate agent: %w", err)
	}
	return Principal{
		Kind: KindAgent, UserID: w.OwnerID, UserName: w.OwnerName,
		WorkspaceID: w.ID, WorkspaceName: w.Name, TokenID: AgentTokenID(w),
	}, nil
}

func (a *Auth) authenticateRelay(ctx context.Context, bearer string) (Principal, error) {
	r, err := a.store.RelayByToken(ctx, hashText(bearer))
	if errors.Is(err, store.ErrNotFound) {
		return Principal{}, ErrUnauthenticated
	}
	if err != nil {
		return Principal{}, fmt.Errorf("authenticate relay: %w", err)
	}
	return Principal{Kind: KindRelay, RelayID: r.ID, RelayName: r.Name, TokenID: r.ID}, nil
}

// AgentTokenID names the token that a workspace's agent has now: another one after
// each rotation.
func AgentTokenID(w store.Workspace) string { return w.AgentTokenHash[:min(len(w.AgentTokenHash), 16)] }

func (a *Auth) authenticateUser(ctx context.Context, bearer string) (Principal, error) {
	t, u, err := a.store.TokenByHash(ctx, hashText(bearer))
	now := a.now()
	switch {
	case errors.Is(err, store.ErrNotFound):
		return Principal{}, ErrUnauthenticated
	case err != nil:
		return Principal{}, fmt.Errorf("authenticate user: %w", err)
	case u.Disabled:
		return Principal{}, ErrDisabled
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return Principal{}, ErrExpired
	}
	if now.Sub(t.LastUsedAt) >= touchEvery {
		// A full disk must not lock people out: the time of use is only information.
		if err := a.store.TouchToken(ctx, t.ID, now); err != nil {
			a.logger.LogAttrs(ctx, slog.LevelWarn, "cannot record the use of a token", slog.String("error", err.Error()))
		}
	}
	return Principal{
		Kind: KindUser, UserID: u.ID, UserName: u.Name, Role: u.Role,
		TokenID: t.ID, Scope: t.Scope, ExpiresAt: t.ExpiresAt,
	}, nil
}

// CanReach reports whether p may connect to a workspace and see that it exists: its
// owner, admins, and the users it is shared with may. An agent reaches nothing, not
// even itself.
func (a *Auth) CanReach(ctx context.Context, p Principal, w store.Workspace) (bool, error) {
	if p.Kind != KindUser || CanManage(p, w) {
		return p.Kind == KindUser, nil
	}
	shared, err := a.store.IsShared(ctx, w.ID, p.UserID)
	if err != nil {
		return false, fmt.Errorf("decide who reaches a workspace: %w", err)
	}
	return shared, nil
}

// CanManage reports whether p may change or delete a workspace and say who reaches
// it: its owner and admins may.
func CanManage(p Principal, w store.Workspace) bool {
	return p.Kind == KindUser && (p.UserID == w.OwnerID || p.IsAdmin())
}

// NewUser returns a user that is not stored yet, or ErrInvalidName.
func (a *Auth) NewUser(name string, role store.Role) (store.User, error) {
	if !sdk.ValidName(name) {
		return store.User{}, ErrInvalidName
	}
	return store.User{ID: uuid.NewString(), Name: name, Role: role, CreatedAt: a.now().Truncate(time.Microsecond)}, nil
}

// NewUserToken returns a new token of a user, and its row, not stored yet. It is for
// everything and does not expire; the caller may change both in the row.
func (a *Auth) NewUserToken(userID, label string) (token string, row store.Token) {
	token = newToken(userPrefix)
	return token, store.Token{
		ID: uuid.NewString(), UserID: userID, Label: label, Scope: store.ScopeFull,
		Hash: hashText(token), CreatedAt: a.now().Truncate(time.Microsecond),
	}
}
