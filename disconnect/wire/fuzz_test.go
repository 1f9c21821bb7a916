package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/disconnect"
)

// FuzzMessages reads bytes of another process as each message of this package: what
// comes out is clean, of the closed set, and survives the way back.
func FuzzMessages(f *testing.F) {
	for _, m := range []proto.Message{
		&Attribution{}, &Attribution{ConnectType: 1, Reason: 20, Initiator: 3, Detail: "bye"},
		&Attribution{Reason: 4000, Initiator: 1 << 20, Detail: "\u202e"}, &Goodbye{Reason: 31, Detail: "limit"},
	} {
		b, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Attribution
		if proto.Unmarshal(b, &a) == nil {
			got := ToAttribution(&a)
			require.True(t, got.Reason.Valid())
			require.Equal(t, got.Detail, disconnect.Scrub(got.Detail))
			require.Equal(t, got, ToAttribution(FromAttribution(got)))
		}
		var g Goodbye
		if proto.Unmarshal(b, &g) == nil {
			got := ToGoodbye(&g)
			require.True(t, got.Reason.Valid())
			require.Equal(t, got, ToGoodbye(FromGoodbye(got)))
		}
	})
}
