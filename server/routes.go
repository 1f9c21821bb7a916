package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/relay"
)

// access says who may call a route.
type access uint8

const (
	open       access = iota // anybody
	user                     // a user's token
	admin                    // a token of a user with the admin role
	linkPeer                 // a user's, an agent's or a relay's
	relayToken               // a node's relay token: the handler itself asks the relay
)

// Scopes of a user's token that a route takes. A token of full scope does everywhere.
var (
	full    = []store.Scope{store.ScopeFull}
	reading = []store.Scope{store.ScopeFull, store.ScopeRead}
	connect = []store.Scope{store.ScopeFull, store.ScopeSSH}
	every   = []store.Scope{store.ScopeFull, store.ScopeRead, store.ScopeSSH}
)

// route is one row of the HTTP surface: who may call it, and with a token of which
// scopes (nil where no user's token is asked for). Whether the caller may have what
// the path names is for the handler, which either answers or returns an error, which
// is answered for it.
type route struct {
	method  string
	path    string
	who     access
	scopes  []store.Scope
	handler func(w http.ResponseWriter, r *http.Request, p auth.Principal) error
}

// routes is the whole HTTP surface.
func (s *Server) routes() []route {
	const workspace = "/api/v1/workspaces/{owner}/{name}"
	return []route{
		{"GET", "/healthz", open, nil, s.getHealth},
		{"GET", "/readyz", open, nil, s.getReady},
		{"GET", "/api/v1/version", open, nil, s.getVersion},
		{"GET", sdk.CheckPath, open, nil, s.getCheck},
		{"GET", sdk.CheckSocketPath, open, nil, s.getCheckSocket},
		{"POST", "/api/v1/login", open, nil, s.postLogin},
		{"GET", "/api/v1/me", user, every, s.getMe},
		{"GET", "/api/v1/users", admin, reading, s.getUsers},
		{"POST", "/api/v1/users", admin, full, s.postUser},
		{"PATCH", "/api/v1/users/{user}", admin, full, s.patchUser},
		{"GET", "/api/v1/tokens", user, reading, s.getTokens},
		{"POST", "/api/v1/tokens", user, full, s.postToken},
		{"DELETE", "/api/v1/tokens/{id}", user, every, s.deleteToken},
		{"GET", "/api/v1/workspaces", user, every, s.getWorkspaces},
		{"POST", "/api/v1/workspaces", user, full, s.postWorkspace},
		{"GET", "/api/v1/workspaces/{name}", user, every, s.getWorkspace},
		{"GET", workspace, user, every, s.getWorkspace},
		{"DELETE", workspace, user, full, s.deleteWorkspace},
		{"POST", workspace + "/stop", user, full, s.postStop},
		{"POST", workspace + "/start", user, full, s.postStart},
		{"GET", workspace + "/policy", user, reading, s.getPolicy},
		{"PATCH", workspace + "/policy", user, full, s.patchPolicy},
		{"GET", workspace + "/settings", user, reading, s.getSettings},
		{"PATCH", workspace + "/settings", user, full, s.patchSettings},
		{"POST", workspace + "/notice", user, full, s.postNotice},
		{"DELETE", workspace + "/notice", user, full, s.deleteNotice},
		{"POST", workspace + "/token", user, full, s.rotateToken},
		{"POST", workspace + "/rekey", user, full, s.rekeyWorkspace},
		{"GET", workspace + "/rekeys", user, every, s.getRekeys},
		{"GET", workspace + "/shares", user, reading, s.getShares},
		{"PUT", workspace + "/shares/{user}", user, full, s.putShare},
		{"DELETE", workspace + "/shares/{user}", user, full, s.deleteShare},
		{"GET", "/api/v1/connections", user, reading, s.getConnections},
		{"POST", "/api/v1/connections/{id}/kill", user, full, s.postKill},
		{"GET", "/api/v1/connections/gaps", user, reading, s.getConnectionGaps},
		{"GET", "/api/v1/connections/{id}", user, reading, s.getConnection},
		{"POST", "/api/v1/connections/{id}/testimonies", user, connect, s.postTestimony},
		{"GET", "/api/v1/connections/{id}/testimonies", user, reading, s.getTestimonies},
		{"GET", control.Path, linkPeer, connect, s.getControl},
		{"GET", relay.Path, relayToken, nil, s.getRelay},
		{"GET", "/api/v1/relays", admin, reading, s.getRelays},
		{"POST", "/api/v1/relays", admin, full, s.postRelay},
		{"DELETE", "/api/v1/relays/{relay}", admin, full, s.deleteRelay},
	}
}

// handler makes the table into the server's handler.
func (s *Server) handler() http.Handler {
	byPath := make(map[string][]route)
	for _, rt := range s.routes() {
		byPath[rt.path] = append(byPath[rt.path], rt)
	}
	mux := http.NewServeMux()
	for path, rows := range byPath {
		mux.Handle(path, s.dispatch(rows))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { writeError(w, r, s.logger, errNoRoute) })
	return s.border(mux)
}

// dispatch chooses among the rows of one path by method.
func (s *Server) dispatch(rows []route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet // net/http leaves the body out
		}
		i := slices.IndexFunc(rows, func(rt route) bool { return rt.method == method })
		if i < 0 {
			for _, rt := range rows {
				w.Header().Add("Allow", rt.method)
			}
			writeError(w, r, s.logger, errMethod)
			return
		}
		if err := s.handle(w, r, rows[i]); err != nil {
			writeError(w, r, s.logger, err)
		}
	})
}

// handle lets the caller in and has the route's handler answer.
func (s *Server) handle(w http.ResponseWriter, r *http.Request, rt route) error {
	p, err := s.admit(r, rt)
	if err != nil {
		if rt.path == control.Path {
			s.noteFailure(r, err)
		}
		return err
	}
	if rt.method == http.MethodGet {
		return rt.handler(w, r, p)
	}
	if r.ContentLength != 0 {
		if err := receiveBody(w, r); err != nil {
			return err
		}
		// The caller may have taken their time with the body: what counts is the right
		// that they have now.
		if p, err = s.admit(r, rt); err != nil {
			return err
		}
	}
	// What has begun is done to its end, even if the caller leaves: a right that the
	// database has forgotten must end what lives by it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), writeTimeout)
	defer cancel()
	return rt.handler(w, r.WithContext(ctx), p)
}

// admit returns who calls, or why they may not. For a caller without the right the
// route does not exist.
func (s *Server) admit(r *http.Request, rt route) (auth.Principal, error) {
	if rt.who == open || rt.who == relayToken {
		return auth.Principal{}, nil
	}
	p, err := s.authenticate(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		if errors.Is(err, errWrongToken) {
			err = s.limits.failed(r.RemoteAddr, tokenCost, err)
		}
		return auth.Principal{}, err
	}
	isUser := p.Kind == auth.KindUser
	switch {
	case rt.who == user && !isUser, rt.who == admin && !p.IsAdmin():
		return auth.Principal{}, errNoRoute
	case isUser && !slices.Contains(rt.scopes, p.Scope):
		return auth.Principal{}, errScope(p)
	}
	return p, nil
}

// errWrongToken refuses a token that nobody has. Guessing them is limited.
var errWrongToken = unauthenticated(sdk.CodeUnauthenticated, auth.ErrUnauthenticated.Error())

// authenticate returns who is behind an Authorization header.
func (s *Server) authenticate(ctx context.Context, header string) (auth.Principal, error) {
	scheme, token, _ := strings.Cut(header, " ")
	if header == "" || !strings.EqualFold(scheme, "Bearer") {
		return auth.Principal{}, unauthenticated(sdk.CodeUnauthenticated, "a token is needed: log in first")
	}
	p, err := s.auth.Authenticate(ctx, strings.TrimSpace(token))
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, auth.ErrUnauthenticated):
		return p, errWrongToken
	case errors.Is(err, auth.ErrExpired):
		return p, unauthenticated(sdk.CodeTokenExpired, auth.ErrExpired.Error())
	case errors.Is(err, auth.ErrDisabled):
		return p, forbidden(auth.ErrDisabled.Error())
	}
	return p, err
}

// border is around every request: it names the server in each answer, turns a panic
// into an error, finds the caller's address behind a proxy, and takes off the access
// URL's path where the proxy did not.
func (s *Server) border(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.conns.served(r)
		w.Header().Set(sdk.HeaderVersion, s.opts.Version)
		defer func() { s.meters.countRefusal(w.Header()) }()
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.logger.LogAttrs(r.Context(), slog.LevelError, "request handler panicked",
				slog.String("path", disconnect.Scrub(r.URL.Path)), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			writeError(w, r, s.logger, errInternal)
		}()
		var ignored bool
		if r.RemoteAddr, ignored = s.proxies.caller(r); ignored {
			s.noteUntrustedProxy()
			r = r.WithContext(context.WithValue(r.Context(), noteKey{}, true))
		}
		if prefix := s.url.Path; prefix != "" && strings.HasPrefix(r.URL.Path, prefix+"/") {
			http.StripPrefix(prefix, next).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
