package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/coordinator"
)

// authorize tells the coordinator whether a client may reach a workspace, which it
// names by its id, by the name of one of its own, or as "owner/name". The user is
// looked up anew each time: the right may be gone since the client connected.
func (s *Server) authorize(ctx context.Context, client control.Identity, name string) (coordinator.Right, error) {
	if client.Kind != control.ClientPeer {
		return coordinator.Right{}, coordinator.ErrNotFound
	}
	// A tunnel lasts no longer than the token that it was asked for with.
	t, u, err := s.tokenStands(ctx, client.ID, client.TokenID)
	if err != nil {
		return coordinator.Right{}, err
	}
	p := auth.Principal{Kind: auth.KindUser, UserID: u.ID, UserName: u.Name, Role: u.Role}
	ws, err := s.named(ctx, p, name)
	if err != nil {
		return coordinator.Right{}, denied(err)
	}
	if ws.OwnerID != u.ID {
		if err := s.store.Reached(ctx, ws.ID, u.ID); err != nil { // nobody is kept out for it
			s.logger.WarnContext(ctx, "cannot record who reached a workspace", "workspace_id", ws.ID, "error", err)
		}
	}
	return coordinator.Right{WorkspaceID: ws.ID, HostKey: ws.SSHHostKey, Until: t.ExpiresAt}, nil
}

// tokenStands returns a token and its user, or why that user's token lets nobody in any
// more: a coordinator.ErrNotFound, which mostly says what ended the right.
func (s *Server) tokenStands(ctx context.Context, userID, tokenID string) (store.Token, store.User, error) {
	t, u, err := s.store.TokenByID(ctx, tokenID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = withdrawnAs(revoked("the token was revoked"))
	case err != nil:
		err = fmt.Errorf("authorize: %w", err)
	case u.ID != userID:
		err = coordinator.ErrNotFound
	case u.Disabled:
		err = withdrawnAs(revoked(auth.ErrDisabled.Error()))
	case !t.ExpiresAt.IsZero() && !s.opts.Now().Before(t.ExpiresAt):
		err = withdrawnAs(expired())
	}
	return t, u, err
}

// withdrawnAs denies a right that there was, and says what ended it.
func withdrawnAs(g disconnect.Goodbye) error {
	return fmt.Errorf("%w: %w", coordinator.ErrNotFound, &disconnect.EndedError{Attribution: g.On(disconnect.ClientToServer)})
}

// idLen is the length of a workspace's id.
const idLen = 36

// named returns the workspace that p means by a name or an id, or store.ErrNotFound.
func (s *Server) named(ctx context.Context, p auth.Principal, name string) (store.Workspace, error) {
	// An id without its hyphens is as long as a name may be, and a valid one.
	if len(name) == idLen && uuid.Validate(name) == nil {
		ws, err := s.store.WorkspaceByID(ctx, name)
		if err != nil {
			return ws, err
		}
		return ws, s.mayReach(ctx, p, ws)
	}
	owner, rest, ok := strings.Cut(name, "/")
	if !ok {
		owner, rest = p.UserName, name
	}
	return s.reachable(ctx, p, owner, rest)
}

// mayReach returns store.ErrNotFound for a workspace that p may not reach.
func (s *Server) mayReach(ctx context.Context, p auth.Principal, ws store.Workspace) error {
	ok, err := s.auth.CanReach(ctx, p, ws)
	if err == nil && !ok {
		err = store.ErrNotFound
	}
	return err
}

// denied turns the store's answer into the coordinator's.
func denied(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return coordinator.ErrNotFound
	}
	return fmt.Errorf("authorize: %w", err)
}

// offline tells the coordinator about an agent that it has not seen in this life.
func (s *Server) offline(ctx context.Context, workspaceID string) (time.Time, disconnect.Attribution, bool) {
	ws, err := s.store.WorkspaceByID(ctx, workspaceID)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) {
			s.logger.WarnContext(ctx, "cannot look up an agent's ending", "workspace_id", workspaceID, "error", err)
		}
		return time.Time{}, disconnect.Attribution{}, false
	}
	return ws.Agent.SeenAt, ws.Agent.Ending, !ws.Agent.SeenAt.IsZero()
}
