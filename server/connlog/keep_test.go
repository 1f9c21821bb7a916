package connlog_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// TestRetention: what ended is deleted by its age, gaps and names too; what is open stays.
func TestRetention(t *testing.T) {
	const day = 24 * time.Hour
	for name, retention := range map[string]time.Duration{"ten days": 10 * day, "for ever": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *connlog.Config) { c.Retention = retention })
				old, dev := r.agent(r.addWorkspace("old"), "old"), r.agent(r.ws, "life")
				guest := r.addUser("guest", store.RoleMember)
				require.NoError(t, r.db.Share(t.Context(), old.Workspace.ID, guest.ID, time.Now()))
				var many []connlog.Report
				for range 1300 { // more than two batches
					report := ended(uuid.NewString(), time.Now(), time.Now(), exited)
					report.UserName = "guest"
					many = append(many, report)
				}
				r.report(old, many...)
				_, err := r.log.Announce(t.Context(), old, connlog.Former{}, connlog.Announcement{SentAt: time.Now(), GapFrom: time.Now(), GapTo: time.Now()})
				require.NoError(t, err)
				open, young := uuid.NewString(), uuid.NewString()
				r.report(dev, opened(open, time.Now()))
				<-time.After(2 * day)
				r.report(dev, ended(young, time.Now(), time.Now(), exited))
				<-time.After(8*day - time.Hour)
				require.Len(t, r.rows(store.ConnFilter{}), 1302)
				<-time.After(3 * time.Hour)
				gaps, err := r.db.Gaps(t.Context(), store.GapFilter{Limit: 10})
				require.NoError(t, err)
				if retention == 0 {
					require.Len(t, r.rows(store.ConnFilter{}), 1302)
					require.Len(t, gaps, 1)
					return
				}
				require.Len(t, r.rows(store.ConnFilter{}), 2)
				require.Equal(t, store.StatusOpen, r.row(open).Status)
				require.Equal(t, "ada", r.row(young).User.Name)
				require.Empty(t, gaps)
				var names []string
				require.NoError(t, r.query(&names, `SELECT name FROM logged_workspaces UNION ALL SELECT name FROM logged_users ORDER BY name`))
				require.Equal(t, []string{"ada", "dev"}, names)
				r.report(old, opened(uuid.NewString(), time.Now())) // a name that was forgotten is learnt again
			})
		})
	}
}

// TestFeed: a feed has what opens, closes and gets a better ending, in order, and ends in
// words when the log closes.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		agent, id := r.agent(r.ws, "life"), uuid.NewString()
		feed, gone := r.log.Follow(), r.log.Follow()
		gone.Close()
		r.report(agent, opened(id, time.Now()))
		r.report(agent, opened(id, time.Now())) // it came before
		r.log.AgentLost(r.ws.ID, time.Now(), cut)
		<-time.After(2 * lease)
		r.announce(agent, connlog.Former{}, id)
		r.report(agent, ended(id, time.Now(), time.Now(), exited))
		var got []store.ConnStatus
		for len(got) < 4 {
			<-feed.Ready()
			rows, err := feed.Next()
			require.NoError(t, err)
			for _, row := range rows {
				require.Equal(t, id, row.ID)
				got = append(got, row.Status)
			}
		}
		require.Equal(t, []store.ConnStatus{store.StatusOpen, store.StatusClosed, store.StatusOpen, store.StatusClosed}, got)
		rows, err := feed.Next()
		require.NoError(t, err)
		require.Empty(t, rows)

		feed.Close()
		last := r.log.Follow()
		r.log.Close()
		<-last.Ready()
		_, err = last.Next()
		require.ErrorIs(t, err, connlog.ErrClosed)
		_, err = r.log.Follow().Next()
		require.ErrorIs(t, err, connlog.ErrClosed)
	})
}
