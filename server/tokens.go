package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

const (
	// maxLabel bounds a token's label, in characters.
	maxLabel = 64
	// maxTokenLife bounds how far ahead a token may expire.
	maxTokenLife = 10 * 365 * 24 * time.Hour
)

// getTokens lists the caller's tokens; an admin may name another user, or nobody.
func (s *Server) getTokens(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	userID := p.UserID
	if q := r.URL.Query(); p.IsAdmin() && q.Has("user") {
		userID = ""
		if name := q.Get("user"); name != "" {
			u, err := s.userNamed(r.Context(), name)
			if err != nil {
				return err
			}
			userID = u.ID
		}
	}
	all, err := s.store.Tokens(r.Context(), userID)
	if err != nil {
		return err
	}
	list := sdk.TokenList{Tokens: make([]sdk.Token, 0, len(all))}
	for _, t := range all {
		list.Tokens = append(list.Tokens, tokenOut(t))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// postToken makes a token of the caller; an admin may make one for another user.
func (s *Server) postToken(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	var req sdk.CreateTokenRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	userID := p.UserID
	if req.User != "" && req.User != p.UserName {
		if !p.IsAdmin() {
			return errNoUser
		}
		u, err := s.userNamed(r.Context(), req.User)
		if err != nil {
			return err
		}
		userID = u.ID
	}
	token, row := s.auth.NewUserToken(userID, req.Label)
	if err := s.shapeToken(&row, req); err != nil {
		return err
	}
	outlivedBy(&row, p)
	if err := s.store.CreateToken(r.Context(), row); err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "token created", "token_id", row.ID, "user_id", userID, "scope", string(row.Scope), "by", p.UserName)
	if row, _, err := s.store.TokenByID(r.Context(), row.ID); err == nil {
		writeJSON(w, http.StatusCreated, sdk.CreateTokenResponse{Secret: token, Token: tokenOut(row)})
		return nil
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return errNoToken // revoked already
}

// shapeToken checks what is asked of a new token, and puts it into its row.
func (s *Server) shapeToken(row *store.Token, req sdk.CreateTokenRequest) error {
	if req.Label == "" || !utf8.ValidString(req.Label) || utf8.RuneCountInString(req.Label) > maxLabel || disconnect.Scrub(req.Label) != req.Label {
		return invalid(fmt.Sprintf("a label has 1 to %d printable characters", maxLabel))
	}
	switch scope := store.Scope(req.Scope); scope {
	case "": // everything
	case store.ScopeFull, store.ScopeRead, store.ScopeSSH:
		row.Scope = scope
	default:
		return invalid("the scope is none of full, read and ssh")
	}
	at := req.ExpiresAt
	if in := req.ExpiresIn; in != 0 {
		if at != nil || in < 0 || in > int64(maxTokenLife/time.Second) {
			return invalid("a token expires in the future, within ten years")
		}
		end := row.CreatedAt.Add(time.Duration(in) * time.Second)
		at = &end
	}
	if at != nil {
		if !at.After(row.CreatedAt) || at.Sub(row.CreatedAt) > maxTokenLife {
			return invalid("a token expires in the future, within ten years")
		}
		row.ExpiresAt = *at
	}
	return nil
}

// outlivedBy bounds a new token's time by that of the token that makes it: who took hold
// of one that expires must not get another one that does not.
func outlivedBy(row *store.Token, p auth.Principal) {
	if !p.ExpiresAt.IsZero() && (row.ExpiresAt.IsZero() || row.ExpiresAt.After(p.ExpiresAt)) {
		row.ExpiresAt = p.ExpiresAt
	}
}

// deleteToken revokes a token of the caller, or anybody's for an admin. The id
// "current" is the token of the request itself.
func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	id := r.PathValue("id")
	if id == sdk.CurrentToken {
		id = p.TokenID
	}
	t, owner, err := s.store.TokenByID(r.Context(), id)
	if errors.Is(err, store.ErrNotFound) || err == nil && t.UserID != p.UserID && !p.IsAdmin() {
		return errNoToken
	}
	if err == nil && p.Scope != store.ScopeFull && id != p.TokenID {
		return errScope(p)
	}
	if err == nil {
		err = s.store.DeleteToken(r.Context(), id)
	}
	if errors.Is(err, store.ErrNotFound) {
		return errNoToken
	}
	if err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "token revoked", "token_id", id, "user", t.UserName, "by", p.UserName)
	s.tokenRevoked(t)
	writeJSON(w, http.StatusOK, sdk.RevokedToken{Token: tokenOut(t), NoAdminLeft: owner.Role == store.RoleAdmin && s.noAdminLeft(r.Context())})
	return nil
}

// noAdminLeft reports that no admin has a valid token any more, and writes it down: only
// a new start of the server lets one in again.
func (s *Server) noAdminLeft(ctx context.Context) bool {
	name, err := s.auth.LockedOut(ctx)
	switch {
	case err != nil:
		s.logger.ErrorContext(ctx, "cannot find out whether an admin has a valid token", "error", err)
	case name != "":
		s.logger.WarnContext(ctx, "no admin has a valid token: restart the server to get a one-time code", "user", name)
	}
	return err == nil && name != ""
}

var errNoToken = &refusal{http.StatusNotFound, sdk.CodeNotFound, "there is no such token", disconnect.AuthFailed}

func tokenOut(t store.Token) sdk.Token {
	out := sdk.Token{ID: t.ID, User: t.UserName, Label: t.Label, Scope: string(t.Scope), CreatedAt: t.CreatedAt}
	if !t.ExpiresAt.IsZero() {
		out.ExpiresAt = &t.ExpiresAt
	}
	if !t.LastUsedAt.IsZero() {
		out.LastUsedAt = &t.LastUsedAt
	}
	return out
}
