package connlog_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

var left = disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "bye"}

// said counts the lines of the log's own that have a message.
func (r *rig) said(message string) (n int) {
	for _, rec := range r.logged.Records() {
		if strings.HasPrefix(rec.Message, message) {
			n++
		}
	}
	return n
}

// TestLinksThatCannotBeWritten: rows of control links wait until the database can take
// them, which is said once, and nothing of them is missing then.
func TestLinksThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		before := r.log.LinkOpened(r.link())
		synctest.Wait()
		mend := r.breakDatabase()
		before.Ended(time.Now(), left) // a row that is there can still change
		var rows []*connlog.LinkRow
		for range 700 { // more than one transaction of them
			rows = append(rows, r.log.LinkOpened(r.link()))
		}
		<-time.After(time.Minute)
		for _, row := range rows[1:] {
			row.Ended(time.Now(), left)
		}
		<-time.After(time.Minute)
		waiting, dropped := r.log.Waiting()
		require.GreaterOrEqual(t, waiting, 700)
		require.Positive(t, r.log.WriteFailures())
		require.Zero(t, dropped)
		require.Equal(t, 1, r.said("cannot record control links now"))

		id := uuid.NewString()
		_, err := r.log.Report(t.Context(), r.agent(r.ws, "life"), time.Now(), []connlog.Report{opened(id, time.Now())})
		require.ErrorContains(t, err, "no space", "the agent must keep it")
		r.announce(r.agent(r.ws, "life"), connlog.Former{}) // what needs no new row goes on

		mend()
		<-time.After(10 * time.Second)
		waiting, _ = r.log.Waiting()
		require.Zero(t, waiting)
		require.Equal(t, 1, r.said("control links are recorded again"))
		for i, row := range append(rows, before) {
			got := r.row(row.ID())
			if i == 0 {
				require.Equal(t, store.StatusOpen, got.Status)
				continue
			}
			require.Equal(t, left, got.Ending)
			require.Equal(t, 1, r.timesEnded(row.ID()))
		}
		r.report(r.agent(r.ws, "life"), opened(id, time.Now()))
	})
}

// TestTooManyLinksThatCannotBeWritten: what waits is bounded, ends go before beginnings,
// and what is lost is counted.
func TestTooManyLinksThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		mend := r.breakDatabase()
		var rows []*connlog.LinkRow
		for range 10_050 {
			rows = append(rows, r.log.LinkOpened(r.link()))
		}
		waiting, dropped := r.log.Waiting()
		require.Equal(t, 5_000, waiting)
		require.Zero(t, dropped)
		for _, row := range rows {
			row.Ended(time.Now(), left)
		}
		waiting, dropped = r.log.Waiting()
		require.Equal(t, 10_000, waiting)
		require.EqualValues(t, 50, dropped)
		require.Equal(t, 1, r.said("control links are missing"))
		r.log.Close() // tries once more
		require.Equal(t, 2, r.said("control links are missing"))
		mend()
	})
}

// TestCloseTellsWhatIsLost: a database that takes nothing to the end loses rows, and the
// log says so.
func TestCloseTellsWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		mend := r.breakDatabase()
		r.log.LinkOpened(r.link()).Ended(time.Now(), left)
		r.log.Close()
		require.Equal(t, 1, r.said("control links are missing"))
		mend()
		_, err := r.log.Report(t.Context(), r.agent(r.ws, "life"), time.Now(), nil)
		require.ErrorContains(t, err, "closed")
	})
}
