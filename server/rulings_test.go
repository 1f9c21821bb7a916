package server

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/store"
)

func TestRulings(t *testing.T) {
	clock := newClock()
	r := &rulings{now: clock.Now}
	row := func(reason disconnect.Reason) store.Connection {
		c := store.Connection{ID: uuid.NewString(), Status: store.StatusClosed, Revision: 1}
		c.Workspace.ID = "dev"
		c.Ending = disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: reason, Initiator: disconnect.Client, Detail: "as found"}
		c.Word = c.Ending
		return c
	}
	agreed, open, mayChange, control := row(disconnect.PeerCrashed), row(0), row(disconnect.PeerCrashed), row(disconnect.PeerCrashed)
	agreed.Revision, open.Status, mayChange.Provisional, control.Workspace.ID = 0, store.StatusOpen, true, ""
	for _, c := range []store.Connection{agreed, open, mayChange, control} {
		require.False(t, r.changed(c))
	}
	require.Empty(t, r.of("dev"))

	first, second := row(disconnect.PeerCrashed), row(disconnect.Suspended)
	second.Revision, second.Word.Reason = 0, disconnect.NetworkTimeout
	require.True(t, r.changed(first))
	clock.advance(time.Minute)
	require.True(t, r.changed(second))
	require.Len(t, r.of("dev"), 2)
	require.Empty(t, r.of("other"))
	first.Ending.Reason = disconnect.NetworkTimeout
	require.True(t, r.changed(first), "a later one takes its place")
	told := r.of("dev")
	require.Len(t, told, 2)
	require.Equal(t, first.Ending, wire.ToAttribution(told[1].GetAttribution()))

	clock.advance(rulingsKept + time.Second)
	require.Empty(t, r.of("dev"))
	require.Empty(t, r.all)
	for range maxRulings + 3 {
		require.True(t, r.changed(row(disconnect.Suspended)))
	}
	require.Len(t, r.of("dev"), maxRulings)
}
