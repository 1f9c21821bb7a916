package connlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
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

// Former is how the control link of a workspace's agent that came before this one ended.
// The zero value says that there was none.
type Former struct {
	Instance string // the life of the agent's process
	At       time.Time
	Ending   disconnect.Attribution
}

// Announce compares what an agent has open with what the log believes. The rows that
// the agent does not know have ended without a record: with its former life, when that
// was last heard, if they are of one. unknown are the ids that the log has no row of.
func (l *Log) Announce(ctx context.Context, agent Agent, former Former, a Announcement) (unknown []string, err error) {
	silence := l.silenceOf(agent.Workspace.ID)
	clock := l.clockOf(agent, a.SentAt)
	found, err := l.cfg.Store.Announced(ctx, a.Known)
	if err != nil {
		return nil, err
	}
	known, mine := make(map[string]bool, len(a.Known)), []string(nil) // mine may have to be opened again
	for _, id := range a.Known {
		row, ok := found[id]
		switch {
		case known[id]:
		case !ok:
			unknown = append(unknown, id)
		case (row.Live || row.Provisional) && row.WorkspaceID == agent.Workspace.ID:
			mine = append(mine, id)
		}
		known[id] = true
	}
	err = l.write(ctx, func(ctx context.Context, tx *store.ConnTx) ([]store.Connection, error) {
		changed, live, err := settle(ctx, tx, agent, former, known, l.cfg.Now())
		if err != nil {
			return nil, err
		}
		opened, err := reopen(ctx, tx, agent, mine, live)
		if err != nil {
			return nil, err
		}
		return append(changed, opened...), insertGap(ctx, tx, agent, clock, a)
	})
	if err != nil {
		return nil, err
	}
	l.heard(agent.Workspace.ID, silence)
	return unknown, nil
}

// settle decides what the agent's rows are that are not closed: what it knows is open,
// the rest has ended. It returns the rows that it closed, and the ids that live.
func settle(ctx context.Context, tx *store.ConnTx, agent Agent, former Former, known map[string]bool, now time.Time) (closed []store.Connection, live map[string]bool, err error) {
	rows, err := tx.Live(ctx, agent.Workspace.ID, disconnect.AgentToClient)
	if err != nil {
		return nil, nil, err
	}
	live = make(map[string]bool, len(rows))
	for _, row := range rows {
		live[row.ID] = known[row.ID]
		switch {
		case !known[row.ID]:
			if err := closeUnknown(ctx, tx, &row, agent, former, now); err != nil {
				return nil, nil, err
			}
			closed = append(closed, row)
			continue
		case row.Status == store.StatusOpen && row.Instance == agent.Instance:
			continue
		default:
			row.Status, row.Instance = store.StatusOpen, agent.Instance
		}
		if err := tx.Update(ctx, &row); err != nil {
			return nil, nil, err
		}
	}
	return closed, live, nil
}

// closeUnknown closes a row that its agent has no record of.
func closeUnknown(ctx context.Context, tx *store.ConnTx, row *store.Connection, agent Agent, former Former, now time.Time) error {
	at, ending := now, disconnect.Attribution{
		Reason: disconnect.InternalError, Initiator: disconnect.Agent, Detail: "the agent has no record of this connection",
	}
	evidence, facts := disconnect.EvidenceInferred, []verdict.Fact(nil)
	if row.Instance != agent.Instance {
		ending = disconnect.Attribution{
			Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent, Detail: "the agent died without a goodbye, and its record with it",
		}
		if former.Instance == row.Instance && declared(former.Ending) {
			ending, evidence = former.Ending, disconnect.EvidenceDeclared
		}
		if !former.At.IsZero() && former.At.Before(now) {
			at = former.At
		}
		facts = append(facts, verdict.Fact{
			Kind: verdict.NewInstance, About: disconnect.Agent, Leg: disconnect.ServerToAgent, Instance: agent.Instance, At: verdict.Moment{Wall: now},
		})
	}
	closeRow(row, at, ending)
	if err := tx.Update(ctx, row); err != nil {
		return err
	}
	return testify(ctx, tx, row, byServer("announced "+agent.Instance, row.Word, at, evidence, facts...), now)
}

// reopen opens what was closed for the agent's silence, perhaps just now, and lives. What
// another life of the agent knows of it has yet to report the end of.
func reopen(ctx context.Context, tx *store.ConnTx, agent Agent, ids []string, live map[string]bool) (opened []store.Connection, err error) {
	for _, id := range ids {
		if live[id] {
			continue
		}
		row, err := tx.ByID(ctx, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && (!row.Provisional || row.Instance != agent.Instance) {
			continue
		}
		if err != nil {
			return nil, err
		}
		row.Status, row.Provisional, row.Instance = store.StatusOpen, false, agent.Instance
		row.Revision++
		if err := tx.Update(ctx, &row); err != nil {
			return nil, err
		}
		opened = append(opened, row)
	}
	return opened, nil
}

func insertGap(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, a Announcement) error {
	if a.GapTo.IsZero() {
		return nil
	}
	ended := clock.ours(a.GapTo)
	began := clock.ours(a.GapFrom)
	if a.GapFrom.IsZero() || began.After(ended) {
		began = ended
	}
	return tx.InsertGap(ctx, store.Gap{
		ID: gapID(agent, a), Workspace: agent.Workspace, Began: began, Ended: ended, Detail: disconnect.Scrub(a.GapDetail),
	})
}

// gapID is the same each time that an agent tells of a gap: it does so again when the
// answer was lost.
func gapID(agent Agent, a Announcement) string {
	told := fmt.Sprintf("%s %d %d %s", agent.Workspace.ID, a.GapFrom.UnixNano(), a.GapTo.UnixNano(), a.GapDetail)
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(told)).String()
}
