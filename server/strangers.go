package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/auth"
)

// noteStranger writes down that somebody spoke to the server's port who made no request: by
// then nobody knows who it was, so the connection log has no row of it.
func (s *Server) noteStranger(remote string, lasted time.Duration) {
	a := disconnect.Attribution{
		ConnectType: disconnect.ClientToServer, Reason: disconnect.ProtocolError, Initiator: disconnect.Client,
		Detail: "what came was no HTTP request",
	}
	if lasted >= headerTimeout {
		a.Reason, a.Detail = disconnect.SlowPeer, fmt.Sprintf("no whole request came for %v", headerTimeout)
	}
	s.noteUnknown(slog.LevelInfo, a, remote)
}

// noteUnknown writes down that a dial failed whose party is not known, at most one a second.
func (s *Server) noteUnknown(level slog.Level, a disconnect.Attribution, remote string) {
	if s.limits.strangers.AllowN(s.opts.Now(), 1) {
		a.LogAttempt(context.Background(), s.logger, level, "dial failed", slog.String("remote_addr", remote))
	}
}

// noteFailure writes down that a control link could not be made because the server itself
// failed before it knew whose it is: the kind of the token tells the layer.
func (s *Server) noteFailure(r *http.Request, err error) {
	var known *refusal
	if errors.As(err, &known) || r.Context().Err() != nil {
		return // not a failure, or nobody's
	}
	a := disconnect.Attribution{
		ConnectType: disconnect.ClientToServer, Reason: disconnect.InternalError, Initiator: disconnect.Server, Detail: err.Error(),
	}
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if kind, _ := auth.KindOf(strings.TrimSpace(token)); kind == auth.KindAgent {
		a.ConnectType = disconnect.ServerToAgent
	}
	s.noteUnknown(slog.LevelWarn, a, r.RemoteAddr)
}
