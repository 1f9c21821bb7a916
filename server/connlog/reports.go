package connlog

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

// Agent is whose connections a report is about.
type Agent struct {
	Workspace store.LoggedWorkspace
	Created   time.Time // when the workspace was made: nothing of the agent is older
	Instance  string    // the life of its process
}

// Report is one word of an agent about one of its connections: that it began, or that
// it ended. Times are by the agent's clock.
type Report struct {
	ID     string // UUID, minted by the agent
	Ended  bool
	At     time.Time
	Opened time.Time // when the connection began

	// OfLink is set in what the agent testifies of one of its control links, as the server
	// calls it: nothing but the testimony counts.
	OfLink bool

	// Interrupted is set in the word of an interruption, when the client was silent from
	// then until At; Ending is why. Nothing else counts.
	Interrupted time.Time

	Type          store.ConnType
	App           string
	UserName      string // the principal; empty when it is not known
	Client        string // its address inside the tailnet; "" if the agent does not say
	IP            string
	ClientVersion string
	Path          store.ConnPath

	// What follows counts in the word of an end.
	Ending                   disconnect.Attribution
	ExitCode                 *int
	BytesSent, BytesReceived int64
	// Testimony is what the agent testifies of the end; nil: only what is above.
	Testimony *verdict.Testimony
}

// ErrNotYours refuses a report about a connection of another workspace.
var ErrNotYours = errors.New("this connection id belongs to another workspace")

// Report stores what an agent reports, in order; sentAt is its clock now. A report that
// came before changes nothing. refused tells, by index, which reports are against the
// rules; all the others are on disk, also after a power cut, when Report returns without an
// error.
func (l *Log) Report(ctx context.Context, agent Agent, sentAt time.Time, reports []Report) (refused map[int]error, err error) {
	clock := l.clockOf(agent, sentAt)
	var found map[int]error // not refused: a caller that has left returns while this is written
	err = l.writeSynced(ctx, func(ctx context.Context, tx *store.ConnTx) (changed []store.Connection, err error) {
		no := make(map[int]error)
		for i, r := range reports {
			rows, err := applyReport(ctx, tx, agent, clock, r)
			switch {
			case errors.Is(err, ErrNotYours), errors.Is(err, ErrNoConnection):
				no[i] = err
			case err != nil:
				return nil, err
			}
			for i := range rows {
				if _, err := l.addAlive(ctx, tx, &rows[i], false); err != nil {
					return nil, err
				}
			}
			changed = append(changed, rows...)
		}
		found = no
		return changed, nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// applyReport makes one report part of the log. It returns the rows that it opened or
// closed, or gave a better ending.
func applyReport(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, r Report) (changed []store.Connection, err error) {
	row, err := tx.ByID(ctx, r.ID)
	missing := errors.Is(err, store.ErrNotFound)
	switch {
	case missing && (r.OfLink || !r.Interrupted.IsZero()):
		return nil, ErrNoConnection
	case missing:
		return insert(ctx, tx, agent, clock, r)
	case err != nil:
		return nil, err
	case row.Workspace.ID != agent.Workspace.ID || r.OfLink != (row.ConnectType == disconnect.ServerToAgent):
		return nil, ErrNotYours
	case r.OfLink:
		return ofLink(ctx, tx, agent, clock, row, r)
	case !r.Interrupted.IsZero():
		return nil, interrupt(ctx, tx, clock, row, r)
	case r.Ended && (row.Status != store.StatusClosed || row.Provisional):
		end(&row, clock, r)
		if err := tx.Update(ctx, &row); err != nil {
			return nil, err
		}
		_, also, err := hear(ctx, tx, agent, clock, &row, r, false)
		return append(also, row), err
	case r.Ended:
		better, also, err := hear(ctx, tx, agent, clock, &row, r, true)
		if better {
			also = append(also, row)
		}
		return also, err
	case complete(&row, r):
		return nil, tx.Update(ctx, &row)
	}
	return nil, nil // it came before
}

// insert adds the row of a connection that is heard of for the first time.
func insert(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, r Report) ([]store.Connection, error) {
	user, err := tx.UserOf(ctx, agent.Workspace.ID, r.UserName)
	if err != nil {
		return nil, err
	}
	row := begin(agent, user, clock, r)
	if r.Ended {
		end(&row, clock, r)
	}
	if err := tx.Insert(ctx, &row); err != nil || !r.Ended {
		return []store.Connection{row}, err
	}
	_, also, err := hear(ctx, tx, agent, clock, &row, r, false)
	return append(also, row), err
}

// ErrNoConnection refuses a report that is only about a connection whose row is not there.
var ErrNoConnection = errors.New("there is no connection with this id")

// interrupt adds an interruption to a row.
func interrupt(ctx context.Context, tx *store.ConnTx, clock clock, row store.Connection, r Report) error {
	from, to := clock.ours(r.Interrupted), clock.ours(r.At)
	return tx.InsertInterruption(ctx, row.Key, store.Interruption{
		Began: from, Observed: r.Interrupted, Duration: to.Sub(from), Attribution: r.Ending.On(row.ConnectType),
	})
}

// ofLink keeps what an agent testifies of one of its control links.
func ofLink(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, row store.Connection, r Report) ([]store.Connection, error) {
	if r.Testimony == nil {
		return nil, nil
	}
	better, err := revise(ctx, tx, &row, testimonyOf(agent, clock, *r.Testimony), clock.now)
	if !better {
		return nil, err
	}
	return []store.Connection{row}, err
}

// testimonyOf is an agent's testimony, with what only the server may say.
func testimonyOf(agent Agent, clock clock, t verdict.Testimony) verdict.Testimony {
	t.Observer, t.Principal = disconnect.Agent, agent.Workspace.ID
	t.Clock = clock.reading()
	return t
}

// hear keeps what an agent testifies of an end, and judges the row anew. What it says of
// its former life counts for the control link of that life too: also are such rows that
// have another ending by it.
func hear(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, row *store.Connection, r Report, count bool) (better bool, also []store.Connection, err error) {
	t := byReport(agent, r)
	if r.Testimony != nil {
		t = *r.Testimony
	}
	if t.Evidence == 0 && t.Account.Reason != disconnect.Unknown {
		return false, nil, nil // an agent that knows no reason has nothing to testify
	}
	t = testimonyOf(agent, clock, t)
	if word := row.Word; word.Reason != t.Account.Reason && word.Initiator == disconnect.Server {
		// The server's orders were behind it.
		if _, err := keep(ctx, tx, row, byServer("order", word, row.DisconnectedAt, disconnect.EvidenceLocal), clock.now); err != nil {
			return false, nil, err
		}
	}
	if better, err = hearOne(ctx, tx, row, t, clock.now, count); err != nil {
		return better, nil, err
	}
	also, err = buryLife(ctx, tx, agent, clock, row, t)
	return better, also, err
}

// buryLife applies what an agent's journal, or its supervisor, says of the former life that
// had a session open to the last control link of that life.
func buryLife(ctx context.Context, tx *store.ConnTx, agent Agent, clock clock, row *store.Connection, t verdict.Testimony) ([]store.Connection, error) {
	facts := slices.DeleteFunc(slices.Clone(t.Facts), func(f verdict.Fact) bool {
		return f.Kind != verdict.Obituary && f.Kind != verdict.Supervisor
	})
	if len(facts) == 0 {
		return nil, nil
	}
	links, err := tx.Reader().AgentLinks(ctx, agent.Workspace.ID, row.DisconnectedAt.Add(-lookBack))
	if err != nil {
		return nil, err
	}
	last := slices.IndexFunc(links, func(c store.Connection) bool {
		return c.Peer != "" && c.Peer != agent.Instance && !c.ConnectedAt.After(row.DisconnectedAt.Add(signSlack))
	})
	if last < 0 {
		return nil, nil
	}
	t.Facts, t.Account, t.Evidence = facts, disconnect.Attribution{}, 0
	better, err := revise(ctx, tx, &links[last], t, clock.now)
	if !better {
		return nil, err
	}
	return links[last : last+1], err
}

// signSlack is by how much an agent's last sign of life may be older than its death.
const signSlack = 10 * time.Second

// begin is the row of a connection that is heard of for the first time.
func begin(agent Agent, user store.LoggedUser, clock clock, r Report) store.Connection {
	opened := r.Opened
	if opened.IsZero() {
		opened = r.At
	}
	return store.Connection{
		ID: r.ID, ConnectType: disconnect.AgentToClient, Type: r.Type, App: r.App,
		Workspace: agent.Workspace, User: user, Instance: agent.Instance, Peer: r.Client,
		IP: r.IP, ClientVersion: r.ClientVersion, Path: r.Path,
		ConnectedAt: clock.ours(opened), ObservedAt: opened, Status: store.StatusOpen,
	}
}

// end closes row as its agent says. What the end tells of the connection goes before
// what its beginning told.
func end(row *store.Connection, clock clock, r Report) {
	ending := r.Ending
	if row.Status == store.StatusClosed && follows(row.Word.Reason, ending.Reason) {
		ending = row.Word
	}
	closeRow(row, clock.ours(r.At), ending)
	row.EndObservedAt, row.ExitCode = r.At, r.ExitCode
	row.BytesSent, row.BytesReceived = r.BytesSent, r.BytesReceived
	if r.Path != store.PathUnknown {
		row.Path = r.Path
	}
	row.IP, row.ClientVersion = cmp.Or(r.IP, row.IP), cmp.Or(r.ClientVersion, row.ClientVersion)
	row.App, row.Peer = cmp.Or(r.App, row.App), cmp.Or(row.Peer, r.Client)
}

// complete adds what the word of the beginning tells and that of the end, which came
// first, did not. It reports whether there was anything.
func complete(row *store.Connection, r Report) bool {
	was := *row
	row.Path = cmp.Or(row.Path, r.Path)
	row.IP, row.ClientVersion, row.Peer = cmp.Or(row.IP, r.IP), cmp.Or(row.ClientVersion, r.ClientVersion), cmp.Or(row.Peer, r.Client)
	return row.Peer != was.Peer || row.Path != was.Path || row.IP != was.IP || row.ClientVersion != was.ClientVersion
}

// maxAge bounds how long ago an agent may say that something happened: a clock that was
// not set yet must not put a connection where nobody looks for it.
const maxAge = 30 * 24 * time.Hour

// clock turns an agent's times into the server's. Both of its times are of one moment,
// so a clock that is wrong does no harm, only one that jumped between the event and
// its report.
type clock struct{ now, sent, oldest time.Time }

func (l *Log) clockOf(agent Agent, sentAt time.Time) clock {
	now := l.cfg.Now()
	return clock{now: now, sent: sentAt, oldest: later(agent.Created, now.Add(-maxAge))}
}

// ours is never before the workspace was made.
func (c clock) ours(at time.Time) time.Time { return later(ServerTime(c.now, c.sent, at), c.oldest) }

// reading relates the agent's clock to the server's.
func (c clock) reading() verdict.Clock {
	if c.sent.IsZero() {
		return verdict.Clock{}
	}
	return verdict.Clock{Wall: c.sent, Offset: c.now.Sub(c.sent).Microseconds()}
}

// ServerTime is an agent's time by the server's clock, which was now when the agent's was
// sent. It is never in the future.
func ServerTime(now, sent, at time.Time) time.Time {
	if sent.IsZero() || at.After(sent) {
		return now
	}
	return now.Add(-sent.Sub(at))
}
