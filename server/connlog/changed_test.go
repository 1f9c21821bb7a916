package connlog_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// TestChangedTellsTheWholeStory: of a connection that opens, is given up, lives after all
// and ends.
func TestChangedTellsTheWholeStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type word struct {
			status      store.ConnStatus
			revision    int
			provisional bool
		}
		var told []word
		r := newRig(t, func(cfg *connlog.Config) {
			cfg.Changed = func(c store.Connection) {
				if c.ConnectType == disconnect.AgentToClient {
					told = append(told, word{c.Status, c.Revision, c.Provisional})
				}
			}
		})
		agent, id := r.agent(r.ws, "life"), uuid.NewString()
		r.report(agent, opened(id, time.Now()))
		r.report(agent, opened(id, time.Now())) // says nothing new
		r.log.AgentLost(r.ws.ID, time.Now(), disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
		<-time.After(lease + time.Second)
		require.Empty(t, r.announce(agent, connlog.Former{}, id))
		row := r.row(id)
		r.report(agent, ended(id, row.ObservedAt, time.Now(), exited))
		require.Zero(t, r.log.WriteFailures())
		require.Equal(t, []word{
			{status: store.StatusOpen},
			{status: store.StatusClosed, provisional: true},
			{status: store.StatusOpen, revision: 1},
			{status: store.StatusClosed, revision: 1},
		}, told)
	})
}
