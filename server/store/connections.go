package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// ConnType is what a logged connection is for. The numbers are stored.
type ConnType uint8

// Types of connections. Those of agents have the numbers of agent/proto.
const (
	TypeUnspecified     ConnType = 0
	TypeSSH             ConnType = 1
	TypeVSCode          ConnType = 2
	TypeJetBrains       ConnType = 3
	TypeReconnectingPTY ConnType = 4
	TypePortForward     ConnType = 5
	TypeControl         ConnType = 100 // a control link
)

var connTypeNames = map[ConnType]string{
	TypeUnspecified: "unspecified", TypeSSH: "ssh", TypeVSCode: "vscode", TypeJetBrains: "jetbrains",
	TypeReconnectingPTY: "reconnecting_pty", TypePortForward: "port_forward", TypeControl: "control",
}

// String returns the type's name.
func (t ConnType) String() string { return connTypeNames[t] }

// ParseConnType is the inverse of String.
func ParseConnType(name string) (ConnType, error) { return parseName("type", connTypeNames, name) }

// parseName finds the value of a name; the error names all there are.
func parseName[T ~uint8](what string, names map[T]string, name string) (T, error) {
	known := make([]string, 0, len(names))
	for v, n := range names {
		if n == name {
			return v, nil
		}
		known = append(known, n)
	}
	slices.Sort(known)
	return 0, fmt.Errorf("there is no %s %q; there are %s", what, name, strings.Join(known, ", "))
}

// ConnPath is how the packets of a connection went. The numbers are stored.
type ConnPath uint8

// Paths of connections.
const (
	PathUnknown ConnPath = 0
	PathDirect  ConnPath = 1
	PathRelay   ConnPath = 2
)

// String returns the path's name; "" when it is not known.
func (p ConnPath) String() string {
	switch p {
	case PathDirect:
		return "direct"
	case PathRelay:
		return "relay"
	}
	return ""
}

// ConnStatus is whether a logged connection still lives.
type ConnStatus uint8

// Statuses of connections. The numbers are stored, but for Closed.
const (
	StatusOpen    ConnStatus = 1
	StatusClosed  ConnStatus = 2
	StatusUnheard ConnStatus = 3 // was open when the server last heard of it
)

var connStatusNames = map[ConnStatus]string{StatusOpen: "open", StatusClosed: "closed", StatusUnheard: "unheard"}

// String returns the status's name.
func (s ConnStatus) String() string { return connStatusNames[s] }

// ParseConnStatus is the inverse of String.
func ParseConnStatus(name string) (ConnStatus, error) {
	return parseName("status", connStatusNames, name)
}

// Connection is one row of the connection log.
type Connection struct {
	Key  int64  // orders rows by the time they began; set by Insert
	ID   string // UUID
	Type ConnType
	// ConnectType is the layer: an Ending has the same.
	ConnectType disconnect.ConnectType
	App         string
	// Workspace is the zero value for a client's control link, User for an agent's.
	Workspace LoggedWorkspace
	User      LoggedUser
	// Instance is the life of the process that keeps the connection's record: the
	// server's for control links, the agent's for everything else.
	Instance string
	// Peer names who is at the other end, "" if that is not known: of an agent's control
	// link the life of its process, of all others the client's address inside the tailnet.
	Peer          string
	IP            string
	ClientVersion string
	Path          ConnPath
	// ConnectedAt is on the server's clock; ObservedAt is the same moment on the
	// observer's, zero when the server is the observer.
	ConnectedAt, ObservedAt  time.Time
	BytesSent, BytesReceived int64 // as the agent counts them

	Status ConnStatus
	// Revision counts how often the ending was replaced by a better one; Provisional
	// says that this may still happen.
	Revision    int
	Provisional bool
	// What follows is set when the status is StatusClosed.
	DisconnectedAt, EndObservedAt time.Time
	// Word is how the row was closed. Ending is that, or the verdict on all that was
	// testified, where that says more.
	Word, Ending disconnect.Attribution
	Judgement    Judgement
	ExitCode     *int // nil: there was no process, or it had not ended

	// Interruptions are there only when they were asked for.
	Interruptions []Interruption
}

// LoggedUser is a user as the log remembers them.
type LoggedUser struct{ ID, Name string }

// LoggedWorkspace is a workspace as the log remembers it.
type LoggedWorkspace struct {
	ID, Name string
	Owner    LoggedUser
}

// keyShift is where the milliseconds begin in a row's key: 20 bits tell apart rows of
// one millisecond, and 43 bits of milliseconds last until the year 2248.
const keyShift = 20

// keyAt returns the lowest key of a time.
func keyAt(t time.Time) int64 { return max(0, t.UnixMilli()) << keyShift }

// keyTick makes keys of one millisecond different.
var keyTick atomic.Uint32

// ConnTx is one write transaction of the connection log. It is valid inside the
// function that got it.
type ConnTx struct {
	s        *Store
	tx       *sql.Tx
	prepared map[string]*sql.Stmt // until the transaction ends
}

// WriteConnections runs fn in one write transaction: all of it is stored, or nothing. If
// synced, it survives a power cut from then on.
func (s *Store) WriteConnections(ctx context.Context, synced bool, fn func(*ConnTx) error) error {
	transact := s.transact
	if synced {
		transact = s.withdraw
	}
	return transact(ctx, func(tx *sql.Tx) error {
		return fn(&ConnTx{s: s, tx: tx, prepared: make(map[string]*sql.Stmt)})
	})
}

// stmt prepares a query once: a transaction is a batch of the same few.
func (t *ConnTx) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt := t.prepared[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := t.tx.PrepareContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	t.prepared[query] = stmt
	return stmt, nil
}

func (t *ConnTx) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := t.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// row scans the one row of a query into dest; none is ErrNotFound.
func (t *ConnTx) row(ctx context.Context, query string, args []any, dest ...any) error {
	stmt, err := t.stmt(ctx, query)
	if err != nil {
		return err
	}
	return scanned(stmt.QueryRowContext(ctx, args...).Scan(dest...))
}

// ByID returns one row, or ErrNotFound.
func (t *ConnTx) ByID(ctx context.Context, id string) (Connection, error) {
	c, err := scanConnection(func(dest ...any) error {
		return t.row(ctx, connSelect+` WHERE c.id = $1`, []any{id}, dest...)
	})
	if err != nil {
		return Connection{}, fmt.Errorf("look up connection: %w", err)
	}
	return c, nil
}

const connInsert = `INSERT INTO connections (key, id, connect_type, type, app, workspace, user_no, instance, ip,
	client_version, path, connected_at, observed_at, bytes_sent, bytes_received,
	live, revision, provisional, disconnected_at, ended_observed_at, reason, initiator, expected, detail, exit_code,
	peer, word_reason, word_initiator, word_detail, locus, rule, evidence, confidence, observer, waits)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25,
	$26, $27, $28, $29, $30, $31, $32, $33, $34, $35)
	ON CONFLICT (key) DO NOTHING`

// Insert adds a row and sets its key. An id that is there already is ErrConflict.
func (t *ConnTx) Insert(ctx context.Context, c *Connection) error {
	workspace, err := t.workspaceNo(ctx, c.Workspace)
	if err != nil {
		return err
	}
	user, err := t.userNo(ctx, c.User)
	if err != nil {
		return err
	}
	for range 100 { // a key is taken when 2^20 rows were added since in its millisecond
		c.Key = keyAt(c.ConnectedAt) | int64(keyTick.Add(1)&(1<<keyShift-1))
		e := endingColumns(c)
		res, err := t.exec(ctx, connInsert, c.Key, c.ID, int(c.ConnectType), int(c.Type), c.App, workspace, user, c.Instance, c.IP,
			c.ClientVersion, int(c.Path), micros(c.ConnectedAt), nullMicros(c.ObservedAt), c.BytesSent, c.BytesReceived,
			e.live, c.Revision, c.Provisional, e.at, e.observed, e.reason, e.initiator, e.expected, e.detail, e.exitCode,
			c.Peer, e.wordReason, e.wordInitiator, e.wordDetail, e.locus, e.rule, e.evidence, e.confidence, e.observer, e.waits)
		if err != nil {
			if t.s.engine.isUnique(err) {
				err = ErrConflict
			}
			return fmt.Errorf("insert connection: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		keyTick.Add(rand.Uint32N(1 << keyShift))
	}
	return errors.New("insert connection: no key is free")
}

// Update writes what may change in the life of a row: its status, its ending, and what
// is learnt late.
func (t *ConnTx) Update(ctx context.Context, c *Connection) error {
	e := endingColumns(c)
	_, err := t.exec(ctx, `UPDATE connections SET live = $2, revision = $3, provisional = $4, disconnected_at = $5,
		ended_observed_at = $6, reason = $7, initiator = $8, expected = $9, detail = $10, exit_code = $11,
		instance = $12, path = $13, ip = $14, client_version = $15, bytes_sent = $16, bytes_received = $17, app = $18,
		peer = $19, word_reason = $20, word_initiator = $21, word_detail = $22, locus = $23, rule = $24, evidence = $25,
		confidence = $26, observer = $27, waits = $28 WHERE key = $1`,
		c.Key, e.live, c.Revision, c.Provisional, e.at, e.observed, e.reason, e.initiator, e.expected,
		e.detail, e.exitCode, c.Instance, int(c.Path), c.IP, c.ClientVersion, c.BytesSent, c.BytesReceived, c.App,
		c.Peer, e.wordReason, e.wordInitiator, e.wordDetail, e.locus, e.rule, e.evidence, e.confidence, e.observer, e.waits)
	if err != nil {
		return fmt.Errorf("update connection: %w", err)
	}
	return nil
}

// Live returns the rows on a layer that are not closed, of one workspace, or of all
// when workspaceID is empty.
func (t *ConnTx) Live(ctx context.Context, workspaceID string, layer disconnect.ConnectType) ([]Connection, error) {
	query, args := connSelect+` WHERE c.live IS NOT NULL AND c.connect_type = $1`, []any{int(layer)}
	if workspaceID != "" {
		query += ` AND c.workspace = (SELECT no FROM logged_workspaces WHERE id = $2)`
		args = append(args, workspaceID)
	}
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list live connections: %w", err)
	}
	return collect(rows, scanConnection)
}

// Unheard marks the open connections of one workspace's agent, or of every agent when
// workspaceID is empty, as not heard of.
func (t *ConnTx) Unheard(ctx context.Context, workspaceID string) error {
	query, args := `UPDATE connections SET live = $1 WHERE live = $2 AND connect_type = $3`,
		[]any{int(StatusUnheard), int(StatusOpen), int(disconnect.AgentToClient)}
	if workspaceID != "" {
		query += ` AND workspace = (SELECT no FROM logged_workspaces WHERE id = $4)`
		args = append(args, workspaceID)
	}
	if _, err := t.exec(ctx, query, args...); err != nil {
		return fmt.Errorf("mark connections as unheard: %w", err)
	}
	return nil
}

// userNo returns the number of a user in the log, with their name as it is now.
func (t *ConnTx) userNo(ctx context.Context, u LoggedUser) (sql.NullInt64, error) {
	if u.ID == "" {
		return sql.NullInt64{}, nil
	}
	no, err := t.partyNo(ctx, `SELECT no, name = $2 FROM logged_users WHERE id = $1`, u.ID, u.Name)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return no, err
	}
	return t.nextNo(ctx, `INSERT INTO logged_users (no, id, name)
		VALUES ((SELECT COALESCE(MAX(no), 0) + 1 FROM logged_users), $1, $2)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING no`, u.ID, u.Name)
}

// workspaceNo returns the number of a workspace in the log, with its name as it is now.
func (t *ConnTx) workspaceNo(ctx context.Context, w LoggedWorkspace) (sql.NullInt64, error) {
	if w.ID == "" {
		return sql.NullInt64{}, nil
	}
	no, err := t.partyNo(ctx, `SELECT no, name = $2 FROM logged_workspaces WHERE id = $1`, w.ID, w.Name)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return no, err
	}
	owner, err := t.userNo(ctx, w.Owner)
	if err != nil {
		return owner, err
	}
	return t.nextNo(ctx, `INSERT INTO logged_workspaces (no, id, name, owner)
		VALUES ((SELECT COALESCE(MAX(no), 0) + 1 FROM logged_workspaces), $1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, owner = excluded.owner RETURNING no`, w.ID, w.Name, owner)
}

// partyNo looks a user or a workspace up; one under another name is ErrNotFound.
func (t *ConnTx) partyNo(ctx context.Context, query, id, name string) (no sql.NullInt64, err error) {
	var same bool
	err = t.row(ctx, query, []any{id, name}, &no, &same)
	if err == nil && !same {
		err = ErrNotFound
	}
	return no, err
}

func (t *ConnTx) nextNo(ctx context.Context, query string, args ...any) (no sql.NullInt64, err error) {
	if err := t.row(ctx, query, args, &no); err != nil {
		return no, fmt.Errorf("number a party of the connection log: %w", err)
	}
	return no, nil
}

// ending are the columns of a row's end; all but live are NULL while it lives.
type ending struct {
	live, at, observed, reason, initiator, exitCode sql.NullInt64
	expected                                        sql.NullBool
	detail                                          string
	verdictColumns
}

func endingColumns(c *Connection) ending {
	if c.Status != StatusClosed {
		return ending{live: sql.NullInt64{Int64: int64(c.Status), Valid: true}}
	}
	e := ending{
		at: nullMicros(c.DisconnectedAt), observed: nullMicros(c.EndObservedAt),
		reason:    sql.NullInt64{Int64: int64(c.Ending.Reason), Valid: true},
		initiator: sql.NullInt64{Int64: int64(c.Ending.Initiator), Valid: true},
		expected:  sql.NullBool{Bool: c.Ending.Expected(), Valid: true},
		detail:    disconnect.Scrub(c.Ending.Detail),
	}
	if c.ExitCode != nil {
		e.exitCode = sql.NullInt64{Int64: int64(*c.ExitCode), Valid: true}
	}
	e.verdictColumns = columnsOf(c)
	return e
}

// connSelect reads whole rows.
const connSelect = connColumns + ` FROM connections c` + connJoins

const connColumns = `SELECT c.key, c.id, c.connect_type, c.type, c.app,
	COALESCE(w.id, ''), COALESCE(w.name, ''), COALESCE(o.id, ''), COALESCE(o.name, ''),
	COALESCE(u.id, ''), COALESCE(u.name, ''),
	c.instance, c.ip, c.client_version, c.path, c.connected_at, c.observed_at, c.bytes_sent, c.bytes_received,
	c.live, c.revision, c.provisional, c.disconnected_at, c.ended_observed_at, c.reason, c.initiator, c.detail, c.exit_code,
	c.peer, c.word_reason, c.word_initiator, c.word_detail, c.locus, c.rule, c.evidence, c.confidence, c.observer, c.waits`

const connJoins = `
	LEFT JOIN logged_workspaces w ON w.no = c.workspace
	LEFT JOIN logged_users o ON o.no = w.owner
	LEFT JOIN logged_users u ON u.no = c.user_no`

// scanConnection reads a row of connSelect.
func scanConnection(scan func(dest ...any) error) (Connection, error) {
	var (
		c                       Connection
		connected               int64
		observed, ended, endObs sql.NullInt64
		live, exit              sql.NullInt64
		reason, initiator       sql.Null[uint8]
		detail                  string
		v                       verdictColumns
	)
	err := scan(&c.Key, &c.ID, &c.ConnectType, &c.Type, &c.App,
		&c.Workspace.ID, &c.Workspace.Name, &c.Workspace.Owner.ID, &c.Workspace.Owner.Name, &c.User.ID, &c.User.Name,
		&c.Instance, &c.IP, &c.ClientVersion, &c.Path, &connected, &observed, &c.BytesSent, &c.BytesReceived,
		&live, &c.Revision, &c.Provisional, &ended, &endObs, &reason, &initiator, &detail, &exit,
		&c.Peer, &v.wordReason, &v.wordInitiator, &v.wordDetail, &v.locus, &v.rule, &v.evidence, &v.confidence, &v.observer, &v.waits)
	if err != nil {
		return Connection{}, err
	}
	c.ConnectedAt, c.ObservedAt = fromMicros(connected), fromNullMicros(observed)
	if live.Valid {
		c.Status = ConnStatus(live.Int64)
		return c, nil
	}
	c.Status = StatusClosed
	c.DisconnectedAt, c.EndObservedAt = fromNullMicros(ended), fromNullMicros(endObs)
	c.Ending = disconnect.Attribution{
		ConnectType: c.ConnectType, Reason: disconnect.Reason(reason.V), Initiator: disconnect.Initiator(initiator.V), Detail: detail,
	}
	v.read(&c)
	if exit.Valid {
		code := int(exit.Int64)
		c.ExitCode = &code
	}
	return c, nil
}

// collect reads all rows.
func collect[T any](rows *sql.Rows, scan func(func(...any) error) (T, error)) ([]T, error) {
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
