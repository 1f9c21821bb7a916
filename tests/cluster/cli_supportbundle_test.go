package cluster

import (
	"archive/zip"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// unzip returns the files of a bundle.
func unzip(t *testing.T, path string) map[string]string {
	t.Helper()
	z, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer z.Close()
	all := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		all[f.Name] = string(data)
	}
	return all
}

// TestSupportBundle: only what is allowed goes in, nothing of it is a secret, and it is
// made also when there is nothing to collect.
func TestSupportBundle(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	profiles, err := os.ReadFile(s.Path("config/profiles.json"))
	require.NoError(t, err)
	var logins struct {
		Profiles map[string]struct{ Token string }
	}
	require.NoError(t, json.Unmarshal(profiles, &logins))
	token := logins.Profiles["default"].Token
	require.NotEmpty(t, token)
	const secret, plainVariable = "of-nobody-elses-business", "a-value-of-the-environment"
	s.Setenv("AWS_SECRET_ACCESS_KEY="+secret, "EDITOR_SETTING="+plainVariable)
	log := s.Write("client.log", strings.Repeat("old line with fl_u_tail\n", 60_000)+
		"level=INFO token="+token+"\nurl=http://ada:hunter22@proxy/ key="+secret+"\nthe last line\n")
	require.Equal(t, 0, s.Run("ssh", "dev", "--", "true").Code)
	site.Eventually(t, "a row", func() bool { return strings.Contains(s.Run("connections", "-o", "json").Stdout, `"ssh"`) })

	r := s.Run("support-bundle", "fault.zip", "--client-log", log, "--client-log", s.Path("no.log"), "--client-log", "/dev/zero")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, "Wrote fault.zip.")
	require.Equal(t, 2, strings.Count(r.Stderr, "fairlead: not in the bundle: "), r.Stderr)
	info, err := os.Stat(s.Path("fault.zip"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Less(t, info.Size(), int64(1<<20))
	files := unzip(t, s.Path("fault.zip"))
	var names []string
	for name, text := range files {
		names = append(names, name)
		for _, never := range []string{token, secret, plainVariable, "hunter22", "fl_u_", "PRIVATE KEY"} {
			require.NotContains(t, text, never, name)
		}
	}
	slices.Sort(names)
	require.Equal(t, []string{"README.txt", "connections.json", "errors.txt", "logins.json", "logs/client.log", "netcheck.json",
		"servercheck.json", "version.json", "workspaces.json"}, names)
	require.Contains(t, files["logs/client.log"], "the last line")
	require.Contains(t, files["connections.json"], "graceful")
	require.Contains(t, files["netcheck.json"], `"verdict": "direct"`)
	require.Contains(t, files["logins.json"], s.URL)

	again := s.Run("support-bundle", "fault.zip")
	require.Equal(t, 1, again.Code)
	require.Equal(t, "fairlead: write the bundle: open fault.zip: file exists\n", again.Stderr)
	s.Server.Stop()
	r = s.Run("support-bundle", "broken.zip")
	require.Equal(t, 0, r.Code, r.Stderr)
	files = unzip(t, s.Path("broken.zip"))
	require.Contains(t, files["netcheck.json"], "no_server")
	require.Contains(t, files["errors.txt"], "workspaces.json: ")
	nobody := site.NewHome(t)
	r = nobody.Run("support-bundle", "x.zip")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Contains(t, unzip(t, nobody.Path("x.zip"))["errors.txt"], "the rest needs a login")
	require.Equal(t, 2, nobody.Run("support-bundle", "a", "b").Code)
	require.Equal(t, 1, nobody.Run("support-bundle", "/nowhere/at/all.zip").Code)
}
