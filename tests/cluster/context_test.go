package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/tests/site"
)

// put writes a file below the home of a site, which is where its agent looks.
func put(t *testing.T, h *site.Home, name, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(h.Path(name)), 0o700))
	h.Write(name, content)
}

func contextOf(t *testing.T, h *site.Home, workspace string) (config proto.ContextConfig) {
	t.Helper()
	text := h.Must("context", workspace, "--output", "json")
	require.NoError(t, json.Unmarshal([]byte(text), &config), text)
	require.NotContains(t, text, "null")
	return config
}

// TestContext: who may open a shell in a workspace reads its context, nobody else does,
// and the configuration is not in the environment of sessions.
func TestContext(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer()
	s.Settle()
	s.Setenv("FAIRLEAD_AGENT_CONTEXT_INSTRUCTIONS_DIRS=~,rules", "FAIRLEAD_AGENT_CONTEXT_MCP_CONFIG_FILES=~/a.json,/b.json,c.json")
	s.StartAgent()

	require.Equal(t, proto.ContextConfig{
		Parts: []proto.ContextPart{}, Skipped: []proto.ContextSkipped{},
		MCPConfigFiles: []string{s.Path("a.json"), "/b.json", s.Path("c.json")},
	}, contextOf(t, s.Home, "dev"))
	r := s.Run("context", "dev")
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "no instruction files and no skills")

	put(t, s.Home, "AGENTS.md", "# Build\n\nmake\u202e\n")
	put(t, s.Home, ".agents/skills/deploy/SKILL.md", "---\nname: deploy\ndescription: Puts it into production.\n---\n")
	put(t, s.Home, ".agents/skills/broken/SKILL.md", "nothing")
	require.NoError(t, os.Mkdir(s.Path("rules"), 0o700))
	require.NoError(t, syscall.Mkfifo(s.Path("rules/AGENTS.md"), 0o600))
	want := []proto.ContextPart{
		{Type: proto.ContextFile, Path: s.Path("AGENTS.md"), Content: "# Build\n\nmake\n", Cleaned: true},
		{Type: proto.ContextSkill, SkillName: "deploy", SkillDescription: "Puts it into production.", SkillDirectory: s.Path(".agents/skills/deploy")},
	}
	found := contextOf(t, s.Home, "dev")
	require.Equal(t, want, found.Parts)
	require.Equal(t, []proto.ContextSkipped{
		{Path: s.Path("rules/AGENTS.md"), Reason: "not a regular file"},
		{Path: s.Path(".agents/skills/broken"), Reason: "it does not begin with front matter"},
	}, found.Skipped)
	lines := strings.Split(strings.TrimSpace(s.Must("context", "dev")), "\n")
	require.Len(t, lines, 7)
	require.Regexp(t, `^file +/.*/AGENTS.md +14 bytes, without invisible characters$`, lines[0])
	require.Regexp(t, `^skill +/.*/deploy +Puts it into production.$`, lines[1])
	require.NotContains(t, s.Must("ssh", "dev", "--", "env"), "FAIRLEAD_AGENT_CONTEXT")

	// Who has no right to the workspace does not even learn that there is one.
	eve := s.NewUser("eve")
	r = eve.Run("context", "admin/dev")
	require.Equal(t, 1, r.Code)
	require.Equal(t, "fairlead: there is no workspace admin/dev\n", r.Stderr)
	s.Must("workspace", "share", "dev", "eve")
	require.Equal(t, want, contextOf(t, eve, "admin/dev").Parts)
	s.Must("workspace", "unshare", "dev", "eve")
	require.Equal(t, 1, eve.Run("context", "admin/dev").Code)

	s.Agent.Stop()
	s.AwaitAgent("offline")
	r = s.Run("context", "dev")
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "the agent of workspace dev is offline")
}

// TestContextMisuse: one sentence each.
func TestContextMisuse(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	for _, tc := range []struct {
		code int
		says string
		args []string
	}{
		{2, "name one workspace", nil},
		{2, "name one workspace", []string{"a", "b"}},
		{2, "cannot be a workspace", []string{"../etc"}},
		{2, "use table or json", []string{"dev", "--output", "xml"}},
		{4, "login", []string{"dev"}},
	} {
		r := h.Run(append([]string{"context"}, tc.args...)...)
		require.Equal(t, tc.code, r.Code, "%q: %s", tc.args, r.Stderr)
		require.Contains(t, r.Stderr, tc.says, "%q", tc.args)
		require.Empty(t, r.Stdout)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"))
	}
}
