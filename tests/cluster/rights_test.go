package cluster

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// revokeWithin is what a withdrawn right may take to end a live session.
const revokeWithin = 2 * time.Second

// must runs fairlead and returns what it said, which must have worked.
func (h *home) must(args ...string) string {
	h.t.Helper()
	r := h.run(args...)
	require.Equal(h.t, 0, r.code, "%q: %s%s", args, r.stdout, r.stderr)
	return r.stdout
}

// newUser makes a user, logged in on a machine of their own.
func (s *site) newUser(name string) *home {
	s.t.Helper()
	token := s.h.path("token-of-" + name)
	s.h.must("user", "create", name, "--token-file", token)
	h := newHome(s.t)
	h.must("login", s.url, "--token-file", token)
	return h
}

// session opens a session that lasts, and waits until the remote command runs.
func session(h *home, workspace string) *process {
	p := h.start("ssh", workspace, "--", "echo up''; sleep 1000")
	p.stdout.awaitText(h.t, "up\n")
	return p
}

// endsRevoked waits for the end of a client after something withdrew its right at the
// time since, and checks what everybody says of it.
func (s *site) endsRevoked(p *process, since time.Time) {
	s.t.Helper()
	require.Equal(s.t, 255, p.wait(), p.stderr)
	took := time.Since(since)
	require.Contains(s.t, p.stderr.String(), "reason=auth_revoked initiator=server expected=true")
	require.Equal(s.t, 1, strings.Count(p.stderr.String(), "\n"), p.stderr)
	require.Less(s.t, took, revokeWithin)
}

// TestWithdrawnRights: a right that is withdrawn ends the live session, and client,
// agent and server all say why.
func TestWithdrawnRights(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bob := s.newUser("bob")
	require.Equal(t, 255, bob.run("ssh", "admin/dev", "--", "true").code, "not yet")

	revoked := 0
	gone := func(t *testing.T) {
		t.Helper()
		revoked++
		for _, end := range []struct {
			log *process
			msg string
		}{{s.agent, "ssh session closed"}, {s.server, "connection ended"}} {
			testEventually(t, end.msg, func() bool {
				n := 0
				for _, e := range end.log.stderr.endings(t, end.msg) {
					if e["disconnect_reason"] == "auth_revoked" && e["disconnect_initiator"] == "server" && e["connect_type"] == "agent_to_client" {
						n++
					}
				}
				return n == revoked
			})
		}
	}

	t.Run("unshared", func(t *testing.T) {
		s.h.must("workspace", "share", "dev", "bob")
		require.Contains(t, bob.must("ls"), "dev")
		p, mine := session(bob, "admin/dev"), session(s.h, "dev")
		since := time.Now()
		s.h.must("workspace", "unshare", "dev", "bob")
		s.endsRevoked(p, since)
		gone(t)
		require.Equal(t, 255, bob.run("ssh", "admin/dev", "--", "true").code)
		require.NotContains(t, bob.must("ls"), "dev")
		mine.signal(15)
		require.Contains(t, mine.stdout.String(), "up")
		require.NotEqual(t, 0, mine.wait())
		require.Contains(t, mine.stderr.String(), "reason=client_closed", "the owner's session lived on")
	})
	t.Run("token revoked", func(t *testing.T) {
		s.h.must("workspace", "share", "dev", "bob")
		var made struct {
			Secret string `json:"secret"`
			Token  struct {
				ID string `json:"id"`
			} `json:"token"`
		}
		require.NoError(t, json.Unmarshal([]byte(bob.must("token", "create", "ci", "--scope", "ssh", "--output", "json")), &made))
		ci := newHome(t)
		ci.must("login", s.url, "--token-file", ci.write("token", made.Secret))
		require.Equal(t, 1, ci.run("token", "list").code, "the scope is ssh")
		p, other := session(ci, "admin/dev"), session(bob, "admin/dev")
		since := time.Now()
		bob.must("token", "revoke", made.Token.ID[:8])
		s.endsRevoked(p, since)
		gone(t)
		require.Equal(t, 4, ci.run("ls").code)
		require.Equal(t, 4, ci.run("ssh", "admin/dev", "--", "true").code)
		other.signal(15)
		require.NotEqual(t, 0, other.wait())
		require.Contains(t, other.stderr.String(), "reason=client_closed", "another token's session lived on")
	})
	t.Run("user disabled while the server is away", func(t *testing.T) {
		p := session(bob, "admin/dev")
		s.server.kill()
		s.startServer()
		s.awaitAgent("online")
		since := time.Now()
		s.h.must("user", "disable", "bob")
		s.endsRevoked(p, since)
		revoked = 0 // of this life of the server; the agent's log goes on
		require.Equal(t, 4, bob.run("whoami").code)
		s.h.must("user", "enable", "bob")
		require.Contains(t, bob.must("whoami"), "bob (member)")
	})
	t.Run("logged out", func(t *testing.T) {
		p := session(bob, "admin/dev")
		since := time.Now()
		bob.must("logout")
		s.endsRevoked(p, since)
		require.Equal(t, 4, bob.run("whoami").code)
	})
	t.Run("workspace deleted", func(t *testing.T) {
		p := session(s.h, "dev")
		since := time.Now()
		s.h.must("workspace", "delete", "dev")
		s.endsRevoked(p, since)
		require.Equal(t, 3, s.agent.wait(), "the agent does not come back")
		links := s.agent.stderr.endings(t, "disconnected from server")
		require.Equal(t, "auth_revoked", links[len(links)-1]["disconnect_reason"])
		require.Equal(t, "server", links[len(links)-1]["disconnect_initiator"])
	})
	t.Run("the last admin stays", func(t *testing.T) {
		r := s.h.run("user", "disable", "admin")
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "the last admin")
	})
}

// TestExpiredToken: a token that expires ends what it began.
func TestExpiredToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.h.path("short")
	s.h.must("token", "create", "short", "--expires", "5s", "--token-file", token)
	h := newHome(t)
	h.must("login", s.url, "--token-file", token)
	p := session(h, "dev")
	require.Equal(t, 255, p.wait())
	require.Contains(t, p.stderr.String(), "reason=auth_expired initiator=server expected=true")
	r := h.run("ssh", "dev", "--", "true")
	require.Equal(t, 4, r.code)
	require.Contains(t, r.stderr, "has expired")
}

// TestRotatedToken: the agent with the old token is told and stays away; one with the
// new token takes its place.
func TestRotatedToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	fresh := s.h.path("fresh-token")
	s.h.must("workspace", "rotate-token", "dev", "--token-file", fresh)
	require.Equal(t, 3, s.agent.wait())
	require.Contains(t, s.agent.stderr.String(), "the server does not accept this agent's token")
	s.agentEnv = fresh
	s.startAgent()
	require.Equal(t, "hello\n", s.h.must("ssh", "dev", "--", "echo hello"))
}
