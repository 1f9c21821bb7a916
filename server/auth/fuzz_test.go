package auth

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzBearerToken: a text is of a token's form or costs no query.
func FuzzBearerToken(f *testing.F) {
	agent, _ := NewAgentToken()
	for _, s := range []string{agent, newToken(userPrefix), agent + "\n", agentPrefix, userPrefix + strings.Repeat("!", 43), "", "Bearer x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		kind, ok := KindOf(s)
		if !ok {
			return
		}
		require.Contains(t, []Kind{KindUser, KindAgent}, kind)
		require.Len(t, s, len(agent))
	})
}

// FuzzOneTimeCode: a code has one form, however it was typed.
func FuzzOneTimeCode(f *testing.F) {
	code, err := newCode()
	require.NoError(f, err)
	for _, s := range []string{code, strings.ToUpper(code), strings.ReplaceAll(code, "-", " "), " " + code, "00000000\n00000000\n", "", "----"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := normalizeCode(s)
		if !ok {
			return
		}
		again, ok := normalizeCode(got)
		require.True(t, ok)
		require.Equal(t, got, again)
		require.Len(t, got, len(code))
	})
}
