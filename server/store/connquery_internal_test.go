package store

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

func ptr[T any](v T) *T { return &v }

// singleFilters is each filter by itself, by its name in the API.
var singleFilters = map[string]ConnFilter{
	"user":         {UserName: "user-1"},
	"type":         {Type: ptr(TypeVSCode)},
	"app":          {App: "app-1"},
	"connect_type": {ConnectType: disconnect.ClientToServer},
	"reason":       {Reason: ptr(disconnect.ProcessExited)},
	"initiator":    {Initiator: ptr(disconnect.Network)},
	"expected":     {Expected: ptr(false)},
	"open":         {Status: StatusOpen},
	"unheard":      {Status: StatusUnheard},
	"closed":       {Status: StatusClosed},
	"id":           {IDPrefix: "0123"},
	"nothing":      {},
}

// plans returns how SQLite answers a query.
func plans(t *testing.T, s *Store, f ConnFilter, r connRange) (lines []string) {
	t.Helper()
	f.Limit = 100
	query, args := s.connQuery(f, r)
	rows, err := s.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var line string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &line))
		lines = append(lines, line)
	}
	require.NoError(t, rows.Err())
	return lines
}

// TestPagesAreRanges: a page of any one filter, of a workspace and any other, and of a
// user's own connections is a range of one index: nothing is sorted, and no more of the
// log is read than its page, whatever lies in it.
func TestPagesAreRanges(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	defer s.Close()
	times := map[string]func(*ConnFilter){
		"":           func(*ConnFilter) {},
		"since":      func(f *ConnFilter) { f.Since = time.Now() },
		"until":      func(f *ConnFilter) { f.Until = time.Now() },
		"next page":  func(f *ConnFilter) { f.Before = 1 << 40 },
		"both sides": func(f *ConnFilter) { f.Since, f.Until = time.Now(), time.Now() },
		"upwards":    func(f *ConnFilter) { f.Ascending, f.After = true, 1<<40 },
	}
	for rangeName, r := range map[string]connRange{"all": {}, "workspace": {workspace: 1}, "mine": {user: 1}} {
		for name, f := range singleFilters {
			for when, change := range times {
				f := f
				change(&f)
				t.Run(strings.TrimSpace(rangeName+" "+name+" "+when), func(t *testing.T) {
					lines := plans(t, s, f, r)
					if name == "id" { // few rows, by their ids; they are sorted
						require.Contains(t, lines[0], "USING INTEGER PRIMARY KEY (rowid=?)", "%q", lines)
						return
					}
					all := strings.Join(lines, "; ")
					require.NotContains(t, all, "TEMP B-TREE")
					whole := r == (connRange{}) && (name == "nothing" || name == "closed")
					if whole && when == "" { // nearly every row is on the page
						require.Equal(t, "SCAN c", lines[0])
						return
					}
					require.Contains(t, lines[0], "SEARCH c USING", "%q", lines)
					if name == "nothing" || name == "closed" || r.user != 0 {
						return
					}
					column := map[string]string{"open": "live", "unheard": "live", "user": "user_no"}
					require.Contains(t, lines[0], cmp.Or(column[name], name)+"=?", "%q", lines)
					if r.workspace != 0 {
						require.Contains(t, lines[0], "(workspace=? AND ", "%q", lines)
					}
				})
			}
		}
	}
}

// TestLiveRowsAreFew: those of a user are looked for among the rows that live, which are few
// however long the log is.
func TestLiveRowsAreFew(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	defer s.Close()
	for name, r := range map[string]connRange{"_": {}, "_workspace_": {workspace: 1}} {
		for _, who := range []ConnFilter{{UserName: "ada"}, {}} {
			r.user = 0
			if who.UserName == "" {
				r.user = 1
			}
			who.Status = StatusOpen
			require.Contains(t, plans(t, s, who, r)[0], "connections_by"+name+"live")
		}
	}
}

// TestFiltersAgree: what the database chooses is what [ConnFilter.Match] chooses, page by
// page, for everybody.
func TestFiltersAgree(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	defer s.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	begin := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	users := make([]LoggedUser, 4)
	for i := range users {
		users[i] = LoggedUser{ID: uuid.NewString(), Name: fmt.Sprintf("user-%d", i)}
	}
	var all []Connection
	require.NoError(t, s.WriteConnections(t.Context(), false, func(tx *ConnTx) error {
		for i := range 600 {
			c := randomConnection(rng, users, begin.Add(time.Duration(i/3)*time.Second))
			if err := tx.Insert(t.Context(), &c); err != nil {
				return err
			}
			all = append(all, c)
		}
		return nil
	}))
	slices.SortFunc(all, func(a, b Connection) int { return cmp.Compare(b.Key, a.Key) })
	filters := []ConnFilter{
		{WorkspaceName: "ws-1"}, {WorkspaceName: "ws-1", OwnerName: "user-2"}, {WorkspaceName: "nothing"},
		{Since: begin.Add(50 * time.Second)}, {Until: begin.Add(50 * time.Second), Expected: ptr(true)}, {UserName: "nobody"},
		{IDPrefix: all[5].ID[:4]}, {Reason: ptr(disconnect.ProcessExited), UserName: "user-1", Status: StatusClosed},
	}
	for _, f := range singleFilters {
		with := f
		with.WorkspaceName = "ws-2"
		filters = append(filters, f, with)
	}
	for _, f := range filters {
		for _, who := range []string{"", users[0].ID, users[3].ID, uuid.NewString()} {
			f.For = who
			var want []string
			for _, c := range all {
				if f.Match(c) {
					want = append(want, c.ID)
				}
			}
			require.Equal(t, want, pages(t, s, f), "%+v", f)
			slices.Reverse(want)
			f.Ascending = true
			require.Equal(t, want, pages(t, s, f), "%+v", f)
			f.Ascending = false
			requireLastEnded(t, s, f, all)
		}
	}
}

// requireLastEnded: in the order of endings the first rows are those that ended last.
func requireLastEnded(t *testing.T, s *Store, f ConnFilter, all []Connection) {
	t.Helper()
	f.LastEnded, f.Limit = true, 7
	var ended []Connection
	for _, c := range all {
		if f.Match(c) {
			ended = append(ended, c)
		}
	}
	slices.SortStableFunc(ended, func(a, b Connection) int { return b.DisconnectedAt.Compare(a.DisconnectedAt) })
	rows, err := s.Connections(t.Context(), f)
	require.NoError(t, err)
	require.Len(t, rows, min(7, len(ended)))
	for i, row := range rows {
		require.Equal(t, ended[i].DisconnectedAt.UnixMicro(), row.DisconnectedAt.UnixMicro(), "%+v", f)
	}
}

// pages reads everything that f chooses, seven rows at a time.
func pages(t *testing.T, s *Store, f ConnFilter) (ids []string) {
	t.Helper()
	f.Limit = 7
	for {
		rows, err := s.Connections(context.Background(), f)
		require.NoError(t, err)
		for _, c := range rows {
			ids = append(ids, c.ID)
		}
		if len(rows) < f.Limit {
			return ids
		}
		if last := rows[len(rows)-1].Key; f.Ascending {
			f.After = last
		} else {
			f.Before = last
		}
	}
}

func randomConnection(rng *rand.Rand, users []LoggedUser, at time.Time) Connection {
	c := Connection{
		ID: uuid.NewString(), ConnectType: disconnect.AgentToClient, Type: ConnType(1 + rng.IntN(5)), App: fmt.Sprintf("app-%d", rng.IntN(3)),
		User: users[rng.IntN(len(users))], ConnectedAt: at, Status: StatusOpen,
	}
	if rng.IntN(6) == 0 {
		c.ConnectType, c.Type, c.App = disconnect.ClientToServer, TypeControl, ""
	} else {
		n := rng.IntN(5)
		owner := users[n%len(users)]
		c.Workspace = LoggedWorkspace{ID: fmt.Sprintf("%d", n), Name: fmt.Sprintf("ws-%d", n%3), Owner: owner}
	}
	switch rng.IntN(4) {
	case 0:
		c.Status = StatusUnheard
	case 1:
	default:
		c.Status, c.DisconnectedAt = StatusClosed, at.Add(time.Second)
		reasons := []disconnect.Reason{disconnect.Graceful, disconnect.ProcessExited, disconnect.NetworkTimeout}
		c.Ending = disconnect.Attribution{ConnectType: c.ConnectType, Reason: reasons[rng.IntN(3)], Initiator: disconnect.Network}
	}
	return c
}
