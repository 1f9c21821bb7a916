package connlog

import (
	"context"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

// EndConnections closes what is open of a workspace's agent with the server's own word:
// the server has ended it, or knows why it ended. Only that life of the agent is meant,
// all of them when instance is empty. A provisional end may be replaced by the agent's,
// unless that only tells what followed from it.
func (l *Log) EndConnections(ctx context.Context, workspaceID, instance string, ending disconnect.Attribution, provisional bool) error {
	return l.write(ctx, func(ctx context.Context, tx *store.ConnTx) (closed []store.Connection, err error) {
		rows, err := tx.Live(ctx, workspaceID, disconnect.AgentToClient)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if instance != "" && row.Instance != instance {
				continue
			}
			closeRow(&row, l.cfg.Now(), ending)
			row.Provisional = provisional
			if err := tx.Update(ctx, &row); err != nil {
				return nil, err
			}
			word := byServer("ended_by_server", row.Word, row.DisconnectedAt, disconnect.EvidenceLocal)
			if err := testify(ctx, tx, &row, word, l.cfg.Now()); err != nil {
				return nil, err
			}
			closed = append(closed, row)
		}
		return closed, nil
	})
}

// follows reports whether what an agent says of an end is only what followed from the
// server's word of it: that its process then went, or lost its network.
func follows(word, said disconnect.Reason) bool {
	switch word {
	case disconnect.WorkspaceEvicted, disconnect.WorkspaceStopped, disconnect.AuthRevoked:
	default:
		return false
	}
	switch said {
	case disconnect.PeerCrashed, disconnect.ServerShutdown, disconnect.NetworkError, disconnect.NetworkTimeout, disconnect.ConnectionReset:
		return true
	}
	return false
}
