package threat

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// badNames are no names: ways out of a directory, into a header, onto a terminal.
var badNames = []string{
	"..", ".", "../../etc/passwd", "..\\..\\x", "a/b", "/etc/passwd", "%2e%2e%2f", "a\x00b", "a\r\nX-Forged: yes", "a\n", " a", "-rf", "A", "ä",
	"\x1b[2J", "con\u202egpj", strings.Repeat("a", 33), "a b", "$(id)", "';--",
}

// TestNamesAtTheBorder: a name that is none is refused where it arrives, in JSON and
// in a path, and leaves no trace on the disk, in a header or in a line of the log.
func TestNamesAtTheBorder(t *testing.T) {
	s := newTarget(t)
	before := listing(t, s.dir)
	for _, name := range badNames {
		body, err := json.Marshal(sdk.CreateWorkspaceRequest{Name: name})
		require.NoError(t, err)
		requireRefused(t, s.raw(t, "POST", "/api/v1/workspaces", string(body), "Authorization: Bearer "+s.userToken), http.StatusBadRequest)
		body, err = json.Marshal(sdk.LoginRequest{Code: name, Name: name})
		require.NoError(t, err)
		requireRefused(t, s.raw(t, "POST", "/api/v1/login", string(body)), http.StatusBadRequest, http.StatusUnauthorized, http.StatusTooManyRequests)
	}
	for _, path := range []string{
		"/api/v1/workspaces/..%2f..%2fetc%2fpasswd", "/api/v1/workspaces/%2e%2e", "/api/v1/workspaces/a%00b", "/api/v1/workspaces/a%0d%0aX-Forged:%20yes",
		"/api/v1/workspaces/ada/..%2fdev", "/api/v1/../../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/state/admin-code", "/admin-code",
	} {
		answer := s.raw(t, "GET", path, "", "Authorization: Bearer "+s.userToken)
		requireRefused(t, answer, http.StatusBadRequest, http.StatusNotFound, http.StatusMovedPermanently, http.StatusTemporaryRedirect)
	}
	require.Equal(t, before, listing(t, s.dir))
	for line := range strings.Lines(s.log.String()) {
		require.True(t, strings.HasPrefix(line, "time="), "a line that the server did not begin: %q", line)
		require.NotContains(t, line, "\x1b")
	}
}

// TestForgedHeaders: headers that other servers believe give a stranger nothing, and
// come back in no answer.
func TestForgedHeaders(t *testing.T) {
	s := newTarget(t)
	for _, header := range []string{
		"Authorization: Bearer ", "Authorization: Basic YWRhOmFkYQ==", "Authorization: Bearer " + s.userToken + "x", "Authorization: Bearer ../" + s.userToken,
		"X-Forwarded-For: 127.0.0.1", "X-Forwarded-User: ada", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Original-URL: /api/v1/version",
		"Cookie: token=" + s.userToken, "X-HTTP-Method-Override: GET", "Host: evil.example",
		"X-Fairlead-Version: \x1b[2J", "Origin: https://evil.example",
	} {
		answer := s.raw(t, "GET", "/api/v1/me", "", header)
		requireRefused(t, answer, http.StatusUnauthorized, http.StatusBadRequest)
		require.NotContains(t, answer.head, "evil.example")
	}
	both := s.raw(t, "GET", "/api/v1/me", "", "Authorization: Bearer x", "Authorization: Bearer "+s.userToken)
	require.NotEqual(t, http.StatusOK, both.status, "two logins are none")
	split := s.raw(t, "GET", "/api/v1/me", "", "X: y\r\nContent-Length: 5\r\nTransfer-Encoding: chunked")
	require.NotEqual(t, http.StatusOK, split.status)
}

// answer is an HTTP answer as it crossed the wire.
type answer struct {
	status int
	head   string
	body   string
}

// requireRefused checks that an answer is one of statuses, and Fairlead's own.
func requireRefused(t *testing.T, a answer, statuses ...int) {
	t.Helper()
	require.Contains(t, statuses, a.status, a.body)
	require.NotContains(t, a.head, "X-Forged")
	require.NotContains(t, a.head+a.body, "\x1b")
	require.NotContains(t, a.body, "root:")
}

// raw sends a request byte by byte as given: no library puts it right before.
func (s *target) raw(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(site.Patience)))
	request := method + " " + path + " HTTP/1.1\r\nConnection: close\r\n"
	if !strings.HasPrefix(strings.Join(headers, "\n"), "Host:") {
		request += "Host: " + s.Addr().String() + "\r\n"
	}
	for _, h := range headers {
		request += h + "\r\n"
	}
	if body != "" {
		request += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	_, err = c.Write([]byte(request + "\r\n" + body))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	require.NoError(t, err)
	defer resp.Body.Close()
	var head, text strings.Builder
	require.NoError(t, resp.Header.Write(&head))
	_, err = bufio.NewReader(resp.Body).WriteTo(&text)
	require.NoError(t, err)
	return answer{resp.StatusCode, head.String(), text.String()}
}

// listing is every file below dir, but for those that a database makes for itself.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && !strings.HasSuffix(path, "-wal") && !strings.HasSuffix(path, "-shm") {
			all = append(all, path)
		}
		return err
	}))
	return all
}
