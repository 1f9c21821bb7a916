package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// getHealth answers while the process serves at all.
func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request, _ auth.Principal) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// getReady answers whether the server can do its work now.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	if s.stopping() {
		return errStopping
	}
	if err := s.store.Ping(r.Context()); err != nil {
		return &refusal{http.StatusServiceUnavailable, sdk.CodeUnavailable, "the database does not answer", disconnect.InternalError}
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	return nil
}

func (s *Server) getVersion(w http.ResponseWriter, _ *http.Request, _ auth.Principal) error {
	writeJSON(w, http.StatusOK, sdk.BuildInfo{Version: s.opts.Version})
	return nil
}

// postLogin exchanges the one-time code.
func (s *Server) postLogin(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	var req sdk.LoginRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := s.limits.mayTry(r.RemoteAddr, codeCost); err != nil {
		return err
	}
	u, token, err := s.auth.Redeem(r.Context(), req.Code, req.Name)
	switch {
	case errors.Is(err, auth.ErrInvalidCode):
		return s.limits.failed(r.RemoteAddr, codeCost, unauthenticated(sdk.CodeInvalidCode, auth.ErrInvalidCode.Error()))
	case errors.Is(err, auth.ErrInvalidName):
		return invalid("the user name is not valid: " + sdk.NameRule)
	case errors.Is(err, auth.ErrNotAdmin):
		return invalid(auth.ErrNotAdmin.Error())
	case err != nil:
		return err
	}
	s.logger.InfoContext(r.Context(), "logged in with the one-time code", "user", u.Name)
	writeJSON(w, http.StatusOK, sdk.LoginResponse{Token: token, User: userOut(u)})
	return nil
}

// getWorkspaces lists what the caller reaches: every workspace for an admin.
func (s *Server) getWorkspaces(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	userID := p.UserID
	if p.IsAdmin() {
		userID = ""
	}
	all, err := s.store.Workspaces(r.Context(), userID)
	if err != nil {
		return err
	}
	list := sdk.WorkspaceList{Workspaces: make([]sdk.Workspace, 0, len(all))}
	for _, ws := range all {
		list.Workspaces = append(list.Workspaces, s.workspaceOut(ws))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// postWorkspace makes a workspace of the caller.
func (s *Server) postWorkspace(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	var req sdk.CreateWorkspaceRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if !sdk.ValidName(req.Name) {
		return invalid("the workspace name is not valid: " + sdk.NameRule)
	}
	ws, token, err := s.createWorkspace(r.Context(), p.UserID, p.UserName, req.Name)
	if errors.Is(err, store.ErrConflict) {
		return &refusal{http.StatusConflict, sdk.CodeConflict, "you have a workspace " + req.Name + " already", disconnect.ProtocolError}
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, sdk.CreateWorkspaceResponse{Workspace: s.workspaceOut(ws), AgentToken: token})
	return nil
}

// createWorkspace stores a new workspace and returns its agent's token.
func (s *Server) createWorkspace(ctx context.Context, ownerID, ownerName, name string) (store.Workspace, string, error) {
	token, hash := auth.NewAgentToken()
	ws := store.Workspace{
		ID: uuid.NewString(), OwnerID: ownerID, OwnerName: ownerName, Name: name,
		AgentTokenHash: hash, CreatedAt: s.opts.Now(),
	}
	if err := s.store.CreateWorkspace(ctx, ws); err != nil {
		return store.Workspace{}, "", err
	}
	s.logger.InfoContext(ctx, "workspace created", "workspace", ownerName+"/"+name, "workspace_id", ws.ID)
	return ws, token, nil
}

// getWorkspace answers the same for a workspace that does not exist and for somebody
// else's.
func (s *Server) getWorkspace(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	owner := r.PathValue("owner")
	if owner == "" {
		owner = p.UserName
	}
	ws, err := s.reachable(r.Context(), p, owner, r.PathValue("name"))
	if errors.Is(err, store.ErrNotFound) {
		return errNoWorkspace
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.workspaceOut(ws))
	return nil
}

// reachable returns a workspace that p may reach, or store.ErrNotFound.
func (s *Server) reachable(ctx context.Context, p auth.Principal, owner, name string) (store.Workspace, error) {
	if !sdk.ValidName(owner) || !sdk.ValidName(name) {
		return store.Workspace{}, store.ErrNotFound
	}
	ws, err := s.store.WorkspaceByName(ctx, owner, name)
	if err != nil {
		return store.Workspace{}, err
	}
	return ws, s.mayReach(ctx, p, ws)
}

// workspaceOut joins what is stored of a workspace with whether its agent is here now.
func (s *Server) workspaceOut(ws store.Workspace) sdk.Workspace {
	out := sdk.Workspace{ID: ws.ID, Name: ws.Name, Owner: ws.OwnerName, CreatedAt: ws.CreatedAt, SSHHostKey: ws.SSHHostKey}
	if o := ws.Orders; !o.StoppedAt.IsZero() {
		out.Stopped = &sdk.Stopped{By: o.StoppedBy, At: o.StoppedAt}
	}
	if n := ws.Orders.Notice; n.Kind != "" && !s.opts.Now().After(n.Deadline.Add(evictionSlack)) {
		out.Notice = &sdk.Notice{Kind: n.Kind, At: n.At, Deadline: n.Deadline}
	}
	linkedSince, linked := s.presence.since(ws.ID)
	_, since, coordinated := s.coordinator.Online(ws.ID)
	switch {
	case linked && coordinated:
		out.Agent = sdk.Agent{Status: sdk.AgentOnline, Since: &since}
	case linked: // a tunnel would still be refused
		out.Agent = sdk.Agent{Status: sdk.AgentConnecting, Since: &linkedSince}
	case ws.Agent.SeenAt.IsZero():
		out.Agent = sdk.Agent{Status: sdk.AgentNever}
	default:
		e := ws.Agent.Ending
		out.Agent = sdk.Agent{Status: sdk.AgentOffline, Since: &ws.Agent.SeenAt, Ending: &sdk.Ending{
			Reason: e.Reason.String(), Initiator: e.Initiator.String(), Expected: e.Expected(), Detail: e.Detail,
		}}
	}
	return out
}
