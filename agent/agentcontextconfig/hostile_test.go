//go:build unix

package agentcontextconfig

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHostileFiles: a directory that somebody else made holds up nobody, and gives
// nothing that lies elsewhere.
func TestHostileFiles(t *testing.T) {
	secret := write(t, "the secret", t.TempDir(), "id_ed25519")
	const escapes, notRegular = "path escapes from parent", "not a regular file"
	for name, tt := range map[string]struct {
		make   func(path string) error
		reason string
	}{
		"named pipe":          {func(path string) error { return syscall.Mkfifo(path, 0o600) }, notRegular},
		"device":              {func(path string) error { return os.Symlink("/dev/zero", path) }, escapes},
		"directory":           {func(path string) error { return os.Mkdir(path, 0o700) }, notRegular},
		"link that leads out": {func(path string) error { return os.Symlink(secret, path) }, escapes},
		"link with dots": {func(path string) error {
			rel, err := filepath.Rel(filepath.Dir(path), secret)
			require.NoError(t, err)
			return os.Symlink(rel, path)
		}, escapes},
		"link to the parent": {func(path string) error { return os.Symlink("..", path) }, escapes},
		"link to itself":     {func(path string) error { return os.Symlink(filepath.Base(path), path) }, "too many levels of symbolic links"},
		"link to nothing":    {func(path string) error { return os.Symlink("nothing", path) }, ""},
		"socket": {func(path string) error {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err == nil {
				err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
				_ = syscall.Close(fd)
			}
			return err
		}, notRegular},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "ctx") // short: a socket's path must be
			require.NoError(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			require.NoError(t, tt.make(filepath.Join(dir, "AGENTS.md")))
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "s/deploy"), 0o700))
			if name != "link to the parent" { // which would lead to a directory inside
				require.NoError(t, tt.make(filepath.Join(dir, "s/deploy/SKILL.md")))
			}
			found := collect(t, dir, Config{SkillsDirs: "s"})
			require.Empty(t, found.Parts)
			if tt.reason == "" {
				require.Empty(t, found.Skipped)
				return
			}
			why := reasons(found, dir)
			require.Equal(t, tt.reason, why["AGENTS.md"])
			if name != "link to the parent" && name != "link with dots" {
				require.Equal(t, tt.reason, why["s/deploy"])
			}
		})
	}
}

// TestDeviceIsNotOpened: not even where its directory is the one to look in.
func TestDeviceIsNotOpened(t *testing.T) {
	found := collect(t, "", Config{InstructionsDirs: "/dev", InstructionsFile: "zero", SkillsDirs: "/dev/zero"})
	require.Empty(t, found.Parts)
	require.Equal(t, map[string]string{"zero": "not a directory"}, reasons(found, "/dev"), "the last of the two")
	require.Len(t, found.Skipped, 2)
	require.Equal(t, "not a regular file", found.Skipped[0].Reason)
}

// TestHugeFile: of a file without end only the beginning is read.
func TestHugeFile(t *testing.T) {
	dir := t.TempDir()
	path := write(t, "# Rules\n", dir, "AGENTS.md")
	require.NoError(t, os.Truncate(path, 1<<40)) // which takes no room
	skill := write(t, skillFile("deploy", "x"), dir, ".agents/skills/deploy/SKILL.md")
	require.NoError(t, os.Truncate(skill, 1<<40))
	before := allocated()
	found := collect(t, dir, Config{})
	require.Less(t, allocated()-before, uint64(1<<20))
	require.Equal(t, "not text in UTF-8", reasons(found, dir)["AGENTS.md"])
	require.Len(t, found.Parts, 1, "the skill's front matter is its beginning")
}

// TestHostileDirectories: links of directories lead nowhere else either, and those
// that stay inside are as good as what they lead to.
func TestHostileDirectories(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, skillFile("deploy", "x"), outside, "deploy/SKILL.md")
	write(t, "the secret", outside, "AGENTS.md")
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "skills")))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "docs")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	found := collect(t, dir, Config{InstructionsDirs: "docs," + filepath.Join(dir, "pipe"), SkillsDirs: "skills,pipe"})
	require.Empty(t, found.Parts)
	require.Len(t, found.Skipped, 4)

	write(t, skillFile("deploy", "x"), dir, "vendor/deploy/SKILL.md")
	write(t, "rules", dir, "CLAUDE.md")
	require.NoError(t, os.Symlink("CLAUDE.md", filepath.Join(dir, "AGENTS.md")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, ".agents/skills"), 0o700))
	require.NoError(t, os.Symlink("../../vendor/deploy", filepath.Join(dir, ".agents/skills/deploy")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "deploy"), filepath.Join(dir, ".agents/skills/out")))
	found = collect(t, dir, Config{})
	require.Len(t, found.Parts, 2)
	require.Equal(t, map[string]string{".agents/skills/out": "path escapes from parent"}, reasons(found, dir))
}

// TestNoRightToRead is for a person who is not root, who may read everything.
func TestNoRightToRead(t *testing.T) {
	dir := t.TempDir()
	path := write(t, "x", dir, "AGENTS.md")
	require.NoError(t, os.Chmod(path, 0))
	found := collect(t, dir, Config{})
	if os.Getuid() == 0 {
		require.Len(t, found.Parts, 1)
		return
	}
	require.Equal(t, "permission denied", reasons(found, dir)["AGENTS.md"])
}
