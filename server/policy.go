package server

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
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

// policy is what the sessions of a workspace may do.
type policy struct {
	idleTimeout, sessionLimit bound
	blocked, acceptEnv        []string
}

func (o *orders) policy(ws store.Orders) policy {
	choose := func(own *time.Duration, byDefault time.Duration) bound {
		if own == nil {
			return bound{byDefault, true}
		}
		return bound{*own, false}
	}
	return policy{
		choose(ws.IdleTimeout, o.idleTimeout), choose(ws.SessionLimit, o.sessionLimit),
		listed(ws.Blocked), listed(ws.AcceptEnv),
	}
}

// listed are the words of a text that has commas between them.
func listed(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
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
		Blocked: p.blocked, AcceptEnv: p.acceptEnv,
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

// out is the policy for people.
func (p policy) out() sdk.Policy {
	word := func(what string) string {
		if slices.Contains(p.blocked, what) {
			return sdk.Blocked
		}
		return sdk.Allowed
	}
	out := sdk.Policy{
		IdleTimeout: p.idleTimeout.out(), SessionLimit: p.sessionLimit.out(),
		FileTransfer: word(sdk.FileTransfer), LocalForwarding: word(sdk.LocalForwarding), RemoteForwarding: word(sdk.RemoteForwarding),
		AcceptEnv: strings.Join(p.acceptEnv, ","),
	}
	if out.AcceptEnv == "" {
		out.AcceptEnv = sdk.AnyEnv
	}
	return out
}

// getPolicy tells whoever reaches a workspace what sessions may do there.
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
	if err := setPolicy(&ws.Orders.Policy, req); err != nil {
		return err
	}
	if err := s.store.SetPolicy(r.Context(), ws.ID, ws.Orders.Policy); err != nil {
		return err
	}
	now := s.orders.policy(ws.Orders).out()
	s.logger.InfoContext(r.Context(), "session policy changed", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName,
		"idle_timeout", now.IdleTimeout.Value, "session_limit", now.SessionLimit.Value, "file_transfer", now.FileTransfer,
		"local_forwarding", now.LocalForwarding, "remote_forwarding", now.RemoteForwarding, "accept_env", now.AcceptEnv)
	s.orders.changed(ws.ID)
	return s.answerPolicy(w, ws.Orders)
}

func (s *Server) answerPolicy(w http.ResponseWriter, o store.Orders) error {
	writeJSON(w, http.StatusOK, s.orders.policy(o).out())
	return nil
}

// setPolicy changes what is asked for.
func setPolicy(p *store.Policy, req sdk.UpdatePolicyRequest) error {
	if err := setBound(&p.IdleTimeout, "the idle time-out", req.IdleTimeout); err != nil {
		return err
	}
	if err := setBound(&p.SessionLimit, "the session limit", req.SessionLimit); err != nil {
		return err
	}
	blocked := listed(p.Blocked)
	for _, one := range []struct {
		word  string
		asked *string
	}{{sdk.FileTransfer, req.FileTransfer}, {sdk.LocalForwarding, req.LocalForwarding}, {sdk.RemoteForwarding, req.RemoteForwarding}} {
		if one.asked == nil {
			continue
		}
		if *one.asked != sdk.Allowed && *one.asked != sdk.Blocked {
			return invalid(one.word + " is " + sdk.Allowed + " or " + sdk.Blocked)
		}
		blocked = slices.DeleteFunc(blocked, func(w string) bool { return w == one.word })
		if *one.asked == sdk.Blocked {
			blocked = append(blocked, one.word)
		}
	}
	p.Blocked = strings.Join(blocked, ",")
	return setAcceptEnv(&p.AcceptEnv, req.AcceptEnv)
}

// Names of variables: of one, and of all together, in bytes.
var envPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)

const maxAcceptEnv = 4 << 10

// setAcceptEnv reads what is asked of the variables: nil: nothing.
func setAcceptEnv(to, asked *string) error {
	if asked == nil {
		return nil
	}
	if *asked == sdk.AnyEnv {
		*to = ""
		return nil
	}
	names := listed(*asked)
	if len(names) == 0 || len(*asked) > maxAcceptEnv || slices.ContainsFunc(names, func(n string) bool { return !envPattern.MatchString(n) }) {
		return invalid("the variables that are accepted are names as in LANG,LC_*, or *")
	}
	*to = strings.Join(names, ",")
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
