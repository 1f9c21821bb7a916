package wire

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

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

func TestTestimonyRoundTrip(t *testing.T) {
	code := int32(0)
	for _, evidence := range disconnect.Evidences() {
		for _, confidence := range disconnect.Confidences() {
			said := disconnect.Testimony{
				Observer:     disconnect.Agent,
				ConnectionID: "8f2a",
				Attribution:  disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: disconnect.Client},
				Evidence:     evidence,
				Confidence:   confidence,
				Phase:        "open",
				Locus:        "agent_host",
				ExitCode:     &code,
				LastGood:     time.Date(2026, 11, 1, 12, 0, 0, 5, time.UTC),
				FirstNoticed: time.Date(2026, 11, 1, 12, 0, 9, 0, time.UTC),
			}
			require.Equal(t, said, ToTestimony(overTheWire(t, FromTestimony(said), new(Testimony))))
		}
	}
	require.Equal(t, disconnect.Testimony{}, ToTestimony(overTheWire(t, FromTestimony(disconnect.Testimony{}), new(Testimony))))
}

func TestNumbersOfANewerVersion(t *testing.T) {
	got := ToTestimony(&Testimony{
		Observer:     77,
		Attribution:  &Attribution{ConnectType: 77, Reason: 200, Initiator: 77, Detail: "asteroid"},
		Evidence:     math.MaxUint32,
		Confidence:   256 + uint32(disconnect.ConfidenceHigh), // must not wrap around
		LastGood:     &timestamppb.Timestamp{Seconds: math.MaxInt64},
		FirstNoticed: &timestamppb.Timestamp{Nanos: -1},
	})
	require.Equal(t, disconnect.Testimony{
		Attribution: disconnect.Attribution{Detail: "reason 200 of a newer version: asteroid"},
	}, got)
	require.Equal(t, disconnect.Unknown, ToGoodbye(&Goodbye{Reason: 256 + 10}).Reason)
}

func TestMissingMessages(t *testing.T) {
	require.True(t, ToAttribution(nil).IsZero())
	require.Zero(t, ToTestimony(nil))
	require.True(t, ToTestimony(&Testimony{}).Attribution.IsZero())
}

func TestTextIsScrubbedBothWays(t *testing.T) {
	hostile := "\x1b[2J\u202e" + strings.Repeat("x", 1000) + "\xff"
	for _, text := range []string{
		ToGoodbye(&Goodbye{Detail: hostile}).Detail,
		ToGoodbye(&Goodbye{Reason: 200, Detail: hostile}).Detail,
		ToTestimony(&Testimony{ConnectionId: hostile}).ConnectionID,
		ToTestimony(&Testimony{Phase: hostile}).Phase,
		ToTestimony(&Testimony{Locus: hostile}).Locus,
		FromGoodbye(disconnect.Goodbye{Detail: hostile}).GetDetail(),
		FromAttribution(disconnect.Attribution{Detail: hostile}).GetDetail(),
		FromTestimony(disconnect.Testimony{ConnectionID: hostile}).GetConnectionId(),
	} {
		require.NotContains(t, text, "\x1b")
		require.NotContains(t, text, "\u202e")
		require.True(t, utf8.ValidString(text))
		require.LessOrEqual(t, len(text), 256)
		require.NotEmpty(t, text)
	}
}
