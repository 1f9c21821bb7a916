package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// sshWith runs the stock ssh with the configuration that config-ssh wrote.
func sshWith(h *site.Home, args ...string) site.Result {
	h.T.Helper()
	ssh, err := exec.LookPath("ssh")
	require.NoError(h.T, err, "install the stock OpenSSH client")
	return h.Execute(nil, ssh, append([]string{"-F", h.Path(".ssh/config"), "-o", "BatchMode=yes"}, args...)...)
}

// effectiveFor is what the stock ssh makes of the configuration for one host.
func effectiveFor(h *site.Home, host string) map[string]string {
	h.T.Helper()
	r := sshWith(h, "-G", host)
	require.Equal(h.T, 0, r.Code, r.Stderr)
	options := map[string]string{}
	for line := range strings.Lines(r.Stdout) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		options[key] = value
	}
	return options
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// An administrator's settings for every host, some before any Host line and some in an
// included file. None may change, and none may change what fairlead's hosts are.
const (
	usersConfig   = "ServerAliveInterval 77\nInclude extra\nHost old\n\tUser me\nHost *\n\tProxyJump bastion.example.com\n\tStrictHostKeyChecking no\n"
	usersIncluded = "Host included\n\tPort 2222\nHost *\n\tConnectTimeout 9\n"
)

func TestConfigSSH(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	// The way to everything has blanks, percent signs and quotes.
	odd := filepath.Join(h.Dir, "it's 100% odd")
	require.NoError(t, os.MkdirAll(odd, 0o700))
	h.Setenv("FAIRLEAD_CONFIG_DIR=" + odd)
	site.StartUp(h)
	require.NoError(t, os.Mkdir(h.Path(".ssh"), 0o700))
	require.NoError(t, os.MkdirAll(h.Path("dotfiles"), 0o700))
	h.Write("dotfiles/config", strings.ReplaceAll(usersConfig, "Include extra", "Include "+h.Path(".ssh/extra")))
	h.Write(".ssh/extra", usersIncluded)
	require.NoError(t, os.Chmod(h.Path("dotfiles/config"), 0o640))
	require.NoError(t, os.Symlink("../dotfiles/config", h.Path(".ssh/config")))
	before := read(t, h.Path(".ssh/config"))
	others := []string{"old", "included", "example.com"}
	effective := map[string]map[string]string{}
	for _, host := range others {
		effective[host] = effectiveFor(h, host)
	}
	knownHosts := filepath.Join(odd, "ssh_known_hosts.fairlead")

	dry := h.Run("config-ssh", "--dry-run")
	require.Equal(t, 0, dry.Code, dry.Stderr)
	require.Contains(t, dry.Stdout, "+Host local.fairlead\n")
	require.Equal(t, before, read(t, h.Path(".ssh/config")), "a dry run changes nothing")
	require.NoFileExists(t, knownHosts)

	r := h.Run("config-ssh")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Empty(t, r.Stdout)
	written := read(t, h.Path(".ssh/config"))
	require.True(t, strings.HasSuffix(written, before), "nothing else changed:\n%s", written)
	info, err := os.Stat(h.Path("dotfiles/config"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	info, err = os.Lstat(h.Path(".ssh/config"))
	require.NoError(t, err)
	require.Equal(t, os.ModeSymlink, info.Mode().Type())
	info, err = os.Stat(knownHosts)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	t.Run("the dry run told the truth", func(t *testing.T) {
		h := h.With(t)
		var added strings.Builder
		_, config, _ := strings.Cut(dry.Stdout, "+++ "+h.Path(".ssh/config")+"\n")
		for line := range strings.Lines(config) {
			if strings.HasPrefix(line, "+") {
				added.WriteString(line[1:])
			}
		}
		require.Equal(t, strings.TrimSuffix(written, before), added.String())
	})
	t.Run("what ssh makes of it", func(t *testing.T) {
		h := h.With(t)
		got := effectiveFor(h, "local.fairlead")
		require.Contains(t, got["proxycommand"], "ssh --stdio --profile local admin/local")
		require.Equal(t, "local.fairlead", got["hostkeyalias"])
		require.Equal(t, "true", got["stricthostkeychecking"])
		require.Equal(t, "77", got["serveraliveinterval"], "the user's own settings hold here too")
		for _, host := range others {
			require.Equal(t, effective[host], effectiveFor(h, host), "%s", host)
		}
	})
	t.Run("ssh", func(t *testing.T) {
		h := h.With(t)
		r := sshWith(h, "local.fairlead", "echo through $0; exit 3")
		require.Equal(t, 3, r.Code, r.Stderr)
		require.True(t, strings.HasPrefix(r.Stdout, "through "), r.Stdout)
		require.Empty(t, r.Stderr, "no word about unknown keys")
	})
	t.Run("again", func(t *testing.T) {
		h := h.With(t)
		r := h.Run("config-ssh")
		require.Equal(t, 0, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, "up to date")
		require.Equal(t, written, read(t, h.Path(".ssh/config")))
		require.Equal(t, site.Result{}, h.Run("config-ssh", "--dry-run"))
	})
	t.Run("another key", func(t *testing.T) {
		h := h.With(t)
		good := read(t, knownHosts)
		const other = "AAAAC3NzaC1lZDI1NTE5AAAAIGPXFc0CQmtm9GbV1dKHb7nZ5hRgj1Vh0jGp1dGyN7Yk"
		key := strings.Fields(good[strings.Index(good, "local.fairlead"):])[2]
		require.NoError(t, os.WriteFile(knownHosts, []byte(strings.ReplaceAll(good, key, other)), 0o600))
		r := sshWith(h, "local.fairlead", "true")
		require.Equal(t, 255, r.Code)
		require.Contains(t, r.Stderr, "Host key verification failed")
		require.Equal(t, 0, h.Run("config-ssh").Code)
		require.Equal(t, good, read(t, knownHosts))

		// What this machine knows goes before what the server says.
		known := filepath.Join(odd, "known_hosts.json")
		mine := read(t, known)
		require.Contains(t, mine, key)
		require.NoError(t, os.WriteFile(known, []byte(strings.ReplaceAll(mine, key, other)), 0o600))
		r = h.Run("config-ssh")
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, "fairlead workspace forget admin/local")
		require.Equal(t, good, read(t, knownHosts))
		require.Equal(t, 0, h.Run("workspace", "forget", "admin/local").Code)
		require.Equal(t, 0, h.Run("config-ssh").Code)
	})
	t.Run("damaged marks", func(t *testing.T) {
		h := h.With(t)
		broken := h.Write("broken", "# START FAIRLEAD .fairlead\nHost x\n")
		for _, args := range [][]string{{}, {"--remove"}, {"--dry-run"}} {
			r := h.Run(append([]string{"config-ssh", "--ssh-config-file", broken}, args...)...)
			require.Equal(t, 1, r.Code)
			require.Contains(t, r.Stderr, broken)
			require.Equal(t, "# START FAIRLEAD .fairlead\nHost x\n", read(t, broken))
		}
	})
	t.Run("two blocks, a new file", func(t *testing.T) {
		h := h.With(t)
		file := h.Path("new/config")
		for _, suffix := range []string{"one", "two"} {
			r := h.Run("config-ssh", "--ssh-config-file", file, "--host-suffix", suffix)
			require.Equal(t, 0, r.Code, r.Stderr)
		}
		require.Contains(t, read(t, file), "Host local.one\n")
		require.Equal(t, 0, h.Run("config-ssh", "--ssh-config-file", file, "--host-suffix", "one", "--remove").Code)
		require.NotContains(t, read(t, file), "local.one")
		require.Contains(t, read(t, file), "Host local.two\n")
	})
	t.Run("bad input", func(t *testing.T) {
		h := h.With(t)
		for _, args := range [][]string{{"x"}, {"--host-suffix", "a b"}} {
			require.Equal(t, 2, h.Run(append([]string{"config-ssh"}, args...)...).Code, "%q", args)
		}
		r := h.Run("config-ssh", "--ssh-config-file", h.Dir)
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, "not a regular file")
	})

	diff := h.Run("config-ssh", "--remove", "--dry-run")
	require.Contains(t, diff.Stdout, "-Host local.fairlead\n")
	r = h.Run("config-ssh", "--remove")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Equal(t, before, read(t, h.Path(".ssh/config")))
	require.NoFileExists(t, knownHosts)
	require.Equal(t, 0, h.Run("config-ssh", "--remove").Code, "removing twice is fine")
}

// TestConfigSSHShared: somebody else's workspace carries its owner's name, and is gone
// from the block when it is not shared any more. A workspace without an agent waits.
func TestConfigSSHShared(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob := s.NewUser("bob")
	s.Must("workspace", "share", "dev", "bob")
	bob.Must("workspace", "create", "dev", "--token-file", bob.Path("dev.token"))
	require.NoError(t, os.Mkdir(bob.Path(".ssh"), 0o700))

	r := bob.Run("config-ssh", "--ssh-config-file", bob.Path(".ssh/config"))
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "Workspace bob/dev is left out: its agent has not connected yet.")
	text := read(t, bob.Path(".ssh/config"))
	require.NotContains(t, text, "Host dev.fairlead\n")
	require.Contains(t, text, "Host dev.admin.fairlead\n")
	r = sshWith(bob, "dev.admin.fairlead", "echo shared")
	require.Equal(t, "shared\n", r.Stdout, r.Stderr)
	require.Equal(t, "dev.admin.fairlead", effectiveFor(bob, "dev.admin.fairlead")["hostkeyalias"])

	s.Must("workspace", "unshare", "dev", "bob")
	r = bob.Run("config-ssh", "--ssh-config-file", bob.Path(".ssh/config"))
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Empty(t, read(t, bob.Path(".ssh/config")), "there is nothing to reach")
	require.NoFileExists(t, bob.Path("config/ssh_known_hosts.fairlead"))
}

// TestConfigSSHAfterRekey: the stock ssh refuses the agent's new key until the block is
// written anew, which the owner's word allows.
func TestConfigSSHAfterRekey(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	require.NoError(t, os.Mkdir(s.Path(".ssh"), 0o700))
	configure := func() {
		s.Must("config-ssh", "--ssh-config-file", s.Path(".ssh/config"))
	}
	configure()
	require.Equal(t, "one\n", sshWith(s.Home, "dev.fairlead", "echo one").Stdout)

	s.Agent.Stop()
	require.NoError(t, os.RemoveAll(s.Path("agent")))
	s.Must("workspace", "rekey", "dev")
	s.StartAgent()
	r := sshWith(s.Home, "dev.fairlead", "true")
	require.Equal(t, 255, r.Code)
	require.Contains(t, r.Stderr, "Host key verification failed")
	configure()
	require.Equal(t, "two\n", sshWith(s.Home, "dev.fairlead", "echo two").Stdout)
}
