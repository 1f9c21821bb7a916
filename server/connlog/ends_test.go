package connlog_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// TestEndConnections: the server's word of an end gives way to the agent's, unless that
// tells only what followed from it, or the server's is final.
func TestEndConnections(t *testing.T) {
	db, err := store.Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	closed := make(map[string]int)
	log, err := connlog.New(t.Context(), connlog.Config{Store: db, Instance: "server", Ended: func(c store.Connection) { closed[c.ID]++ }})
	require.NoError(t, err)
	t.Cleanup(log.Close)
	agent := connlog.Agent{Workspace: store.LoggedWorkspace{ID: uuid.NewString(), Name: "dev", Owner: store.LoggedUser{ID: uuid.NewString(), Name: "ada"}}, Instance: "one"}
	heir := agent
	heir.Instance = "two"
	report := func(from connlog.Agent, r connlog.Report) {
		t.Helper()
		r.At, r.Type = time.Now(), store.TypeSSH
		refused, err := log.Report(t.Context(), from, time.Now(), []connlog.Report{r})
		require.NoError(t, err)
		require.Empty(t, refused)
	}
	row := func(id string) store.Connection {
		t.Helper()
		rows, err := db.Connections(t.Context(), store.ConnFilter{IDPrefix: id, Limit: 1})
		require.NoError(t, err)
		require.Len(t, rows, 1)
		return rows[0]
	}
	word := func(r disconnect.Reason) disconnect.Attribution {
		return disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: r, Initiator: disconnect.Server, Detail: "the server's word"}
	}
	said := func(r disconnect.Reason) disconnect.Attribution {
		return disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: r, Initiator: disconnect.Agent, Detail: "the agent's word"}
	}
	for name, c := range map[string]struct {
		word, said  disconnect.Reason
		provisional bool
		want        disconnect.Attribution
	}{
		"what followed":        {disconnect.WorkspaceEvicted, disconnect.PeerCrashed, true, word(disconnect.WorkspaceEvicted)},
		"the stop that it was": {disconnect.AuthRevoked, disconnect.ServerShutdown, true, word(disconnect.AuthRevoked)},
		"what came before":     {disconnect.WorkspaceEvicted, disconnect.ProcessExited, true, said(disconnect.ProcessExited)},
		"a final word":         {disconnect.DuplicateAgent, disconnect.ProcessExited, false, word(disconnect.DuplicateAgent)},
	} {
		id := uuid.NewString()
		report(agent, connlog.Report{ID: id})
		require.NoError(t, log.EndConnections(t.Context(), agent.Workspace.ID, "another life", word(c.word), c.provisional))
		require.Equal(t, store.StatusOpen, row(id).Status, "%s: not of that life", name)
		require.NoError(t, log.EndConnections(t.Context(), agent.Workspace.ID, agent.Instance, word(c.word), c.provisional))
		require.Equal(t, word(c.word), row(id).Ending, name)
		require.Equal(t, c.provisional, row(id).Provisional, name)
		_, err := log.Announce(t.Context(), heir, connlog.Former{}, connlog.Announcement{SentAt: time.Now(), Known: []string{id}})
		require.NoError(t, err)
		require.Equal(t, store.StatusClosed, row(id).Status, "%s: what the next life knows is not open", name)
		report(heir, connlog.Report{ID: id, Ended: true, Ending: said(c.said), BytesSent: 7})
		require.Equal(t, c.want, row(id).Ending, name)
		require.False(t, row(id).Provisional, name)
		require.Equal(t, c.provisional, row(id).BytesSent == 7, name)
		require.Equal(t, 1, closed[id], name)
	}
}
