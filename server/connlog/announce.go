package connlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

// Announcement is an agent's first word on each of its links.
type Announcement struct {
	SentAt time.Time // the agent's clock now
	// Known are the ids of its open connections, and of those that it has yet to report.
	Known []string
	// Gap is a time, by the agent's clock, of which its record may be incomplete.
	GapFrom, GapTo time.Time
	GapDetail      string
}

// Announce compares what an agent has open with what the log believes. The rows that
// the agent does not know have ended without a record: with its former life, at
// lastSeen, if they are of one. unknown are the ids that the log has no row of.
func (l *Log) Announce(ctx context.Context, agent Agent, lastSeen time.Time, a Announcement) (unknown []string, err error) {
	known := make(map[string]bool, len(a.Known))
	for _, id := range a.Known {
		known[id] = true
	}
	clock := l.clockOf(a.SentAt)
	err = l.write(ctx, func(ctx context.Context, tx *store.ConnTx) (closed []store.Connection, err error) {
		rows, err := tx.Live(ctx, agent.Workspace.ID, disconnect.AgentToClient)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if known[row.ID] {
				row.Status, row.Instance = store.StatusOpen, agent.Instance
			} else {
				closeUnknown(&row, agent, lastSeen, l.cfg.Now())
				closed = append(closed, row)
			}
			if err := tx.Update(ctx, &row); err != nil {
				return nil, err
			}
		}
		if unknown, err = reopen(ctx, tx, agent, a.Known); err != nil {
			return nil, err
		}
		return closed, insertGap(ctx, tx, agent, clock, a)
	})
	return unknown, err
}

// closeUnknown closes a row that its agent has no record of.
func closeUnknown(row *store.Connection, agent Agent, lastSeen, now time.Time) {
	if row.Instance == agent.Instance {
		closeRow(row, now, disconnect.Attribution{
			Reason: disconnect.InternalError, Initiator: disconnect.Agent, Detail: "the agent has no record of this connection",
		})
		return
	}
	if lastSeen.IsZero() {
		lastSeen = now
	}
	closeRow(row, lastSeen, disconnect.Attribution{
		Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent, Detail: "the agent died without a goodbye, and its record with it",
	})
}

// reopen opens what was closed for the agent's silence and lives, and returns the ids
// that have no row. What another life of the agent knows of it has yet to report the
// end of.
func reopen(ctx context.Context, tx *store.ConnTx, agent Agent, ids []string) (unknown []string, err error) {
	for _, id := range ids {
		row, err := tx.ByID(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			unknown = append(unknown, id)
			continue
		case err != nil:
			return nil, err
		case row.Status != store.StatusClosed || !row.Provisional || row.Workspace.ID != agent.Workspace.ID, row.Instance != agent.Instance:
			continue
		}
		row.Status, row.Provisional, row.Instance = store.StatusOpen, false, agent.Instance
		row.Revision++
		if err := tx.Update(ctx, &row); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

func insertGap(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, a Announcement) error {
	if a.GapTo.IsZero() {
		return nil
	}
	return tx.InsertGap(ctx, store.Gap{
		ID: gapID(agent, a), Workspace: agent.Workspace,
		Began: clock.ours(a.GapFrom), Ended: clock.ours(a.GapTo), Detail: disconnect.Scrub(a.GapDetail),
	})
}

// gapID is the same each time that an agent tells of a gap: it does so again when the
// answer was lost.
func gapID(agent Agent, a Announcement) string {
	told := fmt.Sprintf("%s %d %d %s", agent.Workspace.ID, a.GapFrom.UnixNano(), a.GapTo.UnixNano(), a.GapDetail)
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(told)).String()
}
