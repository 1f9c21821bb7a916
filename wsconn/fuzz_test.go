package wsconn

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// FuzzCloseFrame: whatever a close frame holds, the ending has a reason of the set and
// clean text, and blames nobody without a reason.
func FuzzCloseFrame(f *testing.F) {
	for _, code := range []uint16{1000, 1002, 1006, 1012, 4000, 4020, 4031, 4099, 4255, 4999, 65535} {
		f.Add(code, "i=3;d=upgrade")
		f.Add(code, "\x1b[2J\xff")
	}
	f.Fuzz(func(t *testing.T, code uint16, text string) {
		if code == 0 {
			return // no code at all
		}
		rec := new(record)
		rec.frame(int(code), text)
		a := Judge(rec.get(), disconnect.ServerToAgent, disconnect.Agent, disconnect.Server)
		require.True(t, a.Reason.Valid())
		require.Equal(t, disconnect.ServerToAgent, a.ConnectType)
		require.Equal(t, a.Detail, disconnect.Scrub(a.Detail))
		if a.Reason != disconnect.Unknown {
			require.NotEqual(t, disconnect.InitiatorUnknown, a.Initiator)
		}
	})
}
