package cluster

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestMemberIsToldWhatIsNotTheirs: what a member may not do is refused in words, and
// what they list can be typed.
func TestMemberIsToldWhatIsNotTheirs(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob := s.NewUser("bob")
	s.Must("workspace", "share", "dev", "bob")

	for _, args := range [][]string{
		{"user", "list"}, {"user", "create", "eve"}, {"user", "role", "bob", "admin"}, {"user", "disable", "admin"},
		{"token", "list", "--all"}, {"token", "list", "--user", "admin"},
		{"token", "create", "x", "--user", "admin"},
		{"relay", "list"}, {"relay", "create", "x"}, {"relay", "delete", "x"},
	} {
		require.Equal(t, site.Result{Code: 1, Stderr: "fairlead: this is for admins, and bob is a member\n"}, bob.Run(args...), "%q", args)
	}
	require.NotContains(t, s.Must("user", "list"), "eve")

	bob.Must("workspace", "create", "mine")
	shown := bob.Must("ls")
	require.Regexp(t, `(?m)^admin/dev +admin +online `, shown)
	require.Regexp(t, `(?m)^mine +bob +never `, shown)

	for want, args := range map[string][]string{
		"the scope is none":      {"token", "create", "x", "--scope", "everything"},
		"neither admin nor":      {"user", "create", "eve", "--role", "boss"},
		"name is not valid":      {"workspace", "create", "A B"},
		"give a time such as":    {"token", "create", "x", "--expires", "5"},
		"30d, 12h or 90m":        {"token", "create", "x", "--expires", "-5s"},
		"no terminal to ask for": {"login", "http://127.0.0.1:1"},
	} {
		r := s.Run(args...)
		require.Equal(t, 2, r.Code, "%q: %s", args, r.Stderr)
		require.Contains(t, r.Stderr, want)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
	}
}

// TestTokensOfTheEnvironment: a script's token may do what its scope says, is told why
// not, and logout ends that token and not the remembered login.
func TestTokensOfTheEnvironment(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	with := func(args ...string) *site.Home {
		r := s.Run(append([]string{"token", "create", "script"}, args...)...)
		require.Zero(t, r.Code, r.Stderr)
		h := site.NewHome(t)
		h.Setenv("FAIRLEAD_URL="+s.URL, "FAIRLEAD_TOKEN="+strings.TrimSpace(r.Stdout))
		return h
	}

	reader := with("--scope", "read", "--expires", "1d")
	require.Contains(t, reader.Must("whoami"), "which expires in 24h.")
	require.Regexp(t, `(?m)^admin/dev `, reader.Must("ls"), "whose login it is, is not known")
	for _, args := range [][]string{{"ssh", "admin/dev", "--", "true"}, {"ping", "--once", "admin/dev"}} {
		require.Equal(t, site.Result{Code: 4, Stderr: "fairlead: this login at " + s.URL +
			" may not connect to workspaces: its token is for something else\n"}, reader.Run(args...), "%q", args)
	}

	// An expired one is the same failure for every command.
	old := with("--expires", "1s")
	site.Eventually(t, "the end of a token", func() bool { return old.Run("whoami").Code == 4 })
	for _, args := range [][]string{{"ls"}, {"whoami"}, {"ssh", "admin/dev", "--", "true"}, {"ping", "--once", "admin/dev"}} {
		r := old.Run(args...)
		require.Equal(t, 4, r.Code, "%q: %s", args, r.Stderr)
		require.Contains(t, r.Stderr, "expired")
	}

	both := with("--scope", "ssh")
	s.Must("token", "create", "login", "--token-file", s.Path("login.token"))
	both.Must("login", s.URL, "--token-file", s.Path("login.token"), "--profile", "kept")
	require.Contains(t, both.Must("logout"), "the token in FAIRLEAD_TOKEN is void")
	require.Equal(t, 4, both.Run("whoami").Code)
	require.Contains(t, both.Must("whoami", "--profile", "kept"), "admin (admin)")
}

// TestStockSSHSpeaksForItself: a stock ssh that leaves says why; the command behind it
// adds no verdict of its own about it.
func TestStockSSHSpeaksForItself(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	wrong := s.Write("known_hosts", "dev ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n")
	// The proxy command may outlive ssh, so it writes to a file of its own.
	r := s.Execute(nil, "ssh", "-F", "none", "-o", "UserKnownHostsFile="+wrong, "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=yes", "-o", "ProxyCommand="+site.Binary+" ssh --stdio --log-file "+s.Path("stdio.log")+" dev 2>"+s.Path("stdio.err"),
		"dev", "true")
	require.Equal(t, 255, r.Code)
	require.Contains(t, r.Stderr, "REMOTE HOST IDENTIFICATION HAS CHANGED")
	site.Eventually(t, "the ending of the stdio client", func() bool {
		b, _ := os.ReadFile(s.Path("stdio.log"))
		return strings.Contains(string(b), "session ended")
	})
	require.Contains(t, read(t, s.Path("stdio.log")), "disconnect_initiator=client")
	require.Empty(t, read(t, s.Path("stdio.err")))
}
