package connlog_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

// TestRowsByTheirVerdict: rows are chosen by what their verdict says, in the database and in
// what is followed alike.
func TestRowsByTheirVerdict(t *testing.T) {
	r := newRig(t, nil)
	died, told, began := uuid.NewString(), uuid.NewString(), time.Now().Add(-time.Minute)
	end := ended(died, began, began.Add(time.Second), attr(disconnect.PeerCrashed, disconnect.Agent, "the agent died"))
	end.Testimony = testimony("obituary", verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: began}})
	r.report(r.agent(r.ws, "life"), opened(uuid.NewString(), began), end, ended(told, began, began, attr(disconnect.ServerShutdown, disconnect.Agent, "stopping")))
	obituary := verdict.R3
	for _, f := range []store.ConnFilter{{Locus: "agent"}, {Rule: &obituary}, {Confidence: disconnect.ConfidenceHigh}} {
		rows := r.rows(f)
		require.Len(t, rows, 1)
		require.Equal(t, died, rows[0].ID)
		for _, row := range r.rows(store.ConnFilter{}) {
			require.Equal(t, row.ID == died, f.Match(row))
		}
	}
}
