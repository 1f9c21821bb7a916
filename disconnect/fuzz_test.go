package disconnect

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzWords: a word is in the set or an error, and stands for itself.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "graceful", "agent", "agent_to_client", "session_replaced", "reason(4)", "\x1b\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseReason(s); err == nil {
			require.Equal(t, s, r.String())
		}
		if i, err := ParseInitiator(s); err == nil {
			require.Equal(t, s, i.String())
		}
		if c, err := ParseConnectType(s); err == nil {
			require.Equal(t, s, c.String())
		}
	})
}
