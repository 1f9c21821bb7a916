package baddays

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestAgentTokenRotatedWhileAway: an agent that is on its way back learns that its token
// is no good any more, says so once, and stays away.
func TestAgentTokenRotatedWhileAway(t *testing.T) {
	t.Parallel()
	s, f := behindFront(t)
	owner := beside(s)
	f.shut()
	s.Agent.Stderr.AwaitText(t, "could not reach the server")
	owner.Must("workspace", "rotate-token", "dev", "--token-file", s.Path("fresh-token"))
	f.lead(nil)
	require.Equal(t, 3, s.Agent.Wait())
	require.LessOrEqual(t, f.seen("/api/v1/control"), 1, "it asks once, and never again")
	require.Equal(t, 1, strings.Count(s.Agent.Stderr.String(), "fairlead: the server does not accept this agent's token"))
	last := s.Agent.Stderr.String()[strings.LastIndex(strings.TrimSpace(s.Agent.Stderr.String()), "\n")+1:]
	require.True(t, strings.HasPrefix(last, "fairlead: "), last)

	s.AgentToken = s.Path("fresh-token")
	s.StartAgent()
	require.Equal(t, "hello\n", s.Must("ssh", "dev", "--", "echo hello"))
}

// TestClientTokenRevokedWhileAway: a session whose login was withdrawn while the client
// could not hear of it ends as soon as it can, says why once, and asks no more.
func TestClientTokenRevokedWhileAway(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	f := newFront(t, s.Address)
	var made struct {
		Secret string `json:"secret"`
		Token  struct {
			ID string `json:"id"`
		} `json:"token"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.Must("token", "create", "laptop", "--output", "json")), &made))
	laptop := site.NewHome(t)
	laptop.Must("login", f.URL, "--token-file", laptop.Write("token", made.Secret))
	for _, c := range []struct {
		args []string
		up   string
		code int
	}{
		{[]string{"ssh", "dev", "--log-file", laptop.Path("ssh.log"), "--", "echo up''; sleep 1000"}, "up\n", 255},
	} {
		p := laptop.Start(c.args...)
		p.Stdout.AwaitText(t, c.up)
		f.shut()
		s.Must("token", "revoke", made.Token.ID[:8])
		f.lead(nil)
		require.Equal(t, c.code, p.Wait(), p.Stderr)
		require.Contains(t, p.Stderr.String(), "reason=auth_revoked initiator=server expected=true")
		require.Equal(t, 1, strings.Count(p.Stderr.String(), "\n"), p.Stderr)
		require.LessOrEqual(t, f.seen("/api/v1/control"), 2)
	}
	r := laptop.Run("ssh", "dev", "--", "true")
	require.Equal(t, 4, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "log in again")
	require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
}

// beside returns a home that is logged in as the same user, at the server itself.
func beside(s *site.Site) *site.Home {
	s.T.Helper()
	s.Must("token", "create", "beside", "--token-file", s.Path("beside"))
	h := site.NewHome(s.T)
	h.Must("login", "http://"+s.Address, "--token-file", s.Path("beside"))
	return h
}
