package proto

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

func TestCleanText(t *testing.T) {
	for name, tt := range map[string]struct {
		in, want string
		cleaned  bool
	}{
		"plain":                  {"# Build\n\n\tmake\n", "# Build\n\n\tmake\n", false},
		"other scripts":          {"écran 終了\u3000次", "écran 終了\u3000次", false},
		"line ends of Windows":   {"one\r\ntwo\r\n", "one\ntwo\n", false},
		"byte order mark":        {"\ufeffone", "one", false},
		"emoji":                  {"⚠️ 👩‍🚀 👨🏽‍💻", "⚠️ 👩‍🚀 👨🏽‍💻", false},
		"carriage return":        {"delete\rkeep", "deletekeep", true},
		"escape sequences":       {"a\x1b[2Jb\u009b31mc", "a[2Jb31mc", true},
		"zero width":             {"ig\u200bno\u2060re", "ignore", true},
		"turned around":          {"a\u202egpj.b\u2066c", "agpj.bc", true},
		"tags":                   {"hello\U000e0049\U000e0047\U000e004e", "hello", true},
		"selectors that smuggle": {"x\ufe0f\ufe01\U000e0101y", "xy", true},
		"joiner between letters": {"a\u200db", "ab", true},
		"fillers":                {"a\u3164\u115f\u034fb", "ab", true},
		"line separators":        {"a\u2028b\u2029c", "abc", true},
		"private use":            {"a\ue000b", "ab", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, cleaned := CleanText(tt.in)
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.cleaned, cleaned)
		})
	}
}

func FuzzCleanText(f *testing.F) {
	f.Add("# plain\r\n\ttext ⚠️")
	f.Add("a\x1b[2J\u202e\U000e0041\ufe0f\u200d\xff")
	f.Fuzz(func(t *testing.T, in string) {
		got, _ := CleanText(in)
		for _, r := range got {
			require.True(t, r == '\n' || r == '\t' || r == zeroWidthJoiner || r == emojiStyle || unicode.IsGraphic(r), "%q holds %U", got, r)
		}
		require.LessOrEqual(t, len(got), 3*len(in), "an invalid byte becomes a mark of three")
		again, cleaned := CleanText(got)
		if !strings.HasPrefix(got, "\ufeff") {
			require.Equal(t, got, again)
			require.False(t, cleaned, "once is enough")
		}
	})
}

// TestContextConfigClean: lists are never null, and nothing in them moves a terminal.
func TestContextConfigClean(t *testing.T) {
	var c ContextConfig
	c.Clean()
	text, err := json.Marshal(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"parts":[],"mcp_config_files":[],"skipped":[]}`, string(text))

	evil := "a\x1b[2J\u202eb\nc"
	c = ContextConfig{
		Parts:          []ContextPart{{Type: ContextPartType(evil), Path: evil, Content: evil, SkillName: evil, SkillDescription: evil, SkillDirectory: evil}},
		MCPConfigFiles: []string{evil}, Skipped: []ContextSkipped{{evil, evil}},
	}
	c.Clean()
	const line = "a [2J b c"
	require.Equal(t, ContextConfig{
		Parts: []ContextPart{{
			Type: line, Path: line, Content: "a[2Jb\nc", Cleaned: true, SkillName: line, SkillDescription: line, SkillDirectory: line,
		}},
		MCPConfigFiles: []string{line}, Skipped: []ContextSkipped{{line, line}},
	}, c)
}
