package wire

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/disconnect"
)

// overTheWire marshals m and reads it back into a new message.
func overTheWire[M proto.Message](t *testing.T, m, into M) M {
	t.Helper()
	data, err := proto.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, proto.Unmarshal(data, into))
	return into
}

func TestWholeSetRoundTrip(t *testing.T) {
	for _, reason := range disconnect.Reasons() {
		for _, initiator := range disconnect.Initiators() {
			goodbye := disconnect.Goodbye{Reason: reason, Initiator: initiator, Detail: "why"}
			require.Equal(t, goodbye, ToGoodbye(overTheWire(t, FromGoodbye(goodbye), new(Goodbye))))
			for _, connectType := range disconnect.ConnectTypes() {
				a := goodbye.On(connectType)
				require.Equal(t, a, ToAttribution(overTheWire(t, FromAttribution(a), new(Attribution))))
			}
		}
	}
}

func TestNumbersOfANewerVersion(t *testing.T) {
	got := ToAttribution(&Attribution{ConnectType: 77, Reason: 200, Initiator: 77, Detail: "asteroid"})
	require.Equal(t, disconnect.Attribution{Detail: "reason 200 of a newer version: asteroid"}, got)
	require.Equal(t, disconnect.Unknown, ToGoodbye(&Goodbye{Reason: 256 + 10}).Reason)
}

func TestMissingMessages(t *testing.T) {
	require.True(t, ToAttribution(nil).IsZero())
}

func TestTextIsScrubbedBothWays(t *testing.T) {
	hostile := "\x1b[2J\u202e" + strings.Repeat("x", 1000) + "\xff"
	for _, text := range []string{
		ToGoodbye(&Goodbye{Detail: hostile}).Detail,
		ToGoodbye(&Goodbye{Reason: 200, Detail: hostile}).Detail,
		FromGoodbye(disconnect.Goodbye{Detail: hostile}).GetDetail(),
		FromAttribution(disconnect.Attribution{Detail: hostile}).GetDetail(),
	} {
		require.NotContains(t, text, "\x1b")
		require.NotContains(t, text, "\u202e")
		require.True(t, utf8.ValidString(text))
		require.LessOrEqual(t, len(text), 256)
		require.NotEmpty(t, text)
	}
}
