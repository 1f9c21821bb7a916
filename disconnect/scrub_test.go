package disconnect

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestScrub(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"empty":              {"", ""},
		"plain":              {"read tcp: i/o timeout", "read tcp: i/o timeout"},
		"other scripts":      {"écran 終了 🙂", "écran 終了 🙂"},
		"colours":            {"\x1b[31mred\x1b[0m", "[31mred [0m"},
		"window title":       {"\x1b]0;owned\x07after", "]0;owned after"},
		"one-byte CSI":       {"a\u009b2Jb", "a 2Jb"},
		"bidi override":      {"user\u202etxt.exe", "user txt.exe"},
		"bidi isolate":       {"a\u2066b\u2069", "a b"},
		"zero width":         {"a\u200bb\ufeffc", "a b c"},
		"line feed":          {"one\ntwo\r\nthree", "one two three"},
		"line separator":     {"one\u2028two\u2029three", "one two three"},
		"next line":          {"one\u0085two", "one two"},
		"tab":                {"one\ttwo", "one two"},
		"other spaces":       {"one\u00a0two\u3000three", "one two three"},
		"NUL and DEL":        {"a\x00\x7fb", "a b"},
		"beside a space":     {"a \n b", "a  b"},
		"only bad":           {"\n\n\x1b", ""},
		"at the ends":        {"\nmiddle\n", "middle"},
		"invalid UTF-8":      {"a\xff\xfeb", "a b"},
		"cut rune":           {"a\xe7\xb5", "a"},
		"surrogate":          {"a\xed\xa0\x80b", "a b"},
		"private use":        {"a\ue000b", "a b"},
		"exactly the limit":  {strings.Repeat("x", 256), strings.Repeat("x", 256)},
		"over the limit":     {strings.Repeat("x", 257), strings.Repeat("x", 256)},
		"rune at the limit":  {strings.Repeat("x", 255) + "é", strings.Repeat("x", 255)},
		"bad before a limit": {"\n" + strings.Repeat("x", 300), strings.Repeat("x", 256)},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, Scrub(tt.in))
			requireScrubbed(t, tt.in)
		})
	}
}

func requireScrubbed(t *testing.T, in string) {
	t.Helper()
	got := Scrub(in)
	require.LessOrEqual(t, len(got), 256)
	require.True(t, utf8.ValidString(got))
	for _, r := range got {
		require.True(t, unicode.IsPrint(r), "%q holds %U", got, r)
	}
	require.Equal(t, got, Scrub(got), "once is enough")
}

func FuzzScrub(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[31m", "a\u202eb", "\xff", strings.Repeat("é", 200), "\n x\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(requireScrubbed)
}

func FuzzParseCloseCode(f *testing.F) {
	f.Add(4020, "i=3;d=upgrade")
	f.Add(1000, "")
	f.Fuzz(func(t *testing.T, code int, text string) {
		g, ok := ParseCloseCode(code, text)
		if !ok {
			require.Zero(t, g)
			return
		}
		require.True(t, g.Reason.Valid() && g.Initiator.Valid())
		sameCode, again := g.CloseCode()
		require.Equal(t, code, sameCode)
		heard, ok := ParseCloseCode(sameCode, again)
		require.True(t, ok)
		require.Equal(t, g.Initiator, heard.Initiator)
	})
}

func TestScrubOfCleanTextDoesNotAllocate(t *testing.T) {
	text := "read tcp 10.0.0.1:22: i/o timeout, 終了"
	require.Zero(t, testing.AllocsPerRun(100, func() { Scrub(text) }))
}
