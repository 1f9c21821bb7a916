package server

import (
	"errors"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// Bounds of the bounds of a session: shorter is a mistake, longer is for ever.
const (
	minBound = time.Second
	maxBound = 366 * 24 * time.Hour
)

// checkBound refuses an idle time-out or session limit that makes no sense.
func checkBound(name string, d time.Duration) error {
	if d == 0 || d >= minBound && d <= maxBound {
		return nil
	}
	return errors.New(name + " is from " + minBound.String() + " to 8784h (366 days), or 0 for never; " + d.String() + " is not")
}

// bound is a limit of a session, and whose value it is.
type bound struct {
	value    time.Duration // 0: never
	ofServer bool
}

// policy is what bounds the sessions of a workspace.
type policy struct{ idleTimeout, sessionLimit bound }

func (o *orders) policy(ws store.Orders) policy {
	choose := func(own *time.Duration, byDefault time.Duration) bound {
		if own == nil {
			return bound{byDefault, true}
		}
		return bound{*own, false}
	}
	return policy{choose(ws.IdleTimeout, o.idleTimeout), choose(ws.SessionLimit, o.sessionLimit)}
}

// rule is how a bound is named to whom it ends.
func (b bound) rule() string {
	if b.ofServer {
		return "the server's default policy"
	}
	return "the workspace's policy"
}

func (p policy) proto() *proto.Orders_Policy {
	return &proto.Orders_Policy{
		IdleTimeout: durationpb.New(p.idleTimeout.value), IdleRule: p.idleTimeout.rule(),
		SessionLimit: durationpb.New(p.sessionLimit.value), SessionRule: p.sessionLimit.rule(),
	}
}

func (b bound) out() sdk.Bound {
	out := sdk.Bound{Value: b.value.String(), Rule: sdk.RuleWorkspace}
	if b.value == 0 {
		out.Value = sdk.Never
	}
	if b.ofServer {
		out.Rule = sdk.RuleServer
	}
	return out
}

// getPolicy tells whoever reaches a workspace how long sessions may last there.
func (s *Server) getPolicy(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.reachable(r.Context(), p, r.PathValue("owner"), r.PathValue("name"))
	if errors.Is(err, store.ErrNotFound) {
		return errNoWorkspace
	}
	if err != nil {
		return err
	}
	return s.answerPolicy(w, ws.Orders)
}

// patchPolicy changes it. Sessions that are open follow.
func (s *Server) patchPolicy(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	var req sdk.UpdatePolicyRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	idle, limit := ws.Orders.IdleTimeout, ws.Orders.SessionLimit
	if err := setBound(&idle, "the idle time-out", req.IdleTimeout); err != nil {
		return err
	}
	if err := setBound(&limit, "the session limit", req.SessionLimit); err != nil {
		return err
	}
	if err := s.store.SetPolicy(r.Context(), ws.ID, idle, limit); err != nil {
		return err
	}
	ws.Orders.IdleTimeout, ws.Orders.SessionLimit = idle, limit
	now := s.orders.policy(ws.Orders)
	s.logger.InfoContext(r.Context(), "session policy changed", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName,
		"idle_timeout", now.idleTimeout.out().Value, "session_limit", now.sessionLimit.out().Value)
	s.orders.changed(ws.ID)
	return s.answerPolicy(w, ws.Orders)
}

func (s *Server) answerPolicy(w http.ResponseWriter, o store.Orders) error {
	p := s.orders.policy(o)
	writeJSON(w, http.StatusOK, sdk.Policy{IdleTimeout: p.idleTimeout.out(), SessionLimit: p.sessionLimit.out()})
	return nil
}

// setBound reads what is asked of a bound: nil: nothing.
func setBound(to **time.Duration, name string, asked *string) error {
	if asked == nil {
		return nil
	}
	switch *asked {
	case sdk.ServerDefault:
		*to = nil
		return nil
	case sdk.Never:
		*to = new(time.Duration)
		return nil
	}
	d, err := time.ParseDuration(*asked)
	if err != nil {
		return invalid(name + " is a time as in 30m, never, or default")
	}
	if err := checkBound(name, d); err != nil {
		return invalid(err.Error())
	}
	*to = &d
	return nil
}
