package server

import (
	"errors"
	"net/http"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// managed returns the workspace that a request's path names if the caller may manage
// it. For everybody else it does not exist.
func (s *Server) managed(r *http.Request, p auth.Principal) (store.Workspace, error) {
	ws, err := s.reachable(r.Context(), p, r.PathValue("owner"), r.PathValue("name"))
	if errors.Is(err, store.ErrNotFound) || err == nil && !auth.CanManage(p, ws) {
		return store.Workspace{}, errNoWorkspace
	}
	return ws, err
}

// gone answers for a workspace that was deleted after the request had found it.
func gone(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return errNoWorkspace
	}
	return err
}

// deleteWorkspace removes a workspace. Every session in it ends, and its agent is told
// that it is gone for good.
func (s *Server) deleteWorkspace(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	out := s.workspaceOut(ws)
	g := stoppedBy("the workspace was deleted by " + p.UserName)
	defer s.drain(r.Context(), ws, g)()
	err = s.store.DeleteWorkspace(r.Context(), ws.ID)
	if errors.Is(err, store.ErrNotFound) {
		return errNoWorkspace
	}
	if err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "workspace deleted", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName)
	s.endAgent(ws, g)
	if err := s.connlog.EndConnections(r.Context(), ws.ID, "", g.On(disconnect.AgentToClient), false); err != nil {
		s.logger.ErrorContext(r.Context(), "cannot record the ends of a deleted workspace's connections", "workspace_id", ws.ID, "error", err)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// rotateToken gives a workspace's agent a new token; the old one is void at once.
func (s *Server) rotateToken(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	token, hash := auth.NewAgentToken()
	if err := s.store.SetAgentToken(r.Context(), ws.ID, hash); err != nil {
		return gone(err)
	}
	s.logger.InfoContext(r.Context(), "agent token rotated", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName)
	s.endAgent(ws, revoked("the agent's token was replaced"))
	writeJSON(w, http.StatusOK, sdk.CreateWorkspaceResponse{Workspace: s.workspaceOut(ws), AgentToken: token})
	return nil
}

// rekeyWorkspace lets the workspace's agent register another SSH host key.
func (s *Server) rekeyWorkspace(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	err = s.store.Rekey(r.Context(), ws.ID, p.UserName, s.opts.Now())
	if errors.Is(err, store.ErrConflict) {
		return conflict("the workspace's agent has not registered a host key yet: its first one is accepted anyway")
	}
	if err != nil {
		return gone(err)
	}
	s.logger.InfoContext(r.Context(), "workspace may have another host key", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName)
	return s.answerRekeys(w, r, ws)
}

// getRekeys tells whoever reaches a workspace which changes of its host key were
// allowed.
func (s *Server) getRekeys(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.reachable(r.Context(), p, r.PathValue("owner"), r.PathValue("name"))
	if errors.Is(err, store.ErrNotFound) {
		return errNoWorkspace
	}
	if err != nil {
		return err
	}
	return s.answerRekeys(w, r, ws)
}

func (s *Server) answerRekeys(w http.ResponseWriter, r *http.Request, ws store.Workspace) error {
	all, err := s.store.Rekeys(r.Context(), ws.ID)
	if err != nil {
		return err
	}
	list := sdk.RekeyList{Rekeys: make([]sdk.Rekey, 0, len(all))}
	for _, k := range all {
		list.Rekeys = append(list.Rekeys, sdk.Rekey{By: k.By, At: k.At, OldKey: k.OldKey, NewKey: k.NewKey})
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// getShares lists the users that a workspace is shared with.
func (s *Server) getShares(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	return s.answerShares(w, r, ws)
}

// putShare shares a workspace with a user.
func (s *Server) putShare(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	u, err := s.userNamed(r.Context(), r.PathValue("user"))
	if err != nil {
		return err
	}
	if u.ID == ws.OwnerID {
		return invalid(u.Name + " owns the workspace")
	}
	if err := s.store.Share(r.Context(), ws.ID, u.ID, s.opts.Now()); err != nil {
		return gone(err)
	}
	s.logger.InfoContext(r.Context(), "workspace shared", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "with", u.Name, "by", p.UserName)
	return s.answerShares(w, r, ws)
}

// deleteShare takes a share back; the user's sessions in the workspace end.
func (s *Server) deleteShare(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	u, err := s.userNamed(r.Context(), r.PathValue("user"))
	if err != nil {
		return err
	}
	err = s.store.Unshare(r.Context(), ws.ID, u.ID)
	if errors.Is(err, store.ErrNotFound) {
		return notFound("the workspace is not shared with " + u.Name)
	}
	if err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "workspace unshared", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "with", u.Name, "by", p.UserName)
	s.unshared(u, ws)
	return s.answerShares(w, r, ws)
}

func (s *Server) answerShares(w http.ResponseWriter, r *http.Request, ws store.Workspace) error {
	names, err := s.store.SharedWith(r.Context(), ws.ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, sdk.ShareList{Users: append([]string{}, names...)})
	return nil
}
