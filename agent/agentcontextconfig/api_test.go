package agentcontextconfig

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMCPConfigFilesResolve(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, tc := range []struct {
		name, dir, list string
		want            []string
	}{
		{"default", "/w", "", []string{"/w/.mcp.json"}},
		{"absolute relative and home", "/w", "/a/b.json, c.json ,~/d.json", []string{"/a/b.json", "/w/c.json", filepath.Join(home, "d.json")}},
		{"home itself", "/w", "~", []string{home}},
		{"empty entries", "/w", ",,x.json,", []string{"/w/x.json"}},
		{"unknown directory leaves relative paths out", "", "x.json,/y.json", []string{"/y.json"}},
		{"a tilde in the middle is a plain character", "/w", "a~/b", []string{"/w/a~/b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api := NewAPI(func() string { return tc.dir }, Config{MCPConfigFiles: tc.list})
			require.Equal(t, tc.want, api.MCPConfigFiles())
		})
	}
}

func TestMCPConfigFilesFollowsTheDirectory(t *testing.T) {
	dir := "/one"
	api := NewAPI(func() string { return dir }, Config{})
	require.Equal(t, []string{"/one/.mcp.json"}, api.MCPConfigFiles())
	dir = "/two"
	require.Equal(t, []string{"/two/.mcp.json"}, api.MCPConfigFiles())
}

func TestConfigFromEnvIsTakenOutOfTheEnvironment(t *testing.T) {
	t.Setenv(EnvMCPConfigFiles, "a.json,b.json")
	t.Setenv(EnvSkillsDirs, "skills")
	config := ConfigFromEnv()
	require.Equal(t, Config{MCPConfigFiles: "a.json,b.json", SkillsDirs: "skills"}, config)
	_, still := os.LookupEnv(EnvMCPConfigFiles)
	require.False(t, still, "children of the agent must not inherit it")
}
