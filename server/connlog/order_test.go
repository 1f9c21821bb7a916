package connlog_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// endings are what the agents of the property tests say.
var endings = []disconnect.Attribution{
	attr(disconnect.Graceful, disconnect.Client, ""),
	exited,
	attr(disconnect.NetworkTimeout, disconnect.Network, "silent for 1m0s"),
	attr(disconnect.ServerShutdown, disconnect.Agent, "the agent is stopping"),
}

// story is what happened to a few connections, as reports: a beginning, and mostly an
// end, of each.
func story(rng *rand.Rand, at time.Time, ids []string) (reports []connlog.Report) {
	for _, id := range ids {
		begin := opened(id, at.Add(-time.Duration(rng.IntN(1000))*time.Second))
		if rng.IntN(4) == 0 {
			begin.IP, begin.Path = "", store.PathUnknown
		}
		reports = append(reports, begin)
		if rng.IntN(5) == 0 {
			continue // it lives
		}
		end := ended(id, begin.At, begin.At.Add(time.Duration(rng.IntN(300))*time.Second), endings[rng.IntN(len(endings))])
		if end.Path, end.IP = store.PathDirect, begin.IP; rng.IntN(2) == 0 {
			end.Path = store.PathUnknown // the connection was over when somebody asked
		}
		if end.Ending == exited {
			code := rng.IntN(200)
			end.ExitCode = &code
		}
		reports = append(reports, end)
	}
	return reports
}

// disturbed is the same reports in another order, some of them more than once, in
// batches.
func disturbed(rng *rand.Rand, reports []connlog.Report) (batches [][]connlog.Report) {
	all := slices.Clone(reports)
	for _, r := range reports {
		for range rng.IntN(3) {
			all = append(all, r)
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for len(all) > 0 {
		n := 1 + rng.IntN(len(all))
		batches, all = append(batches, all[:n]), all[n:]
	}
	return batches
}

// comparable is rows without what belongs to one telling of the story.
func comparableRows(rows []store.Connection) map[string]store.Connection {
	m := make(map[string]store.Connection)
	for _, c := range rows {
		c.Key, c.Workspace, c.User = 0, store.LoggedWorkspace{}, store.LoggedUser{Name: c.User.Name}
		m[c.ID] = c
	}
	return m
}

// TestAnyOrderGivesTheSameRows: the log of a story does not depend on the order, the
// number and the batches in which its reports come.
func TestAnyOrderGivesTheSameRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		straight, other := newRig(t, nil), newRig(t, nil)
		for seed := range uint64(25) {
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 4))
			var ids []string
			for range 1 + rng.IntN(12) {
				ids = append(ids, uuid.NewString())
			}
			reports := story(rng, time.Now(), ids)
			straight.report(straight.agent(straight.ws, "life"), reports...)
			for _, batch := range disturbed(rng, reports) {
				other.report(other.agent(other.ws, "life"), batch...)
			}
			want := comparableRows(straight.rows(store.ConnFilter{}))
			require.Equal(t, want, comparableRows(other.rows(store.ConnFilter{})))
			for _, id := range ids {
				require.Zero(t, want[id].Revision)
				require.Equal(t, straight.timesEnded(id), other.timesEnded(id))
				require.LessOrEqual(t, other.timesEnded(id), 1)
			}
		}
	})
}

// TestFinalEndingsStay: whatever else happens to server and agent, the agent's own word
// of an end is what stays, and nothing that has ended lacks an ending.
func TestFinalEndingsStay(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 5))
				r := newRig(t, nil)
				agent := r.agent(r.ws, "life")
				var ids []string
				for range 6 {
					ids = append(ids, uuid.NewString())
				}
				reports := story(rng, time.Now(), ids)
				final := map[string]disconnect.Attribution{}
				check := func() {
					t.Helper()
					for id, want := range final {
						require.Equal(t, want, r.row(id).Ending)
						require.False(t, r.row(id).Provisional)
						require.LessOrEqual(t, r.timesEnded(id), 1)
					}
				}
				for _, batch := range disturbed(rng, reports) {
					switch rng.IntN(5) {
					case 0:
						r.restart()
					case 1:
						r.log.AgentLost(r.ws.ID, time.Now(), cut)
						<-time.After(time.Duration(rng.IntN(2)) * 2 * lease)
					case 2:
						r.announce(agent, connlog.Former{}, ids...) // it has yet to report them
					}
					r.report(agent, batch...)
					for _, report := range batch {
						if report.Ended {
							final[report.ID] = report.Ending
						}
					}
					check()
				}
				r.log.AgentLost(r.ws.ID, time.Now(), cut)
				<-time.After(2 * lease)
				check()
				for _, row := range r.rows(store.ConnFilter{}) {
					require.Equal(t, store.StatusClosed, row.Status)
					require.Equal(t, !slices.Contains(slices.Collect(maps.Keys(final)), row.ID), row.Provisional)
					require.NotEqual(t, disconnect.Unknown, row.Ending.Reason)
				}
			})
		})
	}
}
