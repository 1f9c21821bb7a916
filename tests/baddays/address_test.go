package baddays

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestAddressLeadsElsewhere: what answers at the server's address is something else for
// a while. Agent and client each say what, in one sentence at a time, do not hammer it,
// keep their session, and come back by themselves.
func TestAddressLeadsElsewhere(t *testing.T) {
	t.Parallel()
	s, f := behindFront(t)
	sh := s.OpenShell("dev", "--log-file", s.Path("ssh.log"), "--log-level", "info")
	for _, c := range []struct {
		name   string
		answer func(net.Conn)
		says   string // of somebody who wants to connect now
		reason string // of the agent's log
	}{
		{"a web page", says("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"), "is a web page", "network_unreachable"},
		{"another site", says("HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/\r\nContent-Length: 0\r\n\r\n"), "is a web page", "network_unreachable"},
		{"nothing there", says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "is not a Fairlead server", "protocol_error"},
		{"a proxy without a server", says("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), "the Fairlead server behind it does not answer", "connection_refused"},
		{"a mail server", says("220 mail.example.com ESMTP\r\n"), "is not a Fairlead server", "protocol_error"},
		{"noise", says("\x00\xff\x1b[31m\r\n\x07garbage\r\n\r\n"), "is not a Fairlead server", "protocol_error"},
		{"TLS on the plain port", says(alert), "speaks TLS", "protocol_error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(s.Agent.Stderr.Records(t))
			f.lead(c.answer)
			site.Eventually(t, "the agent's word of "+c.reason, func() bool {
				for _, w := range s.Agent.Stderr.Records(t)[before:] {
					if w["msg"] == "could not reach the server" && w["reason"] == c.reason {
						require.NotContains(t, w["error"], "\x1b")
						require.Less(t, len(w["error"].(string)), 400, w)
						return true
					}
				}
				return false
			})

			r := s.With(t).Run("ssh", "dev", "--", "true")
			require.Equal(t, 255, r.Code, r.Stderr)
			require.Contains(t, r.Stderr, c.says)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
			sh.Echo("lives-on")

			begin := time.Now()
			f.lead(nil)
			s.AwaitAgent("online")
			t.Logf("back after %v", time.Since(begin))
			require.Equal(t, "back\n", s.Must("ssh", "dev", "--", "echo back"))
		})
	}
	sh.Echo("through-all-of-it")
	sh.Type("exit 3\r")
	require.Equal(t, 3, sh.Wait())
}

// TestNameStopsResolving: the agent says that the name is the matter, and comes back when
// it leads to the server again.
func TestNameStopsResolving(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("an /etc/hosts of its own needs root: what happens when a name stops resolving is not tested")
	}
	s := site.Empty(t)
	s.StartServer()
	s.Settle()
	hosts, resolver := s.Write("hosts", "127.0.0.1 fairlead.test\n"), s.Write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
	_, port, err := net.SplitHostPort(s.Address)
	require.NoError(t, err)
	s.Agent = s.StartCommand(exec.Command("unshare", "--mount", "sh", "-c",
		`mount --bind "$1" /etc/hosts && mount --bind "$2" "$(readlink -f /etc/resolv.conf)" && shift 2 && exec "$@"`, "sh", hosts, resolver,
		site.Binary, "agent", "http://fairlead.test:"+port, "--insecure-http", "--token-file", s.AgentToken,
		"--state-dir", s.Path("agent"), "--log-format", "json"))
	s.AwaitAgent("online")
	s.Write("hosts", "127.0.0.1 localhost\n")
	s.Server.Stop()
	s.Agent.Stderr.AwaitText(t, `"reason":"dns_failure"`)
	s.StartServer()
	s.Write("hosts", "127.0.0.1 fairlead.test\n")
	s.AwaitAgent("online")
	require.Equal(t, "back\n", s.Must("ssh", "dev", "--", "echo back"))
}

// TestAddressIsNotHammered: while the server's address leads elsewhere, agent and client
// ask less and less often, and log each attempt once.
func TestAddressIsNotHammered(t *testing.T) {
	t.Parallel()
	s, f := behindFront(t)
	sh := s.OpenShell("dev", "--log-file", s.Path("ssh.log"), "--log-level", "info")
	f.lead(says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
	begin := time.Now()
	s.Agent.Stderr.AwaitText(t, `"attempt":6,`)
	took := time.Since(begin)
	require.Greater(t, took, 3*time.Second)
	client := strings.Count(read(t, s.Path("ssh.log")), "could not reach the server")
	t.Logf("in %v: %d control dials, %d relay dials, %d warnings of the client", took,
		f.seen("/api/v1/control"), f.seen("/api/v1/relay"), client)
	require.LessOrEqual(t, f.seen("/api/v1/control"), 8+12, "6 of the agent, the client's up to every 2.5 s")
	require.LessOrEqual(t, f.seen("/api/v1/relay"), 40)
	require.LessOrEqual(t, client, 12)
	sh.Echo("still")
}

// TestAddressIsNoAddress: a URL that cannot be one is a mistake in the command or the
// file, said in one sentence, and mends with it.
func TestAddressIsNoAddress(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	for _, bad := range []string{"garbage", "http://", "ftp://127.0.0.1", "http://a b", "http://127.0.0.1:99999999", "::"} {
		t.Run(bad, func(t *testing.T) {
			h := s.With(t)
			r := h.Run("agent", bad, "--token-file", s.AgentToken, "--state-dir", h.Path("other"))
			require.Equal(t, 2, r.Code, r.Stderr)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
			require.NoFileExists(t, h.Path("other"))

			login := h.Path("config/profiles.json")
			good := read(t, login)
			require.NoError(t, os.WriteFile(login, []byte(strings.ReplaceAll(good, s.URL, bad)), 0o600))
			for _, args := range [][]string{{"ls"}, {"ssh", "dev", "--", "true"}, {"ping", "--once", "dev"}, {"whoami"}} {
				r := h.Run(args...)
				require.Equal(t, 4, r.Code, "%q: %s", args, r.Stderr)
				require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
				require.Contains(t, r.Stderr, "log in again")
			}
			require.NoError(t, os.WriteFile(login, []byte(good), 0o600))
			h.Must("ssh", "dev", "--", "true")
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// behindFront is a site whose agent and clients know the server by a front.
func behindFront(t *testing.T) (*site.Site, *front) {
	t.Helper()
	s := site.Empty(t)
	f := newFront(t, s.Address)
	s.StartServer()
	s.URL = f.URL
	s.Settle()
	s.StartAgent()
	return s, f
}
