package disconnect

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden spells the set out again: numbers are stored and sent, so that a change of
// one must fail here first.
var golden = map[Reason]struct {
	word     string
	expected bool
}{
	0:  {"unknown", false},
	10: {"graceful", true},
	11: {"client_closed", true},
	12: {"process_exited", true},
	13: {"session_replaced", true},
	14: {"path_migrated", true},
	15: {"suspended", true},
	20: {"server_shutdown", true},
	21: {"workspace_stopped", true},
	22: {"admin_terminated", true},
	23: {"idle_timeout", true},
	24: {"session_limit", true},
	25: {"auth_revoked", true},
	26: {"auth_expired", true},
	30: {"auth_failed", false},
	31: {"limit_exceeded", false},
	32: {"version_mismatch", false},
	33: {"duplicate_agent", false},
	34: {"connection_refused", false},
	35: {"policy_denied", true},
	40: {"process_signaled", false},
	41: {"oom_killed", false},
	42: {"workspace_evicted", false},
	43: {"peer_crashed", false},
	44: {"peer_unresponsive", false},
	45: {"slow_peer", false},
	46: {"resource_exhausted", false},
	47: {"internal_error", false},
	48: {"host_paused", false},
	50: {"network_error", false},
	51: {"network_timeout", false},
	52: {"connection_reset", false},
	53: {"network_unreachable", false},
	54: {"dns_failure", false},
	55: {"tls_failure", false},
	56: {"relay_lost", false},
	60: {"protocol_error", false},
}

var goldenReserved = map[Reason]string{}

func TestEveryReason(t *testing.T) {
	require.Len(t, golden, len(Reasons()))
	last := -1
	for _, r := range Reasons() {
		t.Run(r.String(), func(t *testing.T) {
			want, known := golden[r]
			require.True(t, known, "number %d is not in the golden table", r)
			require.Equal(t, want.word, r.String())
			require.Equal(t, want.expected, r.Expected())
			require.True(t, r.Valid())
			require.Greater(t, int(r), last, "ascending")
			last = int(r)

			parsed, err := ParseReason(r.String())
			require.NoError(t, err)
			require.Equal(t, r, parsed)

			require.True(t, strings.HasSuffix(r.Sentence(), "."), "a whole sentence: %q", r.Sentence())
			require.Equal(t, Scrub(r.Sentence()), r.Sentence())

			for _, i := range Initiators() {
				said := Goodbye{Reason: r, Initiator: i, Detail: "why; d=not"}
				code, text := said.CloseCode()
				heard, ok := ParseCloseCode(code, text)
				require.True(t, ok)
				require.Equal(t, said, heard)
				require.Equal(t, 4000+int(r), code)
			}
			require.NotContains(t, reserved, r)
		})
	}
}

func TestReservedReasonsAreNotInTheSet(t *testing.T) {
	got := map[Reason]string{}
	last := Reason(0)
	for r, word := range ReservedReasons() {
		got[r] = word
		require.Greater(t, r, last, "ascending")
		last = r
		require.False(t, r.Valid(), word)
		require.False(t, r.Expected(), word)
		require.NotEmpty(t, r.Sentence())
		_, err := ParseReason(word)
		require.Error(t, err)
		_, ok := ParseCloseCode(4000+int(r), "i=3;d=")
		require.False(t, ok, word)
	}
	require.Equal(t, goldenReserved, got)
	for range ReservedReasons() { // stopping early is fine
		break
	}
}

func TestEveryOtherWord(t *testing.T) {
	for i, word := range map[Initiator]string{0: "unknown", 1: "client", 2: "agent", 3: "server", 4: "network", 5: "relay"} {
		require.Equal(t, word, i.String())
		require.True(t, i.Valid())
		require.Contains(t, Initiators(), i)
		parsed, err := ParseInitiator(word)
		require.NoError(t, err)
		require.Equal(t, i, parsed)
	}
	for c, word := range map[ConnectType]string{1: "server_to_agent", 2: "agent_to_client", 3: "client_to_server", 4: "relay_to_server"} {
		require.Equal(t, word, c.String())
		require.True(t, c.Valid())
		require.Contains(t, ConnectTypes(), c)
		parsed, err := ParseConnectType(word)
		require.NoError(t, err)
		require.Equal(t, c, parsed)
	}
	for e, word := range map[Evidence]string{1: "declared", 2: "local", 3: "inferred", 4: "correlated"} {
		require.Equal(t, word, e.String())
		require.True(t, e.Valid())
		require.Contains(t, Evidences(), e)
		require.True(t, e.Confidence().Valid())
		parsed, err := ParseEvidence(word)
		require.NoError(t, err)
		require.Equal(t, e, parsed)
	}
	for c, word := range map[Confidence]string{1: "low", 2: "high", 3: "certain"} {
		require.Equal(t, word, c.String())
		require.True(t, c.Valid())
		require.Contains(t, Confidences(), c)
		parsed, err := ParseConfidence(word)
		require.NoError(t, err)
		require.Equal(t, c, parsed)
	}
	require.Len(t, Initiators(), 6)
	require.Len(t, ConnectTypes(), 4)
	require.Len(t, Evidences(), 4)
	require.Len(t, Confidences(), 3)
}

func TestNumbersOutsideTheSets(t *testing.T) {
	require.Equal(t, "reason(99)", Reason(99).String())
	require.NotEmpty(t, Reason(99).Sentence())
	require.Equal(t, "initiator(99)", Initiator(99).String())
	require.Equal(t, "connect_type(99)", ConnectType(99).String())
	require.Equal(t, "evidence(99)", Evidence(99).String())
	require.Equal(t, "confidence(99)", Confidence(99).String())
	require.False(t, Reason(99).Valid() || Reason(99).Expected() || Initiator(99).Valid() ||
		ConnectType(99).Valid() || ConnectType(0).Valid() || Evidence(99).Valid() || Evidence(0).Valid() ||
		Confidence(99).Valid() || Confidence(0).Valid())
	require.Zero(t, Evidence(0).Confidence())

	for _, word := range []string{"", "unspecified", "Graceful", "reason(99)"} {
		_, err := ParseReason(word)
		require.ErrorContains(t, err, "parse reason: ")
		_, err = ParseInitiator(word)
		require.ErrorContains(t, err, "parse initiator: ")
		_, err = ParseConnectType(word)
		require.ErrorContains(t, err, "parse connect type: ")
		_, err = ParseEvidence(word)
		require.ErrorContains(t, err, "parse evidence: ")
		_, err = ParseConfidence(word)
		require.ErrorContains(t, err, "parse confidence: ")
	}
}
