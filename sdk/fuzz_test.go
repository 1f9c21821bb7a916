package sdk

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{
		"https://fairlead.example.com", "http://127.0.0.1:7080/", "https://h/a/b/", "ftp://h", "https://u:p@h", "https://h?x", "https://h#x",
		"https://h/%2e%2e/", "https://h\r\nX: y", "//h", "", "https://[::1]:1/x", "https://h/a?b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			require.NotContains(t, err.Error(), "\x1b")
			return
		}
		require.NotEmpty(t, u.Host)
		require.False(t, strings.HasSuffix(u.Path, "/"))
		require.False(t, strings.ContainsAny(u.String(), "\r\n\x00"), "%q", u)
		again, err := ParseURL(u.String())
		require.NoError(t, err)
		require.Equal(t, u.String(), again.String())
	})
}

func FuzzValidName(f *testing.F) {
	for _, s := range []string{"dev", "a-b", "-a", "..", "../x", "a/b", "a\n", "A", "ä", "%2e", strings.Repeat("a", 33)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidName(s) {
			return
		}
		require.LessOrEqual(t, len(s), 32)
		require.Equal(t, s, url.PathEscape(s))
		require.Empty(t, strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-"))
		require.NotEqual(t, byte('-'), s[0])
	})
}
