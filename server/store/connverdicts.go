package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// Judgement is what the verdict on a row says beside its ending. Before anybody has
// testified it is the zero value.
type Judgement struct {
	Judged     bool
	Locus      string
	Rule       verdict.Rule
	Evidence   disconnect.Evidence
	Confidence disconnect.Confidence
	Observer   disconnect.Initiator
	// Waits: a witness has not spoken yet. It counts for [verdict.FinalAfter].
	Waits bool
}

// MayChange reports whether a row that is closed may still get another ending.
func (c *Connection) MayChange(now time.Time) bool {
	return c.Provisional || c.Judgement.Waits && now.Sub(c.DisconnectedAt) < verdict.FinalAfter
}

// verdictColumns are those of a row's word and verdict; all but waits are NULL while there
// is none.
type verdictColumns struct {
	wordReason, wordInitiator            sql.NullInt64
	rule, evidence, confidence, observer sql.NullInt64
	wordDetail, locus                    sql.NullString
	waits                                bool
}

func columnsOf(c *Connection) (v verdictColumns) {
	number := func(n uint8) sql.NullInt64 { return sql.NullInt64{Int64: int64(n), Valid: true} }
	if c.Word != c.Ending && c.Word.Reason != disconnect.Unknown {
		v.wordReason, v.wordInitiator = number(uint8(c.Word.Reason)), number(uint8(c.Word.Initiator))
		v.wordDetail = sql.NullString{String: disconnect.Scrub(c.Word.Detail), Valid: true}
	}
	if j := c.Judgement; j.Judged {
		v.locus, v.rule = sql.NullString{String: j.Locus, Valid: true}, number(uint8(j.Rule))
		v.evidence, v.confidence, v.observer = number(uint8(j.Evidence)), number(uint8(j.Confidence)), number(uint8(j.Observer))
		v.waits = j.Waits
	}
	return v
}

// read puts the columns into a row that has its ending.
func (v *verdictColumns) read(c *Connection) {
	c.Word = c.Ending
	if v.wordReason.Valid {
		c.Word = disconnect.Attribution{
			ConnectType: c.ConnectType, Reason: disconnect.Reason(v.wordReason.Int64),
			Initiator: disconnect.Initiator(v.wordInitiator.Int64), Detail: v.wordDetail.String,
		}
	}
	if v.rule.Valid {
		c.Judgement = Judgement{
			Judged: true, Locus: v.locus.String, Rule: verdict.Rule(v.rule.Int64), Evidence: disconnect.Evidence(v.evidence.Int64),
			Confidence: disconnect.Confidence(v.confidence.Int64), Observer: disconnect.Initiator(v.observer.Int64), Waits: v.waits,
		}
	}
}

// ConnReader reads what a verdict on a row rests on, inside a transaction or outside.
type ConnReader struct {
	query func(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Reader reads inside the transaction.
func (t *ConnTx) Reader() ConnReader {
	return ConnReader{func(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
		stmt, err := t.stmt(ctx, query)
		if err != nil {
			return nil, err
		}
		return stmt.QueryContext(ctx, args...)
	}}
}

// ConnReader reads outside of any transaction.
func (s *Store) ConnReader() ConnReader { return ConnReader{s.read.QueryContext} }

// rows reads whole rows of the log.
func (r ConnReader) rows(ctx context.Context, where string, args ...any) ([]Connection, error) {
	rows, err := r.query(ctx, connSelect+` WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("look for connections: %w", err)
	}
	return collect(rows, scanConnection)
}

// ByID returns the row with an id, or none.
func (r ConnReader) ByID(ctx context.Context, id string) ([]Connection, error) {
	return r.rows(ctx, `c.id = $1`, id)
}

// maxAround bounds the rows that are looked at around one.
const maxAround = 64

// AgentLinks returns control links of a workspace's agent that were open at since or later,
// the newest first, 64 at most.
func (r ConnReader) AgentLinks(ctx context.Context, workspaceID string, since time.Time) ([]Connection, error) {
	return r.rows(ctx, `c.workspace = (SELECT no FROM logged_workspaces WHERE id = $1) AND c.connect_type = $2
		AND (c.live IS NOT NULL OR c.disconnected_at >= $3) ORDER BY c.key DESC LIMIT $4`,
		workspaceID, int(disconnect.ServerToAgent), micros(since), maxAround)
}

// PeerRows returns connections of a client on a layer that were open at since or later, the
// newest first, 64 at most. The client is known by its user and its address inside the
// tailnet.
func (r ConnReader) PeerRows(ctx context.Context, userID, peer string, layer disconnect.ConnectType, since time.Time) ([]Connection, error) {
	return r.rows(ctx, `c.peer = $1 AND c.peer <> '' AND c.user_no = (SELECT no FROM logged_users WHERE id = $2) AND c.connect_type = $3
		AND (c.live IS NOT NULL OR c.disconnected_at >= $4) ORDER BY c.key DESC LIMIT $5`,
		peer, userID, int(layer), micros(since), maxAround)
}

// EndedIn returns the sessions and forwards of a workspace that ended at since or later, 64
// at most.
func (r ConnReader) EndedIn(ctx context.Context, workspaceID string, since time.Time) ([]Connection, error) {
	return r.rows(ctx, `c.workspace = (SELECT no FROM logged_workspaces WHERE id = $1) AND c.connect_type = $2
		AND c.disconnected_at >= $3 ORDER BY c.disconnected_at DESC LIMIT $4`,
		workspaceID, int(disconnect.AgentToClient), micros(since), maxAround)
}

// maxIncident bounds the rows that may have been lost by one event.
const maxIncident = 256

// LostBetween returns connections that ended between two times for one of the reasons, the
// oldest ending first, 256 at most.
func (r ConnReader) LostBetween(ctx context.Context, from, until time.Time, reasons []disconnect.Reason) ([]Connection, error) {
	args := []any{micros(from), micros(until), maxIncident}
	marks := make([]string, 0, len(reasons))
	for _, reason := range reasons {
		args = append(args, int(reason))
		marks = append(marks, fmt.Sprintf("$%d", len(args)))
	}
	return r.rows(ctx, `c.disconnected_at BETWEEN $1 AND $2 AND c.reason IN (`+strings.Join(marks, ", ")+`) ORDER BY c.disconnected_at LIMIT $3`, args...)
}

// LivedThrough returns connections that began before from and are known to have worked
// until later: control links that are open, which the server hears, and whatever ended
// after it without anything being lost. 256 of each at most.
func (r ConnReader) LivedThrough(ctx context.Context, from, until time.Time) ([]Connection, error) {
	open, err := r.rows(ctx, `c.live IS NOT NULL AND c.key < $1 AND c.type = $2 ORDER BY c.key DESC LIMIT $3`,
		keyAt(from), int(TypeControl), maxIncident)
	if err != nil {
		return nil, err
	}
	ended, err := r.rows(ctx, `c.disconnected_at > $1 AND c.key < $2 AND c.expected ORDER BY c.disconnected_at LIMIT $3`,
		micros(until), keyAt(from), maxIncident)
	return append(open, ended...), err
}

// CanSpeak reports whether a workspace is still there, whose agent may testify, and a user,
// whose client may.
func (r ConnReader) CanSpeak(ctx context.Context, workspaceID, userID string) (agent, client bool, err error) {
	rows, err := r.query(ctx, `SELECT EXISTS (SELECT 1 FROM workspaces WHERE id = $1), EXISTS (SELECT 1 FROM users WHERE id = $2 AND NOT disabled)`,
		workspaceID, userID)
	if err != nil {
		return false, false, fmt.Errorf("look for witnesses: %w", err)
	}
	_, err = collect(rows, func(scan func(...any) error) (none struct{}, err error) { return none, scan(&agent, &client) })
	return agent, client, err
}
