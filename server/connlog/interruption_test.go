package connlog_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// interruption is a report of a client that was silent.
func interruption(id string, from, to time.Time, why disconnect.Attribution) connlog.Report {
	return connlog.Report{ID: id, At: to, Interrupted: from, Ending: why}
}

// TestInterruptions: they are kept beside the row, once each and not too many, before
// and after its end, which they have no part in; and they go with it.
func TestInterruptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		agent := r.agent(r.ws, "agent-1")
		other := r.agent(r.addWorkspace("other"), "agent-2")
		<-time.After(2 * time.Hour) // nothing is older than its workspace
		slept := attr(disconnect.Suspended, disconnect.Client, "the client's machine slept for 30s")
		lost := attr(disconnect.NetworkTimeout, disconnect.Network, "nothing was heard from the client for 10s")
		id, now := uuid.NewString(), time.Now()
		r.report(agent, opened(id, now.Add(-time.Hour)))
		first := interruption(id, now.Add(-30*time.Minute), now.Add(-30*time.Minute+30*time.Second), slept)
		r.report(agent, first, first)
		require.Equal(t, store.StatusOpen, r.row(id).Status)
		require.Zero(t, r.timesEnded(id))
		r.report(agent, ended(id, now.Add(-time.Hour), now.Add(-time.Minute), exited))
		r.report(agent, first, interruption(id, now.Add(-10*time.Minute), now.Add(-10*time.Minute+10*time.Second), lost))
		row := r.row(id)
		require.Equal(t, disconnect.ProcessExited, row.Ending.Reason)
		require.Zero(t, row.Revision)
		require.Equal(t, 1, r.timesEnded(id))

		rows := []store.Connection{row, {Key: 1}}
		require.NoError(t, r.db.AddInterruptions(t.Context(), rows))
		require.Empty(t, rows[1].Interruptions)
		require.Len(t, rows[0].Interruptions, 2)
		got := rows[0].Interruptions[0]
		require.Equal(t, slept.On(disconnect.AgentToClient), got.Attribution)
		require.Equal(t, 30*time.Second, got.Duration)
		require.WithinDuration(t, now.Add(-30*time.Minute), got.Began, time.Second)
		require.Equal(t, lost.On(disconnect.AgentToClient), rows[0].Interruptions[1].Attribution)

		refused, err := r.log.Report(t.Context(), other, now, []connlog.Report{first, interruption(uuid.NewString(), now, now, lost)})
		require.NoError(t, err)
		require.ErrorIs(t, refused[0], connlog.ErrNotYours)
		require.ErrorIs(t, refused[1], connlog.ErrNoConnection)

		for i := range 300 {
			from := now.Add(-50*time.Minute + time.Duration(i)*time.Second)
			r.report(agent, interruption(id, from, from.Add(500*time.Millisecond), lost))
		}
		require.NoError(t, r.db.AddInterruptions(t.Context(), rows[:1]))
		require.Len(t, rows[0].Interruptions, 100)

		_, err = r.db.DeleteConnections(context.Background(), now.Add(time.Hour), 10)
		require.NoError(t, err)
		require.NoError(t, r.db.AddInterruptions(t.Context(), rows[:1]))
		require.Empty(t, rows[0].Interruptions)
	})
}
