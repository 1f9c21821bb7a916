package cluster

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestLockedOut: an admin whose last token is gone is told so, and the server's next
// start lets them in again, with everything as it was.
func TestLockedOut(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob := s.NewUser("bob")
	restart := func() {
		s.Server.Signal(syscall.SIGTERM)
		require.Equal(t, 0, s.Server.Wait())
		s.StartServer()
	}
	restart()
	require.NotContains(t, s.Server.Stdout.String(), "--code", "the admin has a token")

	const warning = "No admin has a valid token any more. Restart the server: it makes a one-time code to log in with.\n"
	require.Empty(t, bob.Run("logout").Stderr, "a member's is no admin's")
	r := s.Run("logout")
	require.Equal(t, site.Result{Stdout: r.Stdout, Stderr: warning}, r)
	require.Equal(t, 4, s.Run("whoami").Code)

	restart()
	code := site.OneTimeCode(s.Server)
	require.Contains(t, s.Server.Stdout.String(), "No admin has a valid token any more. Log in again as admin")
	r = s.Run("login", s.URL, "--code", code, "--user", "bob")
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, "no admin of that name")
	s.Must("login", s.URL, "--code", code)
	require.Contains(t, s.Must("whoami"), "admin (admin)")
	require.Contains(t, s.Must("user", "list"), "bob")
	s.AwaitAgent("online")
	r = s.Run("login", s.URL, "--code", code, "--profile", "again")
	require.Equal(t, 4, r.Code, "the code works once")

	// A token of a smaller scope does not administer anything; revoking is warned of too.
	s.Must("token", "create", "reader", "--scope", "read", "--token-file", s.Path("reader"))
	var who struct {
		Token struct {
			ID string `json:"id"`
		} `json:"token"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.Must("whoami", "--output", "json")), &who))
	r = s.Run("token", "revoke", who.Token.ID)
	require.Equal(t, 0, r.Code)
	require.Equal(t, warning, r.Stderr)
	restart()
	s.Must("login", s.URL, "--code", site.OneTimeCode(s.Server), "--user", "admin")
	require.Equal(t, "hello\n", s.Must("ssh", "dev", "--", "echo hello"))
}

// TestScopedTokenRevokesItself: a login that may not list tokens can end its own.
func TestScopedTokenRevokesItself(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer()
	s.Must("login", s.URL, "--code", site.OneTimeCode(s.Server))
	for _, by := range []string{"id", "current"} {
		var made struct {
			Secret string `json:"secret"`
			Token  struct {
				ID string `json:"id"`
			} `json:"token"`
		}
		require.NoError(t, json.Unmarshal([]byte(s.Must("token", "create", "ci", "--scope", "ssh", "--output", "json")), &made))
		h := site.NewHome(t)
		h.Setenv("FAIRLEAD_URL="+s.URL, "FAIRLEAD_TOKEN="+strings.TrimSpace(made.Secret))
		other := h.Run("token", "revoke", "00000000")
		require.NotZero(t, other.Code)
		require.Contains(t, other.Stderr, "no such token")
		id := map[string]string{"id": made.Token.ID[:8], "current": "current"}[by]
		require.Contains(t, h.Must("token", "revoke", id), "is revoked")
		require.Equal(t, 4, h.Run("whoami").Code)
	}
}
