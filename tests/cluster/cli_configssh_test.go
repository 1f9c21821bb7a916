package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sshWith runs the stock ssh with the configuration that config-ssh wrote.
func (h *home) sshWith(args ...string) result {
	h.t.Helper()
	ssh, err := exec.LookPath("ssh")
	require.NoError(h.t, err, "install the stock OpenSSH client")
	return h.execute(nil, ssh, append([]string{"-F", h.path(".ssh/config"), "-o", "BatchMode=yes"}, args...)...)
}

// effective is what the stock ssh makes of the configuration for one host.
func (h *home) effective(host string) map[string]string {
	h.t.Helper()
	r := h.sshWith("-G", host)
	require.Equal(h.t, 0, r.code, r.stderr)
	options := map[string]string{}
	for line := range strings.Lines(r.stdout) {
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
	h := newHome(t)
	// The way to everything has blanks, percent signs and quotes.
	odd := filepath.Join(h.dir, "it's 100% odd")
	require.NoError(t, os.MkdirAll(odd, 0o700))
	h.env = append(h.env, "FAIRLEAD_CONFIG_DIR="+odd)
	startUp(t, h)
	require.NoError(t, os.Mkdir(h.path(".ssh"), 0o700))
	require.NoError(t, os.MkdirAll(h.path("dotfiles"), 0o700))
	h.write("dotfiles/config", strings.ReplaceAll(usersConfig, "Include extra", "Include "+h.path(".ssh/extra")))
	h.write(".ssh/extra", usersIncluded)
	require.NoError(t, os.Chmod(h.path("dotfiles/config"), 0o640))
	require.NoError(t, os.Symlink("../dotfiles/config", h.path(".ssh/config")))
	before := read(t, h.path(".ssh/config"))
	others := []string{"old", "included", "example.com"}
	effective := map[string]map[string]string{}
	for _, host := range others {
		effective[host] = h.effective(host)
	}
	knownHosts := filepath.Join(odd, "ssh_known_hosts.fairlead")

	dry := h.run("config-ssh", "--dry-run")
	require.Equal(t, 0, dry.code, dry.stderr)
	require.Contains(t, dry.stdout, "+Host local.fairlead\n")
	require.Equal(t, before, read(t, h.path(".ssh/config")), "a dry run changes nothing")
	require.NoFileExists(t, knownHosts)

	r := h.run("config-ssh")
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, r.stdout)
	written := read(t, h.path(".ssh/config"))
	require.True(t, strings.HasSuffix(written, before), "nothing else changed:\n%s", written)
	info, err := os.Stat(h.path("dotfiles/config"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	info, err = os.Lstat(h.path(".ssh/config"))
	require.NoError(t, err)
	require.Equal(t, os.ModeSymlink, info.Mode().Type())
	info, err = os.Stat(knownHosts)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	t.Run("the dry run told the truth", func(t *testing.T) {
		h := h.with(t)
		var added strings.Builder
		_, config, _ := strings.Cut(dry.stdout, "+++ "+h.path(".ssh/config")+"\n")
		for line := range strings.Lines(config) {
			if strings.HasPrefix(line, "+") {
				added.WriteString(line[1:])
			}
		}
		require.Equal(t, strings.TrimSuffix(written, before), added.String())
	})
	t.Run("what ssh makes of it", func(t *testing.T) {
		h := h.with(t)
		got := h.effective("local.fairlead")
		require.Contains(t, got["proxycommand"], "ssh --stdio --profile local admin/local")
		require.Equal(t, "local.fairlead", got["hostkeyalias"])
		require.Equal(t, "true", got["stricthostkeychecking"])
		require.Equal(t, "77", got["serveraliveinterval"], "the user's own settings hold here too")
		for _, host := range others {
			require.Equal(t, effective[host], h.effective(host), "%s", host)
		}
	})
	t.Run("ssh", func(t *testing.T) {
		h := h.with(t)
		r := h.sshWith("local.fairlead", "echo through $0; exit 3")
		require.Equal(t, 3, r.code, r.stderr)
		require.True(t, strings.HasPrefix(r.stdout, "through "), r.stdout)
		require.Empty(t, r.stderr, "no word about unknown keys")
	})
	t.Run("again", func(t *testing.T) {
		h := h.with(t)
		r := h.run("config-ssh")
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stderr, "up to date")
		require.Equal(t, written, read(t, h.path(".ssh/config")))
		require.Equal(t, result{}, h.run("config-ssh", "--dry-run"))
	})
	t.Run("another key", func(t *testing.T) {
		h := h.with(t)
		good := read(t, knownHosts)
		const other = "AAAAC3NzaC1lZDI1NTE5AAAAIGPXFc0CQmtm9GbV1dKHb7nZ5hRgj1Vh0jGp1dGyN7Yk"
		key := strings.Fields(good[strings.Index(good, "local.fairlead"):])[2]
		require.NoError(t, os.WriteFile(knownHosts, []byte(strings.ReplaceAll(good, key, other)), 0o600))
		r := h.sshWith("local.fairlead", "true")
		require.Equal(t, 255, r.code)
		require.Contains(t, r.stderr, "Host key verification failed")
		require.Equal(t, 0, h.run("config-ssh").code)
		require.Equal(t, good, read(t, knownHosts))

		// What this machine knows goes before what the server says.
		known := filepath.Join(odd, "known_hosts.json")
		mine := read(t, known)
		require.Contains(t, mine, key)
		require.NoError(t, os.WriteFile(known, []byte(strings.ReplaceAll(mine, key, other)), 0o600))
		r = h.run("config-ssh")
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "fairlead workspace forget admin/local")
		require.Equal(t, good, read(t, knownHosts))
		require.Equal(t, 0, h.run("workspace", "forget", "admin/local").code)
		require.Equal(t, 0, h.run("config-ssh").code)
	})
	t.Run("damaged marks", func(t *testing.T) {
		h := h.with(t)
		broken := h.write("broken", "# START FAIRLEAD .fairlead\nHost x\n")
		for _, args := range [][]string{{}, {"--remove"}, {"--dry-run"}} {
			r := h.run(append([]string{"config-ssh", "--ssh-config-file", broken}, args...)...)
			require.Equal(t, 1, r.code)
			require.Contains(t, r.stderr, broken)
			require.Equal(t, "# START FAIRLEAD .fairlead\nHost x\n", read(t, broken))
		}
	})
	t.Run("two blocks, a new file", func(t *testing.T) {
		h := h.with(t)
		file := h.path("new/config")
		for _, suffix := range []string{"one", "two"} {
			r := h.run("config-ssh", "--ssh-config-file", file, "--host-suffix", suffix)
			require.Equal(t, 0, r.code, r.stderr)
		}
		require.Contains(t, read(t, file), "Host local.one\n")
		require.Equal(t, 0, h.run("config-ssh", "--ssh-config-file", file, "--host-suffix", "one", "--remove").code)
		require.NotContains(t, read(t, file), "local.one")
		require.Contains(t, read(t, file), "Host local.two\n")
	})
	t.Run("bad input", func(t *testing.T) {
		h := h.with(t)
		for _, args := range [][]string{{"x"}, {"--host-suffix", "a b"}} {
			require.Equal(t, 2, h.run(append([]string{"config-ssh"}, args...)...).code, "%q", args)
		}
		r := h.run("config-ssh", "--ssh-config-file", h.dir)
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "not a regular file")
	})

	diff := h.run("config-ssh", "--remove", "--dry-run")
	require.Contains(t, diff.stdout, "-Host local.fairlead\n")
	r = h.run("config-ssh", "--remove")
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, before, read(t, h.path(".ssh/config")))
	require.NoFileExists(t, knownHosts)
	require.Equal(t, 0, h.run("config-ssh", "--remove").code, "removing twice is fine")
}

// with is the same machine in a part of a test.
func (h *home) with(t *testing.T) *home {
	t.Helper()
	part := *h
	part.t = t
	return &part
}

// TestConfigSSHShared: somebody else's workspace carries its owner's name, and is gone
// from the block when it is not shared any more. A workspace without an agent waits.
func TestConfigSSHShared(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bob := s.newUser("bob")
	s.h.must("workspace", "share", "dev", "bob")
	bob.must("workspace", "create", "dev", "--token-file", bob.path("dev.token"))
	require.NoError(t, os.Mkdir(bob.path(".ssh"), 0o700))

	r := bob.run("config-ssh", "--ssh-config-file", bob.path(".ssh/config"))
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stderr, "Workspace bob/dev is left out: its agent has not connected yet.")
	text := read(t, bob.path(".ssh/config"))
	require.NotContains(t, text, "Host dev.fairlead\n")
	require.Contains(t, text, "Host dev.admin.fairlead\n")
	r = bob.sshWith("dev.admin.fairlead", "echo shared")
	require.Equal(t, "shared\n", r.stdout, r.stderr)
	require.Equal(t, "dev.admin.fairlead", bob.effective("dev.admin.fairlead")["hostkeyalias"])

	s.h.must("workspace", "unshare", "dev", "bob")
	r = bob.run("config-ssh", "--ssh-config-file", bob.path(".ssh/config"))
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, read(t, bob.path(".ssh/config")), "there is nothing to reach")
	require.NoFileExists(t, bob.path("config/ssh_known_hosts.fairlead"))
}

// TestConfigSSHAfterRekey: the stock ssh refuses the agent's new key until the block is
// written anew, which the owner's word allows.
func TestConfigSSHAfterRekey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, os.Mkdir(s.h.path(".ssh"), 0o700))
	configure := func() {
		s.h.must("config-ssh", "--ssh-config-file", s.h.path(".ssh/config"))
	}
	configure()
	require.Equal(t, "one\n", s.h.sshWith("dev.fairlead", "echo one").stdout)

	s.agent.signal(15)
	require.Equal(t, 0, s.agent.wait())
	require.NoError(t, os.RemoveAll(s.h.path("agent")))
	s.h.must("workspace", "rekey", "dev")
	s.startAgent()
	r := s.h.sshWith("dev.fairlead", "true")
	require.Equal(t, 255, r.code)
	require.Contains(t, r.stderr, "Host key verification failed")
	configure()
	require.Equal(t, "two\n", s.h.sshWith("dev.fairlead", "echo two").stdout)
}
