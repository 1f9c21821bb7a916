package disconnect

import (
	"encoding"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// roundTrip writes a word as text and reads it again.
func roundTrip[T comparable, P interface {
	*T
	encoding.TextUnmarshaler
}](t *testing.T, all []T) {
	t.Helper()
	for _, word := range all {
		b, err := json.Marshal(word)
		require.NoError(t, err)
		var got T
		require.NoError(t, json.Unmarshal(b, P(&got)))
		require.Equal(t, word, got)
	}
	var got T
	require.Error(t, P(&got).UnmarshalText([]byte("no such word")))
}

func TestWordsAreTextInJSON(t *testing.T) {
	roundTrip(t, Reasons())
	roundTrip(t, Initiators())
	roundTrip(t, ConnectTypes())
	roundTrip(t, Evidences())
	roundTrip(t, Confidences())
	for _, outside := range []encoding.TextMarshaler{Reason(99), Initiator(9), ConnectType(0), ConnectType(9), Evidence(0), Confidence(9)} {
		_, err := outside.MarshalText()
		require.Error(t, err, "%v", outside)
	}
}

func TestAttributionJSON(t *testing.T) {
	a := Attribution{ConnectType: AgentToClient, Reason: OOMKilled, Initiator: Agent, Detail: "exit 137"}
	b, err := json.Marshal(a)
	require.NoError(t, err)
	require.JSONEq(t, `{"connect_type":"agent_to_client","disconnect_reason":"oom_killed",
		"disconnect_expected":false,"disconnect_initiator":"agent","disconnect_detail":"exit 137"}`, string(b))
	var got Attribution
	require.NoError(t, json.Unmarshal(b, &got))
	require.Equal(t, a, got)

	// An account that claims to be expected is not: that is no matter of opinion.
	require.NoError(t, json.Unmarshal([]byte(`{"disconnect_reason":"peer_crashed","disconnect_expected":true,
		"disconnect_initiator":"agent","disconnect_detail":"a\u001b[2Jb"}`), &got))
	require.Equal(t, Attribution{Reason: PeerCrashed, Initiator: Agent, Detail: "a [2Jb"}, got)
	require.False(t, got.Expected())
	require.ErrorContains(t, json.Unmarshal([]byte(`{"disconnect_reason":"bored"}`), &got), "bored")
}
