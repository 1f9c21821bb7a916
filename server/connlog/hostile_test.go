package connlog_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// TestForeignIDs: an agent changes nothing of another workspace, nor of control links, by
// reports or announcements.
func TestForeignIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		victim, mallory := r.agent(r.ws, "victim"), r.agent(r.addWorkspace("evil"), "mallory")
		id, own, control := uuid.NewString(), uuid.NewString(), r.log.LinkOpened(r.link()).ID()
		r.report(victim, opened(id, time.Now()))
		synctest.Wait()
		want := []store.Connection{r.row(id), r.row(control)}
		refused, err := r.log.Report(t.Context(), mallory, time.Now(), []connlog.Report{
			ended(id, time.Now(), time.Now(), exited), opened(own, time.Now()), ended(control, time.Now(), time.Now(), exited), opened(id, time.Now()),
		})
		require.NoError(t, err)
		require.Len(t, refused, 3)
		require.ErrorIs(t, refused[0], connlog.ErrNotYours)
		require.Equal(t, store.StatusOpen, r.row(own).Status, "the others are taken")
		require.Empty(t, r.announce(mallory, connlog.Former{}, id, control, own))
		require.Equal(t, want, []store.Connection{r.row(id), r.row(control)})

		// Neither does it open what is closed for the silence of another agent.
		r.log.AgentLost(r.ws.ID, time.Now(), cut)
		<-time.After(2 * lease)
		require.True(t, r.row(id).Provisional)
		r.announce(mallory, connlog.Former{}, id, own)
		require.True(t, r.row(id).Provisional)
	})
}

// TestUsersWithoutARight: an agent's word connects nobody with its workspace who never had
// a right to it.
func TestUsersWithoutARight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		ctx := t.Context()
		root, guest := r.addUser("root", store.RoleAdmin), r.addUser("guest", store.RoleMember)
		former, never := r.addUser("former", store.RoleMember), r.addUser("never", store.RoleMember)
		require.NoError(t, r.db.Share(ctx, r.ws.ID, guest.ID, time.Now()))
		for range 2 {
			require.NoError(t, r.db.Reached(ctx, r.ws.ID, former.ID))
		}
		require.NoError(t, r.db.Reached(ctx, r.addWorkspace("other").ID, never.ID))
		for name, want := range map[string]string{
			"ada": r.owner.ID, "root": root.ID, "guest": guest.ID, "former": former.ID, "never": "", "nobody": "", "": "", "ADA": "",
		} {
			report := opened(uuid.NewString(), time.Now())
			report.UserName = name
			r.report(r.agent(r.ws, "life"), report)
			require.Equal(t, want, r.row(report.ID).User.ID, name)
		}
		rows, err := r.db.Connections(ctx, store.ConnFilter{For: never.ID, Limit: 10})
		require.NoError(t, err)
		require.Empty(t, rows)
	})
}

// TestImpossibleTimes: whatever an agent's clock says, its rows lie between the making of
// its workspace and now, and not further back than anybody looks.
func TestImpossibleTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		<-time.After(365 * 24 * time.Hour)
		r := newRig(t, nil)
		agent, now := r.agent(r.ws, "life"), time.Now()
		times := []time.Time{{}, time.Unix(0, 0), time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), now, time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
		var bounded []string // by the age of the workspace
		for _, created := range []time.Time{r.ws.CreatedAt, {}} {
			agent.Created = created
			for _, sent := range times {
				var all []connlog.Report
				for _, at := range times {
					for _, begin := range times {
						all = append(all, ended(uuid.NewString(), begin, at, exited))
					}
				}
				if !created.IsZero() {
					for _, report := range all {
						bounded = append(bounded, report.ID)
					}
				}
				_, err := r.log.Report(t.Context(), agent, sent, all)
				require.NoError(t, err)
			}
		}
		rows := r.rows(store.ConnFilter{})
		require.Len(t, rows, 2*6*6*6)
		for _, row := range rows {
			require.False(t, row.ConnectedAt.Before(r.ws.CreatedAt) && slices.Contains(bounded, row.ID), "%v", row)
			require.False(t, row.ConnectedAt.Before(now.Add(-30*24*time.Hour)))
			require.False(t, row.ConnectedAt.After(now))
			require.False(t, row.DisconnectedAt.Before(row.ConnectedAt))
			require.False(t, row.DisconnectedAt.After(now))
		}
		// A clock that is merely wrong does no harm.
		wrong := now.Add(-20 * 365 * 24 * time.Hour)
		report := ended(uuid.NewString(), wrong.Add(-10*time.Minute), wrong.Add(-time.Minute), exited)
		_, err := r.log.Report(t.Context(), agent, wrong, []connlog.Report{report})
		require.NoError(t, err)
		row := r.row(report.ID)
		require.True(t, now.Add(-10*time.Minute).Equal(row.ConnectedAt))
		require.True(t, now.Add(-time.Minute).Equal(row.DisconnectedAt))
		require.True(t, report.Opened.Equal(row.ObservedAt))
	})
}

// TestGapsWithoutEnd: gaps that touch are one, and there are no more than a bound of them;
// what they say stays true.
func TestGapsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		agent := r.agent(r.ws, "life")
		agent.Created = time.Time{}
		gaps := func() []store.Gap {
			all, err := r.db.Gaps(t.Context(), store.GapFilter{Limit: 5000})
			require.NoError(t, err)
			return all
		}
		tell := func(from, to time.Time) {
			_, err := r.log.Announce(t.Context(), agent, connlog.Former{}, connlog.Announcement{SentAt: time.Now(), GapFrom: from, GapTo: to, GapDetail: "power\x1b"})
			require.NoError(t, err)
		}
		began := time.Now()
		for range 3 {
			tell(time.Now().Add(-time.Second), time.Now())
			<-time.After(time.Second)
		}
		require.Len(t, gaps(), 1)
		require.NotContains(t, gaps()[0].Detail, "\x1b")
		require.True(t, began.Add(-time.Second).Equal(gaps()[0].Began))
		require.True(t, began.Add(2*time.Second).Equal(gaps()[0].Ended))
		tell(time.Now(), time.Now().Add(-time.Minute)) // the wrong way round
		tell(time.Time{}, time.Now())
		require.NoError(t, r.db.WriteConnections(t.Context(), false, func(tx *store.ConnTx) error {
			return fill(t.Context(), tx, agent.Workspace, 995)
		}))
		for range 20 {
			<-time.After(24 * time.Hour)
			tell(time.Now().Add(-time.Second), time.Now())
		}
		all := gaps()
		require.Len(t, all, 1000)
		require.True(t, time.Now().Equal(all[0].Ended), "the newest has grown")
	})
}

// fill adds n gaps of a workspace, a minute apart, from now on.
func fill(ctx context.Context, tx *store.ConnTx, ws store.LoggedWorkspace, n int) error {
	for i := range n {
		at := time.Now().Add(time.Duration(i) * time.Minute)
		if err := tx.InsertGap(ctx, store.Gap{ID: uuid.NewString(), Workspace: ws, Began: at, Ended: at}); err != nil {
			return err
		}
	}
	return nil
}

// TestHugeAnnouncement: twenty thousand ids that nobody knows are answered, and change
// nothing.
func TestHugeAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		agent := r.agent(r.ws, "life")
		id := uuid.NewString()
		r.report(agent, opened(id, time.Now()))
		var ids []string
		for i := range 20_000 {
			ids = append(ids, fmt.Sprintf("%08x-0000-4000-8000-000000000000", i))
		}
		require.Len(t, r.announce(agent, connlog.Former{}, append(ids, id)...), 20_000)
		require.Equal(t, store.StatusOpen, r.row(id).Status)
		require.Len(t, r.rows(store.ConnFilter{}), 1)
	})
}
