package baddays

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// damages are what can be wrong with a file that was good.
var damages = map[string]func(t *testing.T, path string){
	"empty":     func(t *testing.T, path string) { overwrite(t, path, "") },
	"truncated": func(t *testing.T, path string) { overwrite(t, path, read(t, path)[:len(read(t, path))/2]) },
	"binary":    func(t *testing.T, path string) { overwrite(t, path, "\x00\xff\x1b[31m\x00\r\n\x7fELF") },
	"a directory": func(t *testing.T, path string) {
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700))
	},
	"readable for all": func(t *testing.T, path string) { require.NoError(t, os.Chmod(path, 0o644)) },
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// TestDamagedLogin: every command says in one sentence which file is damaged and what to
// do, and leaves the file as it is.
func TestDamagedLogin(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			h := site.NewHome(t)
			require.NoError(t, os.CopyFS(h.Path("config"), os.DirFS(s.Path("config"))))
			require.NoError(t, os.Chmod(h.Path("config"), 0o700))
			login := h.Path("config/profiles.json")
			require.NoError(t, os.Chmod(login, 0o600))
			h.Must("whoami")
			damage(t, login)
			before := snapshot(t, h.Path("config"))
			for _, args := range [][]string{
				{"ls"}, {"ssh", "dev", "--", "true"}, {"whoami"}, {"ping", "--once", "dev"}, {"logout"}, {"config-ssh", "--dry-run"},
			} {
				r := h.Run(args...)
				require.Equal(t, 4, r.Code, "%q: %s", args, r.Stderr)
				requireSentence(t, r.Stderr, login)
			}
			token := h.Write("token", "fl_u_x")
			r := h.Run("login", s.URL, "--token-file", token)
			require.NotEqual(t, 0, r.Code, "a login does not replace what it cannot read")
			require.Equal(t, before, snapshot(t, h.Path("config")))
			require.Equal(t, ":4\n", h.Run("__complete", "ssh", "").Stdout, "completion says nothing")
		})
	}
}

// TestDamagedKnownHosts: a record of host keys that cannot be read keeps nobody from
// finding out, and is not replaced.
func TestDamagedKnownHosts(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Must("ssh", "dev", "--", "true")
	known := s.Path("config/known_hosts.json")
	good := read(t, known)
	for _, name := range []string{"empty", "truncated", "binary", "a directory"} {
		t.Run(name, func(t *testing.T) {
			damages[name](t, known)
			before := snapshot(t, s.Path("config"))
			r := s.With(t).Run("ssh", "dev", "--", "true")
			require.Equal(t, 255, r.Code)
			requireSentence(t, r.Stderr, known)
			require.Equal(t, before, snapshot(t, s.Path("config")))
			require.NoError(t, os.RemoveAll(known))
			overwrite(t, known, good)
			s.With(t).Must("ssh", "dev", "--", "true")
		})
	}
}

// TestDamagedAgentState: an agent whose keys are damaged says which file and what to do,
// makes no new ones in their place, and is itself again when the file is back.
func TestDamagedAgentState(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Agent.Stop()
	for _, file := range []string{"ssh_host_ed25519_key", "node_key"} {
		for name, damage := range damages {
			t.Run(file+" "+name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "agent")
				require.NoError(t, os.CopyFS(dir, os.DirFS(s.Path("agent"))))
				for _, secret := range []string{"ssh_host_ed25519_key", "node_key"} {
					require.NoError(t, os.Chmod(filepath.Join(dir, secret), 0o600))
				}
				path := filepath.Join(dir, file)
				damage(t, path)
				before := snapshot(t, dir)
				r := s.With(t).Run("agent", s.URL, "--token-file", s.AgentToken, "--state-dir", dir, "--log-level", "error")
				require.Equal(t, 1, r.Code, r.Stderr)
				requireSentence(t, r.Stderr, path)
				require.Equal(t, before, snapshot(t, dir), "nothing is made or changed")
			})
		}
	}
	t.Run("the directory is a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "agent")
		overwrite(t, path, "mine")
		r := s.With(t).Run("agent", s.URL, "--token-file", s.AgentToken, "--state-dir", path, "--log-level", "error")
		require.Equal(t, 1, r.Code, r.Stderr)
		requireSentence(t, r.Stderr, path)
		require.Equal(t, "mine", read(t, path))
	})
	s.StartAgent()
	require.Equal(t, "hello\n", s.Must("ssh", "dev", "--", "echo hello"))
}

// requireSentence checks that text is one line for people that names path.
func requireSentence(t *testing.T, text, path string) {
	t.Helper()
	require.True(t, strings.HasPrefix(text, "fairlead: "), text)
	require.Equal(t, 1, strings.Count(text, "\n"), text)
	require.Contains(t, text, path)
	require.NotContains(t, text, "\x1b")
	told := false
	for _, advice := range []string{"remove", "restore", "chmod", "choose another"} {
		told = told || strings.Contains(text, advice)
	}
	require.True(t, told, "says nothing of what to do: %s", text)
}

// snapshot is the content and mode of all that is in dir.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		content := ""
		if d.Type().IsRegular() {
			content = read(t, path)
		}
		all[path] = info.Mode().String() + " " + content
		return nil
	}))
	return all
}
