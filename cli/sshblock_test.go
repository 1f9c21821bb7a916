package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const testBlock = "# START FAIRLEAD .fairlead\nHost dev.fairlead\nHost *\n# END FAIRLEAD .fairlead\n"

func TestReplaceBlock(t *testing.T) {
	for name, before := range map[string]string{
		"empty":          "",
		"no end of line": "Host a\n  User b",
		"CRLF":           "Host a\r\n  User b\r\n",
		"other suffix":   "# START FAIRLEAD .work\nHost x\n# END FAIRLEAD .work\nInclude y\n",
		"not UTF-8":      "Host a\n# \xff\xfe\n",
	} {
		t.Run(name, func(t *testing.T) {
			with, err := replaceBlock([]byte(before), "fairlead", testBlock)
			require.NoError(t, err)
			require.Equal(t, testBlock+before, string(with))
			again, err := replaceBlock(with, "fairlead", testBlock)
			require.NoError(t, err)
			require.Equal(t, string(with), string(again))
			without, err := replaceBlock(with, "fairlead", "")
			require.NoError(t, err)
			require.Equal(t, before, string(without))
		})
	}
	t.Run("a block that was moved stays there", func(t *testing.T) {
		old := "Host a\n" + strings.ReplaceAll(testBlock, "dev", "old") + "Host b\n"
		with, err := replaceBlock([]byte(old), "fairlead", testBlock)
		require.NoError(t, err)
		require.Equal(t, "Host a\n"+testBlock+"Host b\n", string(with))
	})
	for name, damaged := range map[string]string{
		"twice":         testBlock + testBlock,
		"no end":        "# START FAIRLEAD .fairlead\nHost a\n",
		"no start":      "Host a\n# END FAIRLEAD .fairlead\n",
		"end first":     "# END FAIRLEAD .fairlead\n# START FAIRLEAD .fairlead\n",
		"end twice":     testBlock + "# END FAIRLEAD .fairlead\n",
		"nested starts": "# START FAIRLEAD .fairlead\n" + testBlock,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := replaceBlock([]byte(damaged), "fairlead", testBlock)
			require.ErrorContains(t, err, "by hand")
		})
	}
}

// TestDiff gives each diff to the real patch, which must make the new file of the old.
func TestDiff(t *testing.T) {
	patch, err := exec.LookPath("patch")
	if err != nil {
		t.Skip("patch is not installed")
	}
	lines := func(n int) string { return strings.Repeat("line\n", n) }
	for name, c := range map[string]struct{ old, now string }{
		"prepend":              {lines(10), "a\nb\n" + lines(10)},
		"remove":               {"a\nb\n" + lines(10), lines(10)},
		"in the middle":        {"1\n2\n3\n4\n5\nx\n6\n7\n8\n9\n", "1\n2\n3\n4\n5\ny\nz\n6\n7\n8\n9\n"},
		"no end of line":       {"a\nb", "x\na\nb"},
		"end of line is added": {"a\nb", "a\nb\n"},
		"all":                  {"a\n", "b\n"},
		"to empty":             {"a\n", ""},
		"from empty":           {"", "a\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, []byte(c.old), 0o600))
			f, err := openManaged(path)
			require.NoError(t, err)
			cmd := exec.Command(patch, "--fuzz=0", "--posix", path)
			cmd.Stdin = strings.NewReader(f.diff([]byte(c.now)))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s\n%s", out, f.diff([]byte(c.now)))
			got, err := os.ReadFile(path)
			if c.now == "" && os.IsNotExist(err) {
				return // patch removes a file that becomes empty
			}
			require.NoError(t, err)
			require.Equal(t, c.now, string(got))
			require.Empty(t, f.diff([]byte(c.old)), "no change, no diff")
		})
	}
}

func TestManagedFile(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "dotfiles", "config")
	require.NoError(t, os.Mkdir(filepath.Dir(target), 0o700))
	require.NoError(t, os.WriteFile(target, []byte("old\n"), 0o600))
	require.NoError(t, os.Chmod(target, 0o640))
	link := filepath.Join(dir, "config")
	require.NoError(t, os.Symlink(filepath.Join("dotfiles", "config"), link))

	f, err := openManaged(link)
	require.NoError(t, err)
	require.NoError(t, f.replace([]byte("new\n")))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.Equal(t, os.ModeSymlink, info.Mode().Type(), "a link stays a link")
	info, err = os.Stat(target)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	got, err := os.ReadFile(link)
	require.NoError(t, err)
	require.Equal(t, "new\n", string(got))

	require.ErrorContains(t, f.replace([]byte("mine\n")), "changed by somebody else", "it still thinks of the old text")
	left, err := os.ReadDir(filepath.Dir(target))
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing is left behind")

	fresh, err := openManaged(filepath.Join(dir, "new", "config"))
	require.NoError(t, err)
	require.NoError(t, fresh.replace([]byte("x\n")))
	info, err = os.Stat(filepath.Join(dir, "new", "config"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	_, err = openManaged(filepath.Join(dir, "dangling"))
	require.ErrorContains(t, err, "which is not there")
	_, err = openManaged(dir)
	require.ErrorContains(t, err, "not a regular file")
}
