package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProfilesArePrivateAndKeepTheirDefault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "config")
	t.Setenv("FAIRLEAD_CONFIG_DIR", dir)
	_, err := chooseProfile("")
	require.ErrorIs(t, err, errNoLogin)

	work := profile{URL: "https://work.example", Token: "fl_u_1", User: "ada"}
	local := profile{URL: "http://127.0.0.1:7080", Token: "fl_u_2", User: "admin"}
	require.NoError(t, saveProfile("work", work, false))
	require.NoError(t, saveProfile("local", local, false), "what `up` does")
	got, err := chooseProfile("")
	require.NoError(t, err)
	require.Equal(t, work, got, "the first login stays the default")
	got, err = chooseProfile("local")
	require.NoError(t, err)
	require.Equal(t, local, got)
	_, err = chooseProfile("other")
	require.ErrorContains(t, err, `there is no profile "other"`)

	path := filepath.Join(dir, "profiles.json")
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, want, info.Mode().Perm(), name)
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	_, err = chooseProfile("")
	require.ErrorContains(t, err, "chmod 700 "+dir)
	require.NoError(t, os.Chmod(dir, 0o700))

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = chooseProfile("")
	require.ErrorContains(t, err, path+" is damaged")
	require.Error(t, saveProfile("new", local, true), "a damaged file is not overwritten")
}

func TestEnvironmentIsALogin(t *testing.T) {
	t.Setenv("FAIRLEAD_CONFIG_DIR", t.TempDir())
	t.Setenv("FAIRLEAD_URL", "https://ci.example")
	t.Setenv("FAIRLEAD_TOKEN", "fl_u_3")
	got, err := chooseProfile("")
	require.NoError(t, err)
	require.Equal(t, profile{URL: "https://ci.example", Token: "fl_u_3"}, got)
}
