package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
)

// access says who may call a route.
type access uint8

const (
	open        access = iota // anybody
	user                      // a user's token
	admin                     // a token of a user with the admin role
	agent                     // an agent's token
	agentOrUser               // either
	relayToken                // a node's relay token: the handler itself asks the relay
)

// route is one row of the HTTP surface. The handler either answers or returns an
// error, which is answered for it.
type route struct {
	method  string
	path    string
	who     access
	handler func(w http.ResponseWriter, r *http.Request, p auth.Principal) error
}

// routes is the whole HTTP surface.
func (s *Server) routes() []route {
	return []route{
		{"GET", "/healthz", open, s.getHealth},
		{"GET", "/readyz", open, s.getReady},
		{"GET", "/api/v1/version", open, s.getVersion},
		{"POST", "/api/v1/login", open, s.postLogin},
		{"GET", "/api/v1/me", user, s.getMe},
		{"GET", "/api/v1/workspaces", user, s.getWorkspaces},
		{"POST", "/api/v1/workspaces", user, s.postWorkspace},
		{"GET", "/api/v1/workspaces/{name}", user, s.getWorkspace},
		{"GET", "/api/v1/workspaces/{owner}/{name}", user, s.getWorkspace},
		{"GET", control.Path, agentOrUser, s.getControl},
		{"GET", "/api/v1/relay", relayToken, s.getRelay},
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
		p, err := s.admit(r, rows[i].who)
		if err == nil {
			err = rows[i].handler(w, r, p)
		}
		if err != nil {
			writeError(w, r, s.logger, err)
		}
	})
}

// admit returns who calls, or why they may not.
func (s *Server) admit(r *http.Request, who access) (auth.Principal, error) {
	if who == open || who == relayToken {
		return auth.Principal{}, nil
	}
	p, err := s.authenticate(r.Context(), r.Header.Get("Authorization"))
	if err != nil {
		return auth.Principal{}, err
	}
	switch {
	case who == agentOrUser,
		who == user && p.Kind == auth.KindUser,
		who == agent && p.Kind == auth.KindAgent,
		who == admin && p.IsAdmin():
		return p, nil
	case who == admin && p.Kind == auth.KindUser:
		return auth.Principal{}, forbidden("only an admin may do this")
	case p.Kind == auth.KindAgent:
		return auth.Principal{}, forbidden("an agent's token cannot do this: a user's token is needed")
	default:
		return auth.Principal{}, forbidden("a user's token cannot do this: an agent's token is needed")
	}
}

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
		return p, unauthenticated(sdk.CodeUnauthenticated, auth.ErrUnauthenticated.Error())
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
		w.Header().Set(sdk.HeaderVersion, s.opts.Version)
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
		if s.opts.BehindProxy {
			r.RemoteAddr = forwardedFor(r)
		}
		if prefix := s.url.Path; prefix != "" && strings.HasPrefix(r.URL.Path, prefix+"/") {
			http.StripPrefix(prefix, next).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// forwardedFor returns the caller's address as the proxy in front tells it: the last
// entry, which that proxy wrote itself. The ones before it are the caller's own words.
func forwardedFor(r *http.Request) string {
	all := r.Header.Values("X-Forwarded-For")
	if len(all) == 0 {
		return r.RemoteAddr
	}
	entries := strings.Split(all[len(all)-1], ",")
	addr, err := netip.ParseAddr(strings.TrimSpace(entries[len(entries)-1]))
	if err != nil {
		return r.RemoteAddr
	}
	return net.JoinHostPort(addr.String(), "0")
}
