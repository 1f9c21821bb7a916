package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

var listensAt = regexp.MustCompile(`(?m)^(\S+) (?:in dev )?(?:leads to|is a SOCKS proxy)`)

// forwardedAt waits until all n forwards listen, and returns where.
func forwardedAt(t *testing.T, p *site.Process, n int) (addresses []string) {
	t.Helper()
	text := p.Stdout.Await(t, "forwards that listen", func(s string) bool { return len(listensAt.FindAllString(s, -1)) == n })
	for _, found := range listensAt.FindAllStringSubmatch(text, -1) {
		addresses = append(addresses, found[1])
	}
	return addresses
}

// fetch asks over a new connection; the error is the connection's.
func fetch(transport *http.Transport, address string) (string, error) {
	transport.DisableKeepAlives = true
	answer, err := (&http.Client{Transport: transport}).Get("http://" + address + "/")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// TestPortForward: a program is reached through every kind of forward, also by the next
// agent, and while there is none nobody hangs.
func TestPortForward(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(web.Close)
	target := strings.TrimPrefix(web.URL, "http://")
	p := s.Start("port-forward", "dev", "--verbose", "-L", "127.0.0.1:0:"+target, "-D", "127.0.0.1:0", "-R", "127.0.0.1:0:"+target,
		"--log-file", s.Path("forward.log"), "--log-format", "json")
	at := forwardedAt(t, p, 3)
	proxied := &http.Transport{Proxy: http.ProxyURL(mustURL(t, "socks5://"+at[1]))}
	reached := func() {
		t.Helper()
		for _, address := range []string{at[0], at[2]} {
			got, err := fetch(&http.Transport{}, address)
			require.NoError(t, err)
			require.Equal(t, "hello", got)
		}
	}
	reached()
	got, err := fetch(proxied, target)
	require.NoError(t, err)
	require.Equal(t, "hello", got)
	require.Regexp(t, `closed 1: \d+ B sent, \d+ B received in .*; reason=graceful initiator=`, p.Stdout.AwaitText(t, "closed 3: "))

	open, err := net.Dial("tcp", at[0])
	require.NoError(t, err)
	defer open.Close()
	p.Stdout.AwaitText(t, "opened 4: ")
	s.Agent.Stop()
	p.Stderr.AwaitText(t, "new connections are reset")
	_, err = io.Copy(io.Discard, open)
	require.Error(t, err, "what was cut off does not look whole")
	p.Stdout.AwaitText(t, "closed 4: ")
	_, err = fetch(&http.Transport{}, at[0])
	require.Error(t, err)
	p.Stdout.AwaitText(t, "refused 5: ")

	s.StartAgent()
	p.Stderr.AwaitText(t, "dev is back")
	require.Equal(t, at[2], forwardedAt(t, p, 4)[3], "the port in the workspace stays")
	reached()
	p.Stdout.AwaitText(t, "closed 7: ")
	p.Signal(syscall.SIGINT)
	require.Equal(t, 0, p.Wait(), p.Stderr)
	site.Eventually(t, "rows of forwards", func() bool {
		r := s.Run("connections", "--type", "port_forward", "--status", "closed", "--output", "json")
		var rows []sdk.Connection
		return json.Unmarshal([]byte(r.Stdout), &rows) == nil && len(rows) == 6
	})
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

// TestPortForwardEnds: at Ctrl-C, loudly where that is asked for, and for good where the
// right is gone.
func TestPortForwardEnds(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	loud := s.Start("port-forward", "dev", "0:1", "--exit-on-disconnect")
	forwardedAt(t, loud, 1)
	bob := s.NewUser("bob")
	s.Must("workspace", "share", "dev", "bob")
	patient := bob.Start("port-forward", "admin/dev", "0:1")
	patient.Stdout.AwaitText(t, "leads to")
	s.Must("workspace", "unshare", "dev", "bob")
	require.Equal(t, 4, patient.Wait())
	require.Contains(t, patient.Stderr.String(), "reason=auth_revoked")
	s.Agent.Stop()
	require.Equal(t, 255, loud.Wait())
	require.Contains(t, loud.Stderr.String(), "fairlead: connection to dev ended: reason=server_shutdown initiator=agent expected=true")
}

// TestPortForwardBadInput: one clear sentence each, before anything listens.
func TestPortForwardBadInput(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, _ := site.StartUp(h)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"local"}, 2, "name a port, or a forward"},
		{[]string{}, 2, "name one workspace"},
		{[]string{"local", "http"}, 2, `"http" is not a forward; it has the form PORT`},
		{[]string{"local", "-L", "80:x"}, 2, `-L "80:x" is not a forward`},
		{[]string{"local", "-R", "x"}, 2, `-R "x" is not a forward`},
		{[]string{"local", "-D", "/x"}, 2, `-D "/x" is not a forward`},
		{[]string{"local", "-L", "127.0.0.1:" + port + ":web:80"}, 1, "listen on 127.0.0.1:" + port + ": the port is in use by another program"},
		{[]string{"local", "-R", "127.0.0.1:" + port + ":web:80"}, 255, "in the workspace: the port or the socket's path is in use there"},
		{[]string{"local", "-L", "/" + strings.Repeat("x", 200) + ":web:80"}, 1, "the path of a socket has at most 107 bytes, and this one has 201"},
		{[]string{"nowhere", "0:80"}, 255, "there is no workspace nowhere"},
	} {
		r := h.Run(append([]string{"port-forward"}, tc.args...)...)
		require.Equal(t, tc.code, r.Code, "%q: %s", tc.args, r.Stderr)
		require.Contains(t, r.Stderr, tc.want)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
		require.Empty(t, r.Stdout)
	}
	dead := site.FreeAddress(t)
	p := h.Start("port-forward", "local", "-L", "127.0.0.1:0:"+dead)
	at := forwardedAt(t, p, 1)[0]
	_, err = fetch(&http.Transport{}, at)
	require.Error(t, err)
	p.Stderr.AwaitText(t, fmt.Sprintf("to %s; reason=connection_refused initiator=agent expected=false", dead))
	p.Stop()
	up.Stop()
}
