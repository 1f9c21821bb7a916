package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// concrete fills the placeholders of a route's path.
var concrete = strings.NewReplacer("{owner}", "ada", "{name}", "dev", "{user}", "ada", "{id}", "0", "{relay}", "eu")

// TestEveryRouteNeedsItsToken walks the table: whatever is not marked open answers 401
// without a token and with tokens of the right form that nobody has.
func TestEveryRouteNeedsItsToken(t *testing.T) {
	s := run(t, nil)
	for _, rt := range s.routes() {
		t.Run(rt.method+rt.path, func(t *testing.T) {
			a := s.send(t, rt.method, concrete.Replace(rt.path), "", "{}")
			if rt.who == open {
				require.NotEqual(t, http.StatusForbidden, a.StatusCode)
				require.NotEmpty(t, a.Header.Get(sdk.HeaderVersion))
				return
			}
			requireRefusal(t, a, http.StatusUnauthorized, refusedCode(rt))
			require.Equal(t, "30", a.Header.Get(sdk.HeaderReason))
			require.Equal(t, "Bearer", a.Header.Get("WWW-Authenticate"))
			for _, token := range []string{newAgentToken(), "fl_u_" + strings.Repeat("A", 43), "garbage", "flr2_" + strings.Repeat("A", 96)} {
				requireRefusal(t, s.send(t, rt.method, concrete.Replace(rt.path), token, "{}"), http.StatusUnauthorized, refusedCode(rt))
			}
		})
	}
}

// refusedCode is the error code of a route without a token: the relay names a reason.
func refusedCode(rt route) string {
	if rt.who == relayToken {
		return "auth_failed"
	}
	return sdk.CodeUnauthenticated
}

// TestEveryRouteRefusesTheWrongRight walks the table with tokens that are valid, but of
// somebody who may not. For them nothing is there, whatever the method.
func TestEveryRouteRefusesTheWrongRight(t *testing.T) {
	s := run(t, nil)
	u, _ := s.addUser(t, "ada", store.RoleAdmin)
	_, agentToken, err := s.createWorkspace(t.Context(), u.ID, u.Name, "dev")
	require.NoError(t, err)
	_, member := s.addUser(t, "bob", store.RoleMember)
	relayOwn := s.addRelay(t, "us")
	for _, rt := range s.routes() {
		t.Run(rt.method+rt.path, func(t *testing.T) {
			refused := func(token string) {
				t.Helper()
				a := s.send(t, rt.method, concrete.Replace(rt.path), token, "{}")
				requireRefusal(t, a, http.StatusNotFound, sdk.CodeNotFound)
			}
			if rt.who == user || rt.who == admin {
				refused(agentToken)
				refused(relayOwn)
			}
			if rt.who == admin {
				refused(member)
			}
			if strings.Contains(rt.path, "{name}") { // somebody else's workspace
				refused(member)
			}
			if rt.who == open || rt.who == relayToken {
				require.Nil(t, rt.scopes, "no user's token is asked for")
				return
			}
			require.Contains(t, rt.scopes, store.ScopeFull)
			for _, scope := range []store.Scope{store.ScopeRead, store.ScopeSSH} {
				if !slices.Contains(rt.scopes, scope) {
					refused(s.addToken(t, u, scope))
				}
			}
		})
	}
	got, err := s.store.Workspaces(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, got, 1, "nothing of it changed anything")
}

// TestEveryPathRefusesOtherMethods: a method without a row is 405 for everybody, and
// tells nothing of who may call the others.
func TestEveryPathRefusesOtherMethods(t *testing.T) {
	s := run(t, nil)
	rows := make(map[string][]string)
	for _, rt := range s.routes() {
		rows[rt.path] = append(rows[rt.path], rt.method)
	}
	for path, has := range rows {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			if slices.Contains(has, method) {
				continue
			}
			a := s.send(t, method, concrete.Replace(path), "", "{}")
			requireRefusal(t, a, http.StatusMethodNotAllowed, sdk.CodeMethodNotAllowed)
			require.ElementsMatch(t, has, a.Header.Values("Allow"))
		}
	}
}

func TestAdmitByRoleAndScope(t *testing.T) {
	s := run(t, nil)
	bob, member := s.addUser(t, "bob", store.RoleMember)
	boss, root := s.addUser(t, "ada", store.RoleAdmin)
	reader, connector := s.addToken(t, bob, store.ScopeRead), s.addToken(t, bob, store.ScopeSSH)
	_, machine, err := s.createWorkspace(t.Context(), boss.ID, boss.Name, "dev")
	require.NoError(t, err)
	for _, c := range []struct {
		who    access
		scopes []store.Scope
		token  string
		ok     bool
	}{
		{user, full, member, true}, {user, full, root, true}, {user, full, machine, false},
		{admin, full, member, false}, {admin, full, root, true}, {admin, full, machine, false},
		{linkPeer, connect, member, true}, {linkPeer, connect, machine, true},
		{user, full, reader, false}, {user, reading, reader, true}, {user, every, reader, true},
		{user, full, connector, false}, {user, reading, connector, false}, {user, every, connector, true},
		{linkPeer, connect, reader, false}, {linkPeer, connect, connector, true},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Header.Set("Authorization", "bearer "+c.token) // the scheme's case is free
		_, err := s.admit(r, route{who: c.who, scopes: c.scopes})
		require.Equal(t, c.ok, err == nil, "%v %v %s: %v", c.who, c.scopes, c.token[:5], err)
	}
}

func TestErrorsHaveOneShape(t *testing.T) {
	s := run(t, nil)
	_, token := s.addUser(t, "ada", store.RoleMember)
	requireRefusal(t, s.send(t, "GET", "/", "", ""), http.StatusNotFound, sdk.CodeNotFound)
	requireRefusal(t, s.send(t, "GET", "/api/v1/nothing", token, ""), http.StatusNotFound, sdk.CodeNotFound)
	a := s.send(t, "DELETE", "/api/v1/workspaces", token, "")
	requireRefusal(t, a, http.StatusMethodNotAllowed, sdk.CodeMethodNotAllowed)
	require.Equal(t, []string{"GET", "POST"}, a.Header.Values("Allow"))
	for _, body := range []string{"", "not json", `{"name":`, `[]`, `{"name":"a"} trailing`, `{"name":7}`} {
		requireRefusal(t, s.send(t, "POST", "/api/v1/workspaces", token, body), http.StatusBadRequest, sdk.CodeInvalid)
	}
	requireRefusal(t, s.send(t, "POST", "/api/v1/login", "", `{"code":"`+strings.Repeat("x", maxBody)+`"}`),
		http.StatusRequestEntityTooLarge, sdk.CodeTooLarge)
	for _, name := range []string{"", "A", "-a", "a b", "../etc", "a\u0000", "a\u202e", strings.Repeat("a", 33)} {
		body := fmt.Sprintf(`{"name":%q}`, name)
		requireRefusal(t, s.send(t, "POST", "/api/v1/workspaces", token, body), http.StatusBadRequest, sdk.CodeInvalid)
	}
	all, err := s.store.Workspaces(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestHandlerFailureIsOursToKnow(t *testing.T) {
	s := run(t, nil)
	_, token := s.addUser(t, "ada", store.RoleMember)
	require.NoError(t, s.store.Close())
	e := requireRefusal(t, s.send(t, "GET", "/api/v1/workspaces", token, ""), http.StatusInternalServerError, sdk.CodeInternal)
	require.NotContains(t, e.Message, "sql")
	require.Contains(t, s.log.String(), "request failed")
	requireRefusal(t, s.send(t, "GET", "/readyz", "", ""), http.StatusServiceUnavailable, sdk.CodeUnavailable)
	require.Equal(t, http.StatusOK, s.send(t, "GET", "/healthz", "", "").StatusCode)
	var err error
	s.store, err = store.Open(t.Context(), s.opts.StateDir) // so that Close has one
	require.NoError(t, err)
}

func TestHandlerPanicIsAnswered(t *testing.T) {
	s := run(t, nil)
	h := s.border(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a bug") }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/x", nil))
	requireRefusal(t, answer{w.Result(), w.Body.String()}, http.StatusInternalServerError, sdk.CodeInternal)
	require.Contains(t, s.log.String(), "request handler panicked")
}

// TestRightWithdrawnWhileTheBodyIsOnItsWay: a request that is held half-way does not
// keep a right alive.
func TestRightWithdrawnWhileTheBodyIsOnItsWay(t *testing.T) {
	s := run(t, nil)
	u, token := s.addUser(t, "ada", store.RoleMember)
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	const body = `{"label":"one more"}`
	_, err = fmt.Fprintf(conn, "POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		token, len(body), body[:5])
	require.NoError(t, err)
	var tokens []store.Token
	require.Eventually(t, func() bool { // that it was used tells that the caller was let in
		tokens, err = s.store.Tokens(t.Context(), u.ID)
		return err == nil && !tokens[0].LastUsedAt.IsZero()
	}, patience, 5*time.Millisecond)
	require.NoError(t, s.store.DeleteToken(t.Context(), tokens[0].ID))
	_, err = io.WriteString(conn, body[5:])
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	tokens, err = s.store.Tokens(t.Context(), u.ID)
	require.NoError(t, err)
	require.Empty(t, tokens)
}

// TestWhatIsGoneMeanwhileIsNotOurFailure: something that was deleted during the request.
func TestWhatIsGoneMeanwhileIsNotOurFailure(t *testing.T) {
	s := run(t, nil)
	w := httptest.NewRecorder()
	w.Header().Set(sdk.HeaderVersion, s.opts.Version)
	err := s.store.SetAgentToken(t.Context(), "nothing", "hash")
	writeError(w, httptest.NewRequestWithContext(t.Context(), "POST", "/x", nil), s.logger, err)
	requireRefusal(t, answer{w.Result(), w.Body.String()}, http.StatusNotFound, sdk.CodeNotFound)
	require.NotContains(t, s.log.String(), "request failed")
}

// TestCallerWhoLeavesStopsNothing: what has begun is done to its end.
func TestCallerWhoLeavesStopsNothing(t *testing.T) {
	s := run(t, nil)
	left := make(chan error, 1)
	var caller context.Context
	h := s.dispatch([]route{{"DELETE", "/x", open, nil, func(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
		<-caller.Done()
		left <- r.Context().Err()
		return nil
	}}})
	ctx, leave := context.WithCancel(t.Context())
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller = r.Context()
		leave()
		h.ServeHTTP(w, r)
	}))
	defer web.Close()
	req, err := http.NewRequestWithContext(ctx, "DELETE", web.URL+"/x", nil)
	require.NoError(t, err)
	_, err = http.DefaultClient.Do(req) //nolint:bodyclose // there is none
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, <-left)
}

func TestHeadIsAnsweredLikeGet(t *testing.T) {
	s := run(t, nil)
	a := s.send(t, "HEAD", "/healthz", "", "")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Empty(t, a.body)
}

func TestAccessURLWithPath(t *testing.T) {
	s := run(t, func(o *Options) { o.AccessURL = "https://example.com/fair/lead/" })
	require.Equal(t, "https://example.com/fair/lead", s.URL().String())
	for _, path := range []string{"/fair/lead/healthz", "/healthz"} { // kept, or taken off by the proxy
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.Addr().String()+path, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, do(t, req).StatusCode, path)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.Addr().String()+"/fair/leadhealthz", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, do(t, req).StatusCode)
}

// TestGarbageToThePort: bytes that are no HTTP get an answer or a closed connection,
// and the server goes on.
func TestGarbageToThePort(t *testing.T) {
	s := run(t, nil)
	random := make([]byte, 4096)
	_, err := rand.Read(random)
	require.NoError(t, err)
	upgrade := "GET " + control.Path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	for name, c := range map[string]struct {
		bytes string
		want  string
	}{
		"random":           {string(random) + "\r\n\r\n", "HTTP/1.1 400"},
		"tls":              {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "HTTP/1.1 400"},
		"ssh":              {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 400"},
		"http2":            {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "},
		"huge header":      {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n", "HTTP/1.1 431"},
		"control upgrade":  {upgrade + "\r\n", "HTTP/1.1 401"},
		"control escapes":  {upgrade + "Authorization: Bearer \x1b[31m\x07\r\n\r\n", "HTTP/1.1 400"},
		"relay upgrade":    {strings.Replace(upgrade, control.Path, "/api/v1/relay", 1) + "\r\n", "HTTP/1.1 401"},
		"path of escapes":  {"GET /%1b%5b31m%0a%e2%80%ae HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 404"},
		"nothing but LFs":  {strings.Repeat("\n", 9000), ""},
		"negative length":  {"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400"},
		"chunked nonsense": {"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n", "HTTP/1.1 400"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, _ = conn.Write([]byte(c.bytes)) // the server may close before the end
			_ = conn.(*net.TCPConn).CloseWrite()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return // a reset: the server has closed on unread bytes
			}
			require.True(t, strings.HasPrefix(line, c.want), "%q", line)
		})
	}
	require.Equal(t, http.StatusOK, s.send(t, "GET", "/readyz", "", "").StatusCode)
	require.NotContains(t, s.log.String(), "\\u001b", "escapes of strangers do not reach the log")
	require.NotContains(t, s.log.String(), `"level":"ERROR"`)
}

func TestOneTimeCode(t *testing.T) {
	clock := newClock()
	s := run(t, func(o *Options) { o.Now = clock.Now })
	code, path := s.AdminCode()
	require.FileExists(t, path)
	anonymous := s.client(t, "")

	for _, wrong := range []string{"", "wrong", "0000-0000-0000-0000", code[:len(code)-1], code + code} {
		_, err := anonymous.Login(t.Context(), sdk.LoginRequest{Code: wrong})
		require.True(t, sdk.IsCode(err, sdk.CodeInvalidCode), "%q: %v", wrong, err)
	}
	_, err := anonymous.Login(t.Context(), sdk.LoginRequest{Code: code, Name: "Bad Name"})
	require.True(t, sdk.IsCode(err, sdk.CodeInvalid), "%v", err)

	in, err := anonymous.Login(t.Context(), sdk.LoginRequest{Code: code, Name: "ada"})
	require.NoError(t, err)
	require.Equal(t, "admin", in.User.Role)
	me, err := s.client(t, in.Token).WhoAmI(t.Context())
	require.NoError(t, err)
	require.Equal(t, in.User, me.User)
	require.Equal(t, "ada", me.Name)
	_, err = anonymous.Login(t.Context(), sdk.LoginRequest{Code: code, Name: "eve"})
	require.True(t, sdk.IsCode(err, sdk.CodeInvalidCode), "single use: %v", err)
	require.NoFileExists(t, path)

	log := s.log.String()
	require.Contains(t, log, "logged in with the one-time code")
	require.NotContains(t, log, code)
	require.NotContains(t, log, in.Token)
}

func TestOneTimeCodeExpires(t *testing.T) {
	clock := newClock()
	s := run(t, func(o *Options) { o.Now = clock.Now })
	code, _ := s.AdminCode()
	clock.advance(auth.CodeLife)
	_, err := s.client(t, "").Login(t.Context(), sdk.LoginRequest{Code: code})
	require.True(t, sdk.IsCode(err, sdk.CodeInvalidCode), "%v", err)
}

func TestWorkspaces(t *testing.T) {
	s := run(t, nil)
	_, rootToken := s.addUser(t, "root", store.RoleAdmin)
	_, adaToken := s.addUser(t, "ada", store.RoleMember)
	_, bobToken := s.addUser(t, "bob", store.RoleMember)
	root, ada, bob := s.client(t, rootToken), s.client(t, adaToken), s.client(t, bobToken)
	ctx := t.Context()

	made, err := ada.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: "dev"})
	require.NoError(t, err)
	require.Regexp(t, `^fl_a_`, made.AgentToken)
	require.Equal(t, "ada", made.Workspace.Owner)
	require.Equal(t, sdk.Agent{Status: sdk.AgentNever}, made.Workspace.Agent)
	require.NotContains(t, s.log.String(), made.AgentToken)
	_, err = ada.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: "dev"})
	require.True(t, sdk.IsCode(err, sdk.CodeConflict), "%v", err)

	got, err := ada.Workspace(ctx, "dev")
	require.NoError(t, err)
	require.Equal(t, made.Workspace.ID, got.ID)
	got, err = root.Workspace(ctx, "ada/dev")
	require.NoError(t, err)
	require.Equal(t, made.Workspace.ID, got.ID)
	_, err = ada.Workspace(ctx, "ada/dev")
	require.NoError(t, err)

	// Somebody else's is exactly like one that does not exist.
	foreign := s.send(t, "GET", "/api/v1/workspaces/ada/dev", bobToken, "")
	absent := s.send(t, "GET", "/api/v1/workspaces/ada/nothing", bobToken, "")
	requireRefusal(t, foreign, http.StatusNotFound, sdk.CodeNotFound)
	require.Equal(t, absent.body, foreign.body)
	_, err = bob.Workspace(ctx, "dev")
	require.True(t, sdk.IsCode(err, sdk.CodeNotFound), "%v", err)
	require.Equal(t, absent.body, s.send(t, "GET", "/api/v1/workspaces/dev", bobToken, "").body)

	list, err := bob.Workspaces(ctx)
	require.NoError(t, err)
	require.Empty(t, list)
	list, err = root.Workspaces(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestRestartKeepsData(t *testing.T) {
	dir := t.TempDir()
	s := run(t, func(o *Options) { o.StateDir = dir })
	code, _ := s.AdminCode()
	in, err := s.client(t, "").Login(t.Context(), sdk.LoginRequest{Code: code})
	require.NoError(t, err)
	made, err := s.client(t, in.Token).CreateWorkspace(t.Context(), sdk.CreateWorkspaceRequest{Name: "dev"})
	require.NoError(t, err)
	s.stop()

	s = run(t, func(o *Options) { o.StateDir = dir })
	code, path := s.AdminCode()
	require.Empty(t, code+path, "there is a user")
	got, err := s.client(t, in.Token).Workspace(t.Context(), "dev")
	require.NoError(t, err)
	require.Equal(t, made.Workspace.ID, got.ID)
	p, err := s.auth.Authenticate(t.Context(), made.AgentToken)
	require.NoError(t, err)
	require.Equal(t, got.ID, p.WorkspaceID)
}

func TestEnsureLocal(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	var tokens, agents []string
	for range 2 { // two starts
		s := run(t, func(o *Options) { o.StateDir, o.Local = dir, true })
		code, path := s.AdminCode()
		require.Empty(t, code+path)
		for range 2 {
			u, a, err := s.EnsureLocal(ctx, "me", "local")
			require.NoError(t, err)
			tokens, agents = append(tokens, u), append(agents, a)
		}
		last := len(tokens) - 1
		list, err := s.client(t, tokens[last]).Workspaces(ctx)
		require.NoError(t, err)
		require.Len(t, list, 1)
		p, err := s.auth.Authenticate(ctx, agents[last])
		require.NoError(t, err)
		require.Equal(t, list[0].ID, p.WorkspaceID)
		for i := range last { // replaced: nothing piles up
			_, err := s.auth.Authenticate(ctx, tokens[i])
			require.ErrorIs(t, err, auth.ErrUnauthenticated)
			_, err = s.auth.Authenticate(ctx, agents[i])
			require.ErrorIs(t, err, auth.ErrUnauthenticated)
		}
		_, _, err = s.EnsureLocal(ctx, "Me", "local")
		require.ErrorContains(t, err, sdk.NameRule)
		s.stop()
		for _, secret := range append(tokens, agents...) {
			require.NotContains(t, s.log.String(), secret)
		}
	}
	require.NoFileExists(t, dir+"/admin-code")
}

func TestEnsureLocalVoidsTheCode(t *testing.T) {
	s := run(t, nil)
	code, path := s.AdminCode()
	_, _, err := s.EnsureLocal(t.Context(), "me", "local")
	require.NoError(t, err)
	require.NoFileExists(t, path)
	_, err = s.client(t, "").Login(t.Context(), sdk.LoginRequest{Code: code})
	require.True(t, sdk.IsCode(err, sdk.CodeInvalidCode), "%v", err)
	_, err = os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
