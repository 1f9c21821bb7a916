package server

import (
	"context"
	"errors"
	"net/http"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// getMe tells who the caller is, and by which token.
func (s *Server) getMe(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	t, u, err := s.store.TokenByID(r.Context(), p.TokenID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, sdk.Identity{User: userOut(u), Token: tokenOut(t)})
	return nil
}

func (s *Server) getUsers(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	all, err := s.store.Users(r.Context())
	if err != nil {
		return err
	}
	list := sdk.UserList{Users: make([]sdk.User, 0, len(all))}
	for _, u := range all {
		list.Users = append(list.Users, userOut(u))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// postUser makes a user and the token with which they log in the first time.
func (s *Server) postUser(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	var req sdk.CreateUserRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	role := store.RoleMember
	if req.Role != "" {
		var err error
		if role, err = parseRole(req.Role); err != nil {
			return err
		}
	}
	u, err := s.auth.NewUser(req.Name, role)
	if errors.Is(err, auth.ErrInvalidName) {
		return invalid("the user name is not valid: " + sdk.NameRule)
	}
	if err != nil {
		return err
	}
	token, row := s.auth.NewUserToken(u.ID, "login")
	outlivedBy(&row, p)
	err = s.store.CreateUserWithToken(r.Context(), u, row)
	if errors.Is(err, store.ErrConflict) {
		return conflict("there is a user " + req.Name + " already")
	}
	if err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "user created", "user", u.Name, "role", string(u.Role), "by", p.UserName)
	writeJSON(w, http.StatusCreated, sdk.LoginResponse{Token: token, User: userOut(u)})
	return nil
}

func parseRole(s string) (store.Role, error) {
	switch role := store.Role(s); role {
	case store.RoleAdmin, store.RoleMember:
		return role, nil
	}
	return "", invalid("the role is neither admin nor member")
}

// patchUser changes a user's role, and closes or reopens their account.
func (s *Server) patchUser(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	var req sdk.UpdateUserRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	u, err := s.userNamed(r.Context(), r.PathValue("user"))
	if err != nil {
		return err
	}
	var role store.Role
	if req.Role != nil {
		if role, err = parseRole(*req.Role); err != nil {
			return err
		}
	}
	u, err = s.store.UpdateUser(r.Context(), u.ID, func(u *store.User) {
		if req.Role != nil {
			u.Role = role
		}
		if req.Disabled != nil {
			u.Disabled = *req.Disabled
		}
	})
	if errors.Is(err, store.ErrLastAdmin) {
		return conflict(u.Name + " is the last admin: make another user an admin first")
	}
	if err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "user changed", "user", u.Name, "role", string(u.Role), "disabled", u.Disabled, "by", p.UserName)
	s.userRightsChanged(u)
	s.noAdminLeft(r.Context())
	writeJSON(w, http.StatusOK, userOut(u))
	return nil
}

// userNamed returns the user of that name, or a refusal.
func (s *Server) userNamed(ctx context.Context, name string) (store.User, error) {
	if !sdk.ValidName(name) {
		return store.User{}, errNoUser
	}
	u, err := s.store.UserByName(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return u, errNoUser
	}
	return u, err
}

var errNoUser = &refusal{http.StatusNotFound, sdk.CodeNotFound, "there is no user of that name", disconnect.AuthFailed}

func userOut(u store.User) sdk.User {
	return sdk.User{ID: u.ID, Name: u.Name, Role: string(u.Role), CreatedAt: u.CreatedAt, Disabled: u.Disabled}
}
