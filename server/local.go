package server

import (
	"context"
	"errors"
	"fmt"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// localLabel marks the user tokens that EnsureLocal makes.
const localLabel = "local"

// EnsureLocal makes what one process that is server and agent at once needs: an admin,
// a workspace of theirs, and a token for each of the two. It may be called at every
// start: the user and the workspace stay, and the tokens replace those of the last
// call, so that nothing piles up. Tokens that the user got by logging in stay valid.
func (s *Server) EnsureLocal(ctx context.Context, userName, workspaceName string) (userToken, agentToken string, err error) {
	if !sdk.ValidName(userName) || !sdk.ValidName(workspaceName) {
		return "", "", fmt.Errorf("set up %q and %q: %s", userName, workspaceName, sdk.NameRule)
	}
	u, err := s.ensureUser(ctx, userName)
	if err != nil {
		return "", "", fmt.Errorf("set up local user: %w", err)
	}
	userToken, row := s.auth.NewUserToken(u.ID, localLabel)
	if err := s.store.ReplaceToken(ctx, row); err != nil {
		return "", "", fmt.Errorf("set up local user: %w", err)
	}
	agentToken, err = s.ensureWorkspace(ctx, u, workspaceName)
	if err != nil {
		return "", "", fmt.Errorf("set up local workspace: %w", err)
	}
	// There is a user now: a code for the first one has no business any more.
	if err := s.auth.RevokeCodes(ctx); err != nil {
		return "", "", fmt.Errorf("set up local user: %w", err)
	}
	return userToken, agentToken, nil
}

func (s *Server) ensureUser(ctx context.Context, name string) (store.User, error) {
	u, err := s.store.UserByName(ctx, name)
	if !errors.Is(err, store.ErrNotFound) {
		return u, err
	}
	if u, err = s.auth.NewUser(name, store.RoleAdmin); err != nil {
		return u, err
	}
	return u, s.store.CreateUser(ctx, u)
}

func (s *Server) ensureWorkspace(ctx context.Context, owner store.User, name string) (agentToken string, err error) {
	ws, err := s.store.WorkspaceByName(ctx, owner.Name, name)
	if errors.Is(err, store.ErrNotFound) {
		_, agentToken, err = s.createWorkspace(ctx, owner.ID, owner.Name, name)
		return agentToken, err
	}
	if err != nil {
		return "", err
	}
	agentToken, hash := auth.NewAgentToken()
	return agentToken, s.store.SetAgentToken(ctx, ws.ID, hash)
}
