package connlog

import (
	"context"
	"errors"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

// Agent is whose connections a report is about.
type Agent struct {
	Workspace store.LoggedWorkspace
	Instance  string // the life of its process
}

// Report is one word of an agent about one of its connections: that it began, or that
// it ended. Times are by the agent's clock.
type Report struct {
	ID     string // UUID, minted by the agent
	Ended  bool
	At     time.Time
	Opened time.Time // when the connection began

	Type          store.ConnType
	App           string
	UserName      string // the principal; empty when it is not known
	IP            string
	ClientVersion string
	Path          store.ConnPath

	// What follows counts in the word of an end.
	Ending                   disconnect.Attribution
	ExitCode                 *int
	BytesSent, BytesReceived int64
}

// ErrNotYours refuses a report about a connection of another workspace.
var ErrNotYours = errors.New("this connection id belongs to another workspace")

// Report stores what an agent reports, in order; sentAt is its clock now. A report that
// came before changes nothing. refused tells, by index, which reports are against the
// rules; all the others are on disk when Report returns without an error.
func (l *Log) Report(ctx context.Context, agent Agent, sentAt time.Time, reports []Report) (refused map[int]error, err error) {
	clock := l.clockOf(sentAt)
	err = l.write(ctx, func(ctx context.Context, tx *store.ConnTx) (closed []store.Connection, err error) {
		no := make(map[int]error)
		for i, r := range reports {
			row, ended, err := applyReport(ctx, tx, agent, clock, r)
			switch {
			case errors.Is(err, ErrNotYours):
				no[i] = err
			case err != nil:
				return nil, err
			case ended:
				closed = append(closed, row)
			}
		}
		refused = no
		return closed, nil
	})
	if err != nil {
		return nil, err
	}
	return refused, nil
}

// applyReport makes one report part of the log, and tells whether it closed the row for the
// first time.
func applyReport(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, r Report) (row store.Connection, ended bool, err error) {
	row, err = tx.ByID(ctx, r.ID)
	isNew := errors.Is(err, store.ErrNotFound)
	if err != nil && !isNew {
		return row, false, err
	}
	if isNew {
		user, err := tx.UserNamed(ctx, r.UserName)
		if err != nil {
			return row, false, err
		}
		row = begin(agent, user, clock, r)
	} else if row.Workspace.ID != agent.Workspace.ID || row.ConnectType != disconnect.AgentToClient {
		return row, false, ErrNotYours
	}
	if r.Ended && (row.Status != store.StatusClosed || row.Provisional) {
		ended = row.Status != store.StatusClosed
		end(&row, clock, r)
	} else if !isNew {
		return row, false, nil // it came before
	}
	if isNew {
		return row, ended, tx.Insert(ctx, &row)
	}
	return row, ended, tx.Update(ctx, &row)
}

// begin is the row of a connection that is heard of for the first time.
func begin(agent Agent, user store.LoggedUser, clock clock, r Report) store.Connection {
	opened := r.Opened
	if opened.IsZero() {
		opened = r.At
	}
	return store.Connection{
		ID: r.ID, ConnectType: disconnect.AgentToClient, Type: r.Type, App: r.App,
		Workspace: agent.Workspace, User: user, Instance: agent.Instance,
		IP: r.IP, ClientVersion: r.ClientVersion, Path: r.Path,
		ConnectedAt: clock.ours(opened), ObservedAt: opened, Status: store.StatusOpen,
	}
}

// end closes row as its agent says.
func end(row *store.Connection, clock clock, r Report) {
	ending := r.Ending
	if row.Status == store.StatusClosed && follows(row.Ending.Reason, ending.Reason) {
		ending = row.Ending
	}
	closeRow(row, clock.ours(r.At), ending)
	row.EndObservedAt, row.ExitCode = r.At, r.ExitCode
	row.BytesSent, row.BytesReceived = r.BytesSent, r.BytesReceived
	if r.Path != store.PathUnknown {
		row.Path = r.Path
	}
	if r.IP != "" {
		row.IP = r.IP
	}
}

// clock turns an agent's times into the server's. Both of its times are of one moment,
// so a clock that is wrong does no harm, only one that jumped between the event and
// its report.
type clock struct{ now, sent time.Time }

func (l *Log) clockOf(sentAt time.Time) clock { return clock{now: l.cfg.Now(), sent: sentAt} }

// ours is never in the future.
func (c clock) ours(at time.Time) time.Time {
	if c.sent.IsZero() || at.After(c.sent) {
		return c.now
	}
	return c.now.Add(-c.sent.Sub(at))
}
