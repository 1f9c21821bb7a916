package companion

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// witness is what w testifies of an end that is noticed now.
func witness(w *Watch) (t verdict.Testimony, kinds map[verdict.FactKind]verdict.Fact) {
	w.Testify(&t, verdict.Moment{Mono: math.MaxInt64 / 2000})
	kinds = map[verdict.FactKind]verdict.Fact{}
	for _, f := range t.Facts {
		kinds[f.Kind] = f
	}
	return t, kinds
}

func apart(a, b verdict.Moment) time.Duration {
	return time.Duration(b.Mono-a.Mono) * time.Microsecond
}

func TestWitnessOfAGoodbye(t *testing.T) {
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		elapse(time.Minute)
		_, kinds := witness(w)
		require.Empty(t, kinds)
		h.Close(t.Context(), stopping)
		<-w.Done()
		elapse(time.Minute)
		said, kinds := witness(w)
		got := kinds[verdict.GoodbyeReceived]
		require.Equal(t, disconnect.Agent, got.About)
		require.Equal(t, stopping.On(disconnect.AgentToClient), got.Cause)
		require.NotContains(t, kinds, verdict.HeartbeatSilence, "what comes after the end is no silence")
		require.Less(t, apart(said.LastGood, said.FirstNoticed), time.Minute)
		require.WithinDuration(t, time.Now().Add(-time.Minute), got.At.Wall, 2*time.Second)
	})
}

func TestWitnessOfASilence(t *testing.T) {
	session(t, func(t *testing.T, n *network, _ *testHost, w *Watch) {
		elapse(time.Second)
		n.hole.Store(true)
		elapse(20 * time.Second)
		said, kinds := witness(w)
		require.Equal(t, disconnect.Agent, kinds[verdict.HeartbeatSilence].About)
		require.Equal(t, said.LastGood, kinds[verdict.HeartbeatSilence].At)
		require.True(t, kinds[verdict.HeartbeatSilence].Until.IsZero())
		require.WithinDuration(t, time.Now().Add(-20*time.Second), said.LastGood.Wall, 3*time.Second)
		require.Equal(t, 2*w.config.Heartbeat, apart(said.LastGood, said.FirstNoticed))
	})
}

func TestWitnessOfWhoSpokeLast(t *testing.T) {
	session(t, func(t *testing.T, _ *network, _ *testHost, w *Watch) {
		left := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "~."}
		w.Goodbye(t.Context(), left)
		_, kinds := witness(w)
		require.Equal(t, left.On(disconnect.AgentToClient), kinds[verdict.GoodbyeSent].Cause)
		require.NotContains(t, kinds, verdict.GoodbyeReceived)
	})
	session(t, func(t *testing.T, _ *network, _ *testHost, w *Watch) {
		revoked := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.AuthRevoked, Initiator: disconnect.Server}
		require.True(t, w.End(revoked))
		_, kinds := witness(w)
		require.Equal(t, revoked, kinds[verdict.GoodbyeReceived].Cause)
		require.Equal(t, disconnect.Server, kinds[verdict.GoodbyeReceived].About)
	})
}
