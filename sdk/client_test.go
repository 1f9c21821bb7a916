package sdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts an HTTP server and returns a client of it, and its URL.
func serve(t *testing.T, token string, h http.HandlerFunc) (*sdk.Client, string) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := sdk.NewClient(srv.URL, token)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, srv.URL
}

// fairlead answers as a Fairlead server would.
func fairlead(w http.ResponseWriter, status int, body string) {
	w.Header().Set(sdk.HeaderVersion, "v1")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// requireError checks the one sentence that a person gets.
func requireError(t *testing.T, err error, code string, parts ...string) *sdk.Error {
	t.Helper()
	var e *sdk.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code, "%v", err)
	require.True(t, sdk.IsCode(err, code))
	for _, part := range parts {
		require.Contains(t, err.Error(), part)
	}
	require.NotContains(t, err.Error(), "\n")
	require.NotContains(t, err.Error(), "\x1b")
	return e
}

func TestRequests(t *testing.T) {
	var got []string
	c, url := serve(t, "fl_u_secret", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(b))
		if r.URL.Path == "/api/v1/me" {
			fairlead(w, 200, `{"name":"ada","token":{"id":"1"}}`)
			return
		}
		fairlead(w, 200, `{"name":"ada","version":"v1","token":"T","agent_token":"A","workspaces":[{"name":"dev"}],"a_newer_field":1}`)
	})
	ctx := t.Context()
	info, err := c.BuildInfo(ctx)
	require.NoError(t, err)
	require.Equal(t, "v1", info.Version)
	in, err := c.Login(ctx, sdk.LoginRequest{Code: "c", Name: "ada"})
	require.NoError(t, err)
	require.Equal(t, "T", in.Token)
	me, err := c.WhoAmI(ctx)
	require.NoError(t, err)
	require.Equal(t, "ada", me.Name)
	list, err := c.Workspaces(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	_, err = c.Workspace(ctx, "dev")
	require.NoError(t, err)
	_, err = c.Workspace(ctx, "ada/dev")
	require.NoError(t, err)
	made, err := c.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: "dev"})
	require.NoError(t, err)
	require.Equal(t, "A", made.AgentToken)
	const bearer = " Bearer fl_u_secret "
	require.Equal(t, []string{
		"GET /api/v1/version" + bearer,
		"POST /api/v1/login" + bearer + `{"code":"c","name":"ada"}`,
		"GET /api/v1/me" + bearer,
		"GET /api/v1/workspaces" + bearer,
		"GET /api/v1/workspaces/dev" + bearer,
		"GET /api/v1/workspaces/ada/dev" + bearer,
		"POST /api/v1/workspaces" + bearer + `{"name":"dev"}`,
	}, got)
	require.Equal(t, url, c.URL().String())
}

func TestPathOfTheAccessURLIsKept(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/fair/lead/api/v1/version" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fairlead(w, 200, `{"version":"v1"}`)
	}))
	defer srv.Close()
	for _, slash := range []string{"", "/"} {
		c, err := sdk.NewClient(" "+srv.URL+"/fair/lead"+slash+"\n", "")
		require.NoError(t, err)
		defer c.Close()
		_, err = c.BuildInfo(t.Context())
		require.NoError(t, err)
		require.Equal(t, srv.URL+"/fair/lead", c.URL().String())
	}
}

func TestBadURLs(t *testing.T) {
	for _, bad := range []string{
		"", "example.com", "example.com:8080", "/path", "ftp://example.com", "http://", "https://u:secret@example.com",
		"https://example.com?x=1", "https://example.com#x", "http://exa mple.com", "http://[::1", "\x1b[31mhttp://x",
	} {
		_, err := sdk.NewClient(bad, "")
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "\x1b")
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestBadWorkspaceNamesAreNotSent(t *testing.T) {
	c, _ := serve(t, "", func(w http.ResponseWriter, r *http.Request) { t.Errorf("sent %s", r.URL) })
	for _, bad := range []string{"", "..", "a/../b", "a/b/c", "A", "a b", "/a", "a/", "a?b", "a\x1b[31m", "%2e%2e"} {
		_, err := c.Workspace(t.Context(), bad)
		requireError(t, err, sdk.CodeInvalid, "is not a workspace name")
	}
}

func TestServerErrors(t *testing.T) {
	answer := ""
	status := 0
	c, url := serve(t, "", func(w http.ResponseWriter, r *http.Request) { fairlead(w, status, answer) })

	status, answer = 404, `{"error":{"code":"not_found","message":"no such workspace"}}`
	_, err := c.Workspace(t.Context(), "dev")
	require.Equal(t, 404, requireError(t, err, sdk.CodeNotFound, "no such workspace").Status)

	b, err := json.Marshal(sdk.ErrorResponse{Error: sdk.ErrorBody{Code: "odd\x1b", Message: "red\x1b[31m\nnext\u202eline" + strings.Repeat("x", 4096)}})
	require.NoError(t, err)
	status, answer = 400, string(b)
	_, err = c.WhoAmI(t.Context())
	e := requireError(t, err, "odd")
	require.NotContains(t, e.Message, "\u202e")
	require.LessOrEqual(t, len(e.Message), 256)

	status, answer = 500, `not json`
	_, err = c.WhoAmI(t.Context())
	requireError(t, err, sdk.CodeInternal, url, "status 500")
	status, answer = 200, `not json`
	_, err = c.WhoAmI(t.Context())
	requireError(t, err, sdk.CodeNotFairlead, url)
}

func TestSomethingElse(t *testing.T) {
	var answer http.HandlerFunc
	c, url := serve(t, "fl_u_secret", func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		parts  []string
	}{
		"a web page": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, "<html>\x1b[31mhello")
		}, []string{url + " is not a Fairlead server", "status 200", "text/html"}},
		"a 404": {http.NotFound, []string{"is not a Fairlead server", "404"}},
		"odd type": {func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{"\xff\xfe"}
		}, []string{"is not a Fairlead server"}},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example.com/\u202e", http.StatusFound)
		}, []string{"redirects to", "login.example.com"}},
		"a proxy without a backend": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
		}, []string{"a proxy at " + url, "502"}},
	} {
		t.Run(name, func(t *testing.T) {
			answer = row.answer
			_, err := c.WhoAmI(t.Context())
			requireError(t, err, sdk.CodeNotFairlead, row.parts...)
		})
	}
}

// TestNoHTTPAtAll: other protocols on the port, of the kind that greets first and of
// the kind that waits.
func TestNoHTTPAtAll(t *testing.T) {
	log.SetOutput(io.Discard) // net/http writes there that somebody greeted first
	defer log.SetOutput(os.Stderr)
	for name, talk := range map[string]func(net.Conn){
		"greets": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\x1b[31m\r\n")
			_, _ = io.CopyN(io.Discard, conn, 16) // so that closing is no reset
		},
		"waits": func(conn net.Conn) {
			_, _ = io.CopyN(io.Discard, conn, 16)
			_, _ = io.WriteString(conn, "-ERR unknown command\x1b[31m\r\n")
		},
	} {
		for _, scheme := range []string{"http://", "https://"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				addr := speak(t, talk)
				c, err := sdk.NewClient(scheme+addr, "")
				require.NoError(t, err)
				defer c.Close()
				_, err = c.WhoAmI(t.Context())
				requireError(t, err, sdk.CodeNotFairlead, scheme+addr+" is not a Fairlead server: it does not speak HTTP")
			})
		}
	}
	addr := speak(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1024)) })
	c, err := sdk.NewClient("http://"+addr, "")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.WhoAmI(t.Context())
	requireError(t, err, sdk.CodeUnreachable, "closed the connection without an answer")
}

// speak serves a TCP port with talk until the test ends, and returns its address.
func speak(t *testing.T, talk func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			talk(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, ln.Close())
		<-done
	})
	return ln.Addr().String()
}

func TestHTTPToTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	c, err := sdk.NewClient(strings.Replace(srv.URL, "https", "http", 1), "")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.WhoAmI(t.Context())
	requireError(t, err, sdk.CodeNotFairlead, "speaks https: use "+srv.URL)
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url := "http://" + ln.Addr().String()
	require.NoError(t, ln.Close())
	c, err := sdk.NewClient(url, "")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.WhoAmI(t.Context())
	e := requireError(t, err, sdk.CodeUnreachable, "cannot reach the server at "+url, "connection refused")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Zero(t, e.Status)
	require.Equal(t, 1, strings.Count(err.Error(), url), "said once")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.WhoAmI(ctx)
	requireError(t, err, sdk.CodeUnreachable, "was cancelled", url)
	require.ErrorIs(t, err, context.Canceled)
}

func TestDeadline(t *testing.T) {
	release := make(chan struct{})
	c, url := serve(t, "", func(w http.ResponseWriter, r *http.Request) { <-release })
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	_, err := c.WhoAmI(ctx)
	requireError(t, err, sdk.CodeUnreachable, "cannot reach the server at "+url+": no answer in time")
	require.True(t, errors.Is(err, context.DeadlineExceeded))
}

func TestValidName(t *testing.T) {
	for _, good := range []string{"a", "0", "dev-1", strings.Repeat("z", 32)} {
		require.True(t, sdk.ValidName(good), good)
	}
	for _, bad := range []string{"", "-", "-a", "A", "a_b", "a.b", "a/b", "a\n", "\na", "ü", strings.Repeat("z", 33)} {
		require.False(t, sdk.ValidName(bad), "%q", bad)
	}
}
