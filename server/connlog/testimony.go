package connlog

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

// maxTestimony bounds one testimony, in bytes of JSON.
const maxTestimony = 16 << 10

// ErrTestimony refuses a testimony that makes no sense.
type ErrTestimony struct{ Err error }

func (e ErrTestimony) Error() string { return "the testimony makes no sense: " + e.Err.Error() }

// Unwrap returns what makes no sense.
func (e ErrTestimony) Unwrap() error { return e.Err }

// ParseTestimony reads what came from observer, who was authenticated as principal. What
// only the receiver may say is set here, whatever the sender wrote; what cannot be is an
// [ErrTestimony].
func ParseTestimony(raw []byte, observer disconnect.Initiator, principal string) (t verdict.Testimony, err error) {
	if len(raw) > maxTestimony {
		return t, ErrTestimony{fmt.Errorf("it has %d bytes, at most %d are taken", len(raw), maxTestimony)}
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return t, ErrTestimony{err}
	}
	t.Principal, t.Via, t.Received = principal, 0, time.Time{}
	if t.Observer != observer {
		return t, ErrTestimony{fmt.Errorf("the %s testifies as %s", observer, t.Observer)}
	}
	if err := t.Validate(); err != nil {
		return t, ErrTestimony{err}
	}
	scrub(&t)
	return t, nil
}

// scrub makes all texts of a testimony fit to be shown.
func scrub(t *verdict.Testimony) {
	t.ID, t.Instance = disconnect.Scrub(t.ID), disconnect.Scrub(t.Instance)
	t.Account.Detail = disconnect.Scrub(t.Account.Detail)
	for i := range t.Facts {
		f := &t.Facts[i]
		f.Cause.Detail, f.Text = disconnect.Scrub(f.Cause.Detail), disconnect.Scrub(f.Text)
		f.Signal, f.Instance, f.Ref = disconnect.Scrub(f.Signal), disconnect.Scrub(f.Instance), disconnect.Scrub(f.Ref)
	}
}

// testify keeps a testimony of a row that is stored, and judges the row anew. What the
// verdict says of a row that is closed is stored; it is not counted as a revision, since
// nobody knows the row yet.
func testify(ctx context.Context, tx *store.ConnTx, row *store.Connection, t verdict.Testimony, now time.Time) error {
	_, err := hearOne(ctx, tx, row, t, now, false)
	return err
}

// revise is testify for a row that may have been closed before. It reports whether it has
// another ending, and counts that.
func revise(ctx context.Context, tx *store.ConnTx, row *store.Connection, t verdict.Testimony, now time.Time) (better bool, err error) {
	return hearOne(ctx, tx, row, t, now, true)
}

func hearOne(ctx context.Context, tx *store.ConnTx, row *store.Connection, t verdict.Testimony, now time.Time, count bool) (better bool, err error) {
	added, err := keep(ctx, tx, row, t, now)
	if err != nil || !added || row.Status != store.StatusClosed {
		return false, err
	}
	better, changed, err := rejudge(ctx, tx.Reader(), row, now)
	if err != nil || !changed {
		return false, err
	}
	if better && count {
		row.Revision++
	}
	return better, tx.Update(ctx, row)
}

// keep stores a testimony as it is, and reports whether it was not there yet.
func keep(ctx context.Context, tx *store.ConnTx, row *store.Connection, t verdict.Testimony, now time.Time) (added bool, err error) {
	t.ConnectionID, t.ConnectType, t.Received = row.ID, row.ConnectType, now
	body, err := json.Marshal(t)
	if err != nil {
		return false, fmt.Errorf("write testimony: %w", err)
	}
	return tx.InsertTestimony(ctx, row.Key, store.RawTestimony{
		ID: t.ID, Observer: t.Observer, Principal: t.Principal, Received: now, Body: body,
	})
}

// Testify keeps what somebody who was authenticated testifies of a connection, and judges
// it anew. The clock of the testimony was read when it was sent, which is now.
func (l *Log) Testify(ctx context.Context, id string, t verdict.Testimony) error {
	return l.write(ctx, func(ctx context.Context, tx *store.ConnTx) ([]store.Connection, error) {
		row, err := tx.ByID(ctx, id)
		if err != nil {
			return nil, err
		}
		now, t := l.cfg.Now(), t
		t.Clock.Offset, t.Clock.Bound = 0, 0
		if !t.Clock.Wall.IsZero() {
			t.Clock.Offset = now.Sub(t.Clock.Wall).Microseconds()
		}
		better, err := revise(ctx, tx, &row, t, now)
		if err != nil {
			return nil, err
		}
		closed, err := closeAbandoned(ctx, tx, &row, now)
		if err != nil {
			return nil, err
		}
		again, err := l.addAlive(ctx, tx, &row, !closed)
		if err != nil || !better && !again && !closed {
			return nil, err
		}
		return []store.Connection{row}, nil
	})
}

// byServer is the server's own word of how a connection ended.
func byServer(id string, ending disconnect.Attribution, at time.Time, evidence disconnect.Evidence, facts ...verdict.Fact) verdict.Testimony {
	return verdict.Testimony{
		ID: id, Observer: disconnect.Server, Kind: verdict.Ending, Account: ending, Evidence: evidence,
		FirstNoticed: verdict.Moment{Wall: at}, Facts: facts,
	}
}

// byReport is what an agent's report says of an end, if the agent does not testify.
func byReport(agent Agent, r Report) verdict.Testimony {
	return verdict.Testimony{
		ID: "report", Observer: disconnect.Agent, Instance: agent.Instance, Kind: verdict.Ending,
		Account: r.Ending, Evidence: evidenceOf(r.Ending), FirstNoticed: verdict.Moment{Wall: r.At},
	}
}

// evidenceOf is what an ending rests on that its agent says nothing more of.
func evidenceOf(a disconnect.Attribution) disconnect.Evidence {
	switch {
	case a.Reason == disconnect.Unknown:
		return 0
	case a.Initiator == disconnect.Network || a.Reason == disconnect.PeerCrashed || a.Reason == disconnect.PeerUnresponsive:
		return disconnect.EvidenceInferred
	case a.Initiator == disconnect.Agent:
		return disconnect.EvidenceLocal
	}
	return disconnect.EvidenceDeclared
}

// lostFacts is what the server saw of the end of a control link of who, unless somebody
// declared it.
func lostFacts(who disconnect.Initiator, ending disconnect.Attribution, at time.Time) []verdict.Fact {
	fact := verdict.Fact{About: who, Leg: legOf(who), At: verdict.Moment{Wall: at}, Text: ending.Detail}
	switch ending.Reason {
	case disconnect.NetworkError, disconnect.PeerCrashed:
		fact.Kind = verdict.SocketClosed
	case disconnect.ConnectionReset:
		fact.Kind = verdict.SocketReset
	case disconnect.NetworkTimeout:
		fact.Kind = verdict.HeartbeatSilence
	case disconnect.PeerUnresponsive:
		fact.Kind = verdict.HeartbeatSilence
		answered := fact
		answered.Kind = verdict.ProbeAnswered
		return []verdict.Fact{fact, answered}
	default:
		return nil
	}
	return []verdict.Fact{fact}
}

// legOf is the layer of a party's own control link.
func legOf(who disconnect.Initiator) disconnect.ConnectType {
	if who == disconnect.Agent {
		return disconnect.ServerToAgent
	}
	return disconnect.ClientToServer
}

// linkEnded is what the server testifies of the end of a control link of its own.
func linkEnded(row *store.Connection) verdict.Testimony {
	who := disconnect.Client
	if row.ConnectType == disconnect.ServerToAgent {
		who = disconnect.Agent
	}
	t := byServer("ended", row.Word, row.DisconnectedAt, disconnect.EvidenceDeclared, lostFacts(who, row.Word, row.DisconnectedAt)...)
	t.Phase = verdict.PhaseOpen
	switch row.Word.Reason {
	case disconnect.PeerCrashed, disconnect.PeerUnresponsive:
		t.Evidence = disconnect.EvidenceInferred
	case disconnect.SlowPeer, disconnect.ProtocolError, disconnect.LimitExceeded, disconnect.DuplicateAgent:
		t.Evidence = disconnect.EvidenceLocal // the server enforced it
	}
	switch row.Word.Initiator {
	case disconnect.Network:
		t.Evidence = disconnect.EvidenceInferred
	case disconnect.Server:
		t.Evidence = disconnect.EvidenceLocal
	}
	return t
}

// ownEnd is what the server testifies of a control link of its former life, which was last
// known to live at alive.
func ownEnd(ending disconnect.Attribution, alive, now time.Time) verdict.Testimony {
	t := byServer("obituary", disconnect.Attribution{}, now, 0, verdict.Fact{
		Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: alive}, Until: verdict.Moment{Wall: now}, Text: ending.Detail,
	})
	t.LastGood = verdict.Moment{Wall: alive}
	return t
}

// ownRestart is what the server testifies to the sessions that its former life left open:
// from alive until now nobody saw what became of their ends' links. One that stopped in
// order has closed its own links.
func ownRestart(alive, now time.Time, instance string, died bool) verdict.Testimony {
	fact := verdict.Fact{
		Kind: verdict.Obituary, Outcome: verdict.Clean, At: verdict.Moment{Wall: alive}, Until: verdict.Moment{Wall: now},
		Text: "the server was stopped, and started again",
	}
	if died {
		fact.Outcome, fact.Text = verdict.Crashed, "the server died without a goodbye, and was started again"
	}
	return byRemark("restart "+instance, time.Time{}, []verdict.Fact{fact})
}
