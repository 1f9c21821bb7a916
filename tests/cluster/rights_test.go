package cluster

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// revokeWithin is what a withdrawn right may take to end a live session.
const revokeWithin = 2 * time.Second

// session opens a session that lasts, and waits until the remote command runs.
func session(h *site.Home, workspace string) *site.Process {
	p := h.Start("ssh", workspace, "--", "echo up''; sleep 1000")
	p.Stdout.AwaitText(h.T, "up\n")
	return p
}

// endsRevoked waits for the end of a client after something withdrew its right at the
// time since, and checks what everybody says of it.
func endsRevoked(t *testing.T, p *site.Process, since time.Time) {
	t.Helper()
	endsFor(t, p, since, "auth_revoked")
}

func endsFor(t *testing.T, p *site.Process, since time.Time, reason string) {
	t.Helper()
	require.Equal(t, 255, p.Wait(), p.Stderr)
	took := time.Since(since)
	require.Contains(t, p.Stderr.String(), "reason="+reason+" initiator=server expected=true")
	require.Equal(t, 1, strings.Count(p.Stderr.String(), "\n"), p.Stderr)
	require.Less(t, took, revokeWithin)
}

// TestWithdrawnRights: a right that is withdrawn ends the live session, and client,
// agent and server all say why.
func TestWithdrawnRights(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob := s.NewUser("bob")
	require.Equal(t, 255, bob.Run("ssh", "admin/dev", "--", "true").Code, "not yet")

	revoked := 0
	gone := func(t *testing.T) {
		t.Helper()
		revoked++
		for _, end := range []struct {
			log *site.Process
			msg string
		}{{s.Agent, "ssh session closed"}, {s.Server, "connection ended"}} {
			site.Eventually(t, end.msg, func() bool {
				n := 0
				for _, e := range end.log.Stderr.Endings(t, end.msg) {
					if e["disconnect_reason"] == "auth_revoked" && e["disconnect_initiator"] == "server" && e["connect_type"] == "agent_to_client" {
						n++
					}
				}
				return n == revoked
			})
		}
	}

	t.Run("unshared", func(t *testing.T) {
		s.Must("workspace", "share", "dev", "bob")
		require.Contains(t, bob.Must("ls"), "dev")
		p, mine := session(bob, "admin/dev"), session(s.Home, "dev")
		since := time.Now()
		s.Must("workspace", "unshare", "dev", "bob")
		endsRevoked(t, p, since)
		gone(t)
		require.Equal(t, 255, bob.Run("ssh", "admin/dev", "--", "true").Code)
		require.NotContains(t, bob.Must("ls"), "dev")
		mine.Signal(15)
		require.Contains(t, mine.Stdout.String(), "up")
		require.NotEqual(t, 0, mine.Wait())
		require.Contains(t, mine.Stderr.String(), "reason=client_closed", "the owner's session lived on")
	})
	t.Run("token revoked", func(t *testing.T) {
		s.Must("workspace", "share", "dev", "bob")
		var made struct {
			Secret string `json:"secret"`
			Token  struct {
				ID string `json:"id"`
			} `json:"token"`
		}
		require.NoError(t, json.Unmarshal([]byte(bob.Must("token", "create", "ci", "--scope", "ssh", "--output", "json")), &made))
		ci := site.NewHome(t)
		ci.Must("login", s.URL, "--token-file", ci.Write("token", made.Secret))
		require.Equal(t, 1, ci.Run("token", "list").Code, "the scope is ssh")
		p, other := session(ci, "admin/dev"), session(bob, "admin/dev")
		since := time.Now()
		bob.Must("token", "revoke", made.Token.ID[:8])
		endsRevoked(t, p, since)
		gone(t)
		require.Equal(t, 4, ci.Run("ls").Code)
		require.Equal(t, 4, ci.Run("ssh", "admin/dev", "--", "true").Code)
		other.Signal(15)
		require.NotEqual(t, 0, other.Wait())
		require.Contains(t, other.Stderr.String(), "reason=client_closed", "another token's session lived on")
	})
	t.Run("user disabled while the server is away", func(t *testing.T) {
		p := session(bob, "admin/dev")
		s.Server.Kill()
		s.StartServer()
		s.AwaitAgent("online")
		since := time.Now()
		s.Must("user", "disable", "bob")
		endsRevoked(t, p, since)
		revoked = 0 // of this life of the server; the agent's log goes on
		require.Equal(t, 4, bob.Run("whoami").Code)
		s.Must("user", "enable", "bob")
		require.Contains(t, bob.Must("whoami"), "bob (member)")
	})
	t.Run("logged out", func(t *testing.T) {
		p := session(bob, "admin/dev")
		since := time.Now()
		bob.Must("logout")
		endsRevoked(t, p, since)
		require.Equal(t, 4, bob.Run("whoami").Code)
	})
	t.Run("workspace deleted", func(t *testing.T) {
		p := session(s.Home, "dev")
		since := time.Now()
		s.Must("workspace", "delete", "dev")
		endsFor(t, p, since, "workspace_stopped")
		require.Equal(t, 3, s.Agent.Wait(), "the agent does not come back")
		links := s.Agent.Stderr.Endings(t, "disconnected from server")
		require.Equal(t, "workspace_stopped", links[len(links)-1]["disconnect_reason"])
		require.Equal(t, "server", links[len(links)-1]["disconnect_initiator"])
	})
	t.Run("the last admin stays", func(t *testing.T) {
		r := s.Run("user", "disable", "admin")
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, "the last admin")
	})
}

// TestExpiredToken: a token that expires ends what it began.
func TestExpiredToken(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	token := s.Path("short")
	s.Must("token", "create", "short", "--expires", "5s", "--token-file", token)
	h := site.NewHome(t)
	h.Must("login", s.URL, "--token-file", token)
	p := session(h, "dev")
	require.Equal(t, 255, p.Wait())
	require.Contains(t, p.Stderr.String(), "reason=auth_expired initiator=server expected=true")
	r := h.Run("ssh", "dev", "--", "true")
	require.Equal(t, 4, r.Code)
	require.Contains(t, r.Stderr, "has expired")
}

// TestRotatedToken: the agent with the old token is told and stays away, and what it
// had is ended without its help; one with the new token takes its place.
func TestRotatedToken(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	fresh := s.Path("fresh-token")
	p, since := session(s.Home, "dev"), time.Now()
	s.Must("workspace", "rotate-token", "dev", "--token-file", fresh)
	endsRevoked(t, p, since)
	require.Equal(t, 3, s.Agent.Wait())
	require.Contains(t, s.Agent.Stderr.String(), "the server does not accept this agent's token")
	s.AgentToken = fresh
	s.StartAgent()
	require.Equal(t, "hello\n", s.Must("ssh", "dev", "--", "echo hello"))
}
