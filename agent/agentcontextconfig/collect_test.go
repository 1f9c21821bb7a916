package agentcontextconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
)

func write(t *testing.T, content string, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	return name
}

// collect asks once, in bounded time.
func collect(t *testing.T, dir string, config Config) proto.ContextConfig {
	t.Helper()
	begin := time.Now()
	found := NewAPI(func() string { return dir }, config).ContextConfig(t.Context())
	require.Less(t, time.Since(begin), collectTimeout+time.Second)
	require.NotNil(t, found.Parts)
	require.NotNil(t, found.MCPConfigFiles)
	require.NotNil(t, found.Skipped)
	return found
}

// reasons returns why what lies at path, relative to dir, was skipped.
func reasons(found proto.ContextConfig, dir string) map[string]string {
	all := map[string]string{}
	for _, s := range found.Skipped {
		rel, err := filepath.Rel(dir, s.Path)
		if err != nil {
			rel = s.Path
		}
		all[rel] = s.Reason
	}
	return all
}

func skillFile(name, description string) string {
	return "---\nname: " + name + "\ndescription: " + description + "\n---\n# How\n"
}

func TestContextConfig(t *testing.T) {
	dir := t.TempDir()
	agents := write(t, "# Build\r\n\tmake\n", dir, "AGENTS.md")
	write(t, skillFile("deploy", ">-\n  Puts it\n  into production."), dir, ".agents/skills/deploy/SKILL.md")
	write(t, skillFile("answer", `"In \u00e9crit"`), dir, ".agents/skills/answer/SKILL.md")
	write(t, "no skill", dir, ".agents/skills/notes/README.md")
	write(t, "no directory", dir, ".agents/skills/README.md")
	write(t, skillFile("hidden", "x"), dir, ".agents/skills/.hidden/SKILL.md")
	require.Equal(t, proto.ContextConfig{
		Parts: []proto.ContextPart{
			{Type: proto.ContextFile, Path: agents, Content: "# Build\n\tmake\n"},
			{Type: proto.ContextSkill, SkillName: "answer", SkillDescription: "In écrit", SkillDirectory: filepath.Join(dir, ".agents/skills/answer")},
			{Type: proto.ContextSkill, SkillName: "deploy", SkillDescription: "Puts it into production.", SkillDirectory: filepath.Join(dir, ".agents/skills/deploy")},
		},
		MCPConfigFiles: []string{filepath.Join(dir, ".mcp.json")},
		Skipped:        []proto.ContextSkipped{},
	}, collect(t, dir, Config{}))
}

func TestContextConfigPaths(t *testing.T) {
	home, dir, other := t.TempDir(), t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	mine := write(t, "mine", home, "rules/RULES.md")
	shared := write(t, "shared", other, "RULES.md")
	local := write(t, "local", dir, "docs/RULES.md")
	write(t, skillFile("one", "from home"), home, "skills/one/META.md")
	write(t, skillFile("one", "a second"), other, "one/META.md")
	found := collect(t, dir, Config{
		InstructionsDirs: "~/rules, " + other + ",docs,docs,./docs", InstructionsFile: "RULES.md",
		SkillsDirs: "~/skills," + other, SkillMetaFile: "META.md", MCPConfigFiles: "~/a.json,b.json",
	})
	require.Equal(t, []proto.ContextPart{
		{Type: proto.ContextFile, Path: mine, Content: "mine"},
		{Type: proto.ContextFile, Path: shared, Content: "shared"},
		{Type: proto.ContextFile, Path: local, Content: "local"},
		{Type: proto.ContextSkill, SkillName: "one", SkillDescription: "from home", SkillDirectory: filepath.Join(home, "skills/one")},
	}, found.Parts)
	require.Equal(t, []string{filepath.Join(home, "a.json"), filepath.Join(dir, "b.json")}, found.MCPConfigFiles)
	require.Equal(t, map[string]string{"one": "a skill of an earlier directory has this name"}, reasons(found, other))
}

func TestContextConfigOfNothing(t *testing.T) {
	empty := proto.ContextConfig{Parts: []proto.ContextPart{}, MCPConfigFiles: []string{}, Skipped: []proto.ContextSkipped{}}
	require.Equal(t, empty, collect(t, "", Config{}), "no manifest yet")
	gone := filepath.Join(t.TempDir(), "gone")
	empty.MCPConfigFiles = []string{filepath.Join(gone, ".mcp.json")}
	require.Equal(t, empty, collect(t, gone, Config{}))
	file := write(t, "x", t.TempDir(), "file")
	require.Equal(t, "not a directory", reasons(collect(t, file, Config{}), file)["."])
	found := collect(t, t.TempDir(), Config{InstructionsFile: "../AGENTS.md", SkillsDirs: "../skills"})
	require.Empty(t, found.Parts)
}

func TestLongAndBinaryContent(t *testing.T) {
	for name, tt := range map[string]struct {
		content, reason string
		length          int // of what is given
		truncated       bool
	}{
		"as long as may be":        {content: strings.Repeat("x", MaxContent), length: MaxContent},
		"one more":                 {content: strings.Repeat("x", MaxContent+1), length: MaxContent, truncated: true},
		"cut in a character":       {content: strings.Repeat("x", MaxContent-1) + "終了", length: MaxContent - 1, truncated: true},
		"cut behind a character":   {content: strings.Repeat("x", MaxContent-3) + "終了", length: MaxContent, truncated: true},
		"ends in half of one":      {content: "x\xe7\xb5", reason: "not text in UTF-8"},
		"a zero":                   {content: "x\x00y", reason: "not text in UTF-8"},
		"UTF-16":                   {content: "\xff\xfea\x00b\x00", reason: "not text in UTF-8"},
		"noise":                    {content: string(bytes.Repeat([]byte{0x80}, MaxContent*2)), reason: "not text in UTF-8"},
		"nothing":                  {content: ""},
		"nothing that can be seen": {content: "\n \u200b\U000e0041"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, tt.content, dir, "AGENTS.md")
			found := collect(t, dir, Config{})
			if tt.length == 0 {
				require.Empty(t, found.Parts)
				require.Equal(t, tt.reason, reasons(found, dir)["AGENTS.md"])
				return
			}
			require.Len(t, found.Parts, 1)
			require.Len(t, found.Parts[0].Content, tt.length)
			require.True(t, utf8.ValidString(found.Parts[0].Content))
			require.Equal(t, tt.truncated, found.Parts[0].Truncated)
			require.Empty(t, found.Skipped)
		})
	}
}

// TestInvisibleText: what a person reading the file does not see does not reach a
// coding agent either, and it is said that there was some.
func TestInvisibleText(t *testing.T) {
	dir := t.TempDir()
	write(t, "Be kind.\u202e\U000e0069\U000e0067\x1b[8mrm\n", dir, "AGENTS.md")
	write(t, skillFile("deploy", `"Ships\u200b\u202e \x1b[2J it\nnow"`), dir, ".agents/skills/deploy/SKILL.md")
	found := collect(t, dir, Config{})
	require.Len(t, found.Parts, 2)
	require.Equal(t, "Be kind.[8mrm\n", found.Parts[0].Content)
	require.True(t, found.Parts[0].Cleaned)
	require.Equal(t, "Ships [2J it now", found.Parts[1].SkillDescription)
}

func TestBrokenSkills(t *testing.T) {
	dir := t.TempDir()
	bomb := "a: &a [x,x,x,x,x,x,x,x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", 'b'+i%25, 'b'+i%25, 'a'+i%25, 'a'+i%25, 'a'+i%25, 'a'+i%25, 'a'+i%25, 'a'+i%25, 'a'+i%25, 'a'+i%25)
	}
	const (
		notYAML  = "its front matter is not YAML of the form `name: value`"
		badName  = "the name in its front matter is not one of 1 to 64 small letters, digits and single dashes"
		noEnd    = "its front matter does not end within 8192 bytes"
		notPlain = "the description in its front matter is not plain text"
	)
	want := map[string]string{}
	for name, tt := range map[string]struct{ content, reason string }{
		"none":      {"# How\n", "it does not begin with front matter"},
		"empty":     {"---\n---\n", notYAML},
		"endless":   {"---\nname: endless\n" + strings.Repeat("x", 1<<20), noEnd},
		"unclosed":  {"---\nname: unclosed\ndescription: x\n", noEnd},
		"list":      {"---\n- name\n---\n", notYAML},
		"broken":    {"---\nname: [\n---\n", notYAML},
		"tab":       {"---\n\tname: x\n---\n", notYAML},
		"binary":    {"---\nname: \x00\xff\n---\n", notYAML},
		"deep":      {"---\n" + strings.Repeat("[", 8000) + "\n---\n", notYAML},
		"nameless":  {"---\ndescription: x\n---\n", badName},
		"upper":     {skillFile("UPPER", "x"), badName},
		"path":      {skillFile("../../etc", "x"), badName},
		"long":      {skillFile(strings.Repeat("x", 65), "x"), badName},
		"other":     {skillFile("another", "x"), `its name is "another", but the name of a skill is that of its directory`},
		"silent":    {"---\nname: silent\n---\n", "its front matter has no description"},
		"invisible": {skillFile("invisible", `"\u200b"`), "its front matter has no description"},
		"map":       {skillFile("map", "{a: b}"), notPlain},
		"alias":     {"---\nx: &x y\nname: alias\ndescription: *x\n---\n", notPlain},
	} {
		write(t, tt.content, dir, ".agents/skills", name, "SKILL.md")
		want[filepath.Join(".agents/skills", name)] = tt.reason
	}
	write(t, "---\n"+bomb+"name: bomb\ndescription: harmless\n---\n", dir, ".agents/skills/bomb/SKILL.md")
	write(t, "\ufeff---\r\nname: windows\r\nname: twice\r\ndescription: "+strings.Repeat("é", 4000)+"\r\n---\r\n", dir, ".agents/skills/windows/SKILL.md")
	found := collect(t, dir, Config{})
	require.Equal(t, want, reasons(found, dir))
	require.Len(t, found.Parts, 2)
	require.Equal(t, "harmless", found.Parts[0].SkillDescription)
	require.Equal(t, strings.Repeat("é", 512), found.Parts[1].SkillDescription)
}

// allocated is what the process has ever allocated on the heap, in bytes.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

// TestManySkills: 10,000 directories are no more work than the first thousand, always
// the same ones, and it is said that there are more.
func TestManySkills(t *testing.T) {
	dir := t.TempDir()
	for i := range 10_000 {
		path := filepath.Join(dir, ".agents/skills", fmt.Sprintf("s%05d", i))
		require.NoError(t, os.MkdirAll(path, 0o700))
		if i < maxSkills+1 {
			write(t, skillFile(filepath.Base(path), strings.Repeat("x", 2000)), path, "SKILL.md")
		}
	}
	before := allocated()
	found := collect(t, dir, Config{})
	require.Less(t, allocated()-before, uint64(64<<20))
	require.Len(t, found.Parts, maxSkills)
	require.Equal(t, "s00999", found.Parts[maxSkills-1].SkillName)
	require.Equal(t, map[string]string{".agents/skills": "only the first 1000 skills were looked at"}, reasons(found, dir))
	size := 0
	for _, p := range found.Parts {
		size += len(p.SkillDescription)
	}
	require.LessOrEqual(t, size, maxSkills*maxDescription)
}

func TestManyThatAreSkipped(t *testing.T) {
	dir := t.TempDir()
	for i := range maxSkipped + 50 {
		write(t, "broken", dir, ".agents/skills", fmt.Sprint(i), "SKILL.md")
	}
	found := collect(t, dir, Config{})
	require.Len(t, found.Skipped, maxSkipped+1)
	require.Equal(t, proto.ContextSkipped{Reason: "more was skipped than is told here"}, found.Skipped[maxSkipped])
	var dirs []string
	for i := range maxFiles + 1 {
		write(t, "x", dir, fmt.Sprint("d", i), "AGENTS.md")
		dirs = append(dirs, fmt.Sprint("d", i))
	}
	found = collect(t, dir, Config{InstructionsDirs: strings.Join(dirs, ","), SkillsDirs: "none"})
	require.Len(t, found.Parts, maxFiles)
	require.Equal(t, map[string]string{"d16": "there are 16 context files already"}, reasons(found, dir))
}

func TestContextConfigEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	write(t, "x", dir, "AGENTS.md")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stop"))
	found := NewAPI(func() string { return dir }, Config{}).ContextConfig(ctx)
	require.Empty(t, found.Parts)
	require.Equal(t, []proto.ContextSkipped{{Path: dir, Reason: "there was no time to look any further"}}, found.Skipped)
}

func FuzzParseSkill(f *testing.F) {
	f.Add([]byte(skillFile("deploy", "Puts it into production.")))
	f.Add([]byte("---\na: &a [*a]\nname: *a\n---\n"))
	f.Add([]byte("---\n? {{[: >-\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseSkill(data[:min(len(data), maxFrontMatter)])
		if err != nil {
			require.Zero(t, m)
			require.LessOrEqual(t, len(err.Error()), 256)
			return
		}
		require.Regexp(t, skillName, m.name)
		require.NotEmpty(t, m.description)
		require.LessOrEqual(t, len(m.description), maxDescription)
		require.NotContains(t, m.description, "\n")
	})
}
