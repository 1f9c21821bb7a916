package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// ConnFilter chooses rows of the connection log; a zero field chooses all.
type ConnFilter struct {
	// For is the id of the user who may see the rows: their own connections, and those
	// to workspaces that they own. Empty: an admin, who sees all.
	For string

	// WorkspaceName is that of every workspace that has or had it, of one owner if
	// OwnerName is given.
	WorkspaceName, OwnerName string
	UserName                 string
	Type                     *ConnType
	App                      string
	ConnectType              disconnect.ConnectType
	Reason                   *disconnect.Reason
	Initiator                *disconnect.Initiator
	Expected                 *bool
	Locus                    string // by the verdict, as are rule and confidence
	Rule                     *verdict.Rule
	Confidence               disconnect.Confidence
	Status                   ConnStatus
	IDPrefix                 string
	// Since and Until bound the time of the beginning: Since <= it < Until.
	Since, Until time.Time

	// Before continues after a row: those that began before it, by its key.
	Before int64
	// Ascending gives the oldest first, and continues after After.
	Ascending bool
	After     int64
	Limit     int

	// LastEnded gives those that have ended, the one that ended last first. There is no
	// next page, and the rows of the chosen user or workspace are all looked at.
	LastEnded bool
}

// Connections returns the rows that f chooses, the newest first unless it says
// otherwise.
func (s *Store) Connections(ctx context.Context, f ConnFilter) ([]Connection, error) {
	if f.LastEnded && f.Status != 0 && f.Status != StatusClosed {
		return nil, nil // what lives has not ended
	}
	ranges, err := s.ranges(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("query connections: %w", err)
	}
	var all []Connection
	for _, r := range ranges {
		rows, err := s.connections(ctx, f, r)
		if err != nil {
			return nil, fmt.Errorf("query connections: %w", err)
		}
		if len(ranges) == 1 {
			return rows, nil
		}
		if all = firstRows(f, append(all, rows...)); len(all) == f.Limit && !f.LastEnded {
			f = f.upTo(all[len(all)-1].Key) // the next ranges need not give more
		}
	}
	return all, nil
}

// upTo leaves out what would come behind a row on the page.
func (f ConnFilter) upTo(key int64) ConnFilter {
	if f.Ascending {
		f.Before = key
	} else {
		f.After = key
	}
	return f
}

// Match reports whether a row is one that f chooses, wherever it lies in the log.
func (f ConnFilter) Match(c Connection) bool {
	switch {
	case f.LastEnded && c.Status != StatusClosed,
		f.For != "" && f.For != c.User.ID && f.For != c.Workspace.Owner.ID,
		f.WorkspaceName != "" && f.WorkspaceName != c.Workspace.Name,
		f.OwnerName != "" && f.OwnerName != c.Workspace.Owner.Name,
		f.UserName != "" && f.UserName != c.User.Name,
		f.Type != nil && *f.Type != c.Type,
		f.App != "" && f.App != c.App,
		f.ConnectType != 0 && f.ConnectType != c.ConnectType,
		f.Status != 0 && f.Status != c.Status,
		f.Locus != "" && f.Locus != c.Judgement.Locus,
		f.Rule != nil && (!c.Judgement.Judged || *f.Rule != c.Judgement.Rule),
		f.Confidence != 0 && f.Confidence != c.Judgement.Confidence,
		!strings.HasPrefix(c.ID, f.IDPrefix),
		!f.Since.IsZero() && c.ConnectedAt.Before(f.Since),
		!f.Until.IsZero() && !c.ConnectedAt.Before(f.Until):
		return false
	}
	if f.Reason == nil && f.Initiator == nil && f.Expected == nil {
		return true
	}
	return c.Status == StatusClosed &&
		(f.Reason == nil || *f.Reason == c.Ending.Reason) &&
		(f.Initiator == nil || *f.Initiator == c.Ending.Initiator) &&
		(f.Expected == nil || *f.Expected == c.Ending.Expected())
}

// connRange is a part of the log that is a range of an index: a union of several in one
// query would not be. Zero stands for all workspaces, or all users.
type connRange struct{ workspace, user int64 }

// ranges returns the parts of the log that a filter is about. Whoever is not an admin
// sees all of the workspaces that they own, and their own connections elsewhere.
func (s *Store) ranges(ctx context.Context, f ConnFilter) ([]connRange, error) {
	var me int64
	if f.For != "" {
		err := scanned(s.read.QueryRowContext(ctx, `SELECT no FROM logged_users WHERE id = $1`, f.For).Scan(&me))
		if errors.Is(err, ErrNotFound) {
			return nil, nil // the log does not know them
		}
		if err != nil {
			return nil, err
		}
	}
	if me == 0 && f.WorkspaceName == "" {
		return []connRange{{}}, nil
	}
	rows, err := s.read.QueryContext(ctx, `SELECT w.no, w.owner FROM logged_workspaces w JOIN logged_users o ON o.no = w.owner
		WHERE ($1 = '' OR w.name = $1) AND ($2 = '' OR o.name = $2) AND ($1 <> '' OR w.owner = $3)`,
		f.WorkspaceName, f.OwnerName, me)
	if err != nil {
		return nil, err
	}
	ranges, err := collect(rows, func(scan func(...any) error) (r connRange, err error) {
		var owner int64
		err = scan(&r.workspace, &owner)
		if me != 0 && owner != me {
			r.user = me
		}
		return r, err
	})
	if me != 0 && f.WorkspaceName == "" {
		ranges = append(ranges, connRange{user: me})
	}
	return ranges, err
}

// firstRows makes one page of several.
func firstRows(f ConnFilter, all []Connection) []Connection {
	slices.SortFunc(all, func(a, b Connection) int {
		if f.LastEnded {
			return cmp.Or(b.DisconnectedAt.Compare(a.DisconnectedAt), cmp.Compare(b.Key, a.Key))
		}
		if f.Ascending {
			return cmp.Compare(a.Key, b.Key)
		}
		return cmp.Compare(b.Key, a.Key)
	})
	all = slices.CompactFunc(all, func(a, b Connection) bool { return a.Key == b.Key })
	return all[:min(len(all), f.Limit)]
}

func (s *Store) connections(ctx context.Context, f ConnFilter, r connRange) ([]Connection, error) {
	query, args := s.connQuery(f, r)
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanConnection)
}

// connQuery returns the query for a page of one range.
func (s *Store) connQuery(f ConnFilter, r connRange) (query string, args []any) {
	var q connWhere
	if r.workspace != 0 {
		q.and(`c.workspace = ?`, r.workspace)
	}
	if r.user != 0 {
		q.and(`c.user_no = ?`, r.user)
	}
	q.filter(f)
	query = connColumns + ` FROM connections c` + s.engine.pageHint(f, r) + connJoins
	if len(q.terms) > 0 {
		query += " WHERE " + strings.Join(q.terms, " AND ")
	}
	switch {
	case f.LastEnded:
		query += " ORDER BY c.disconnected_at DESC, c.key DESC"
	case f.Ascending:
		query += " ORDER BY c.key"
	default:
		query += " ORDER BY c.key DESC"
	}
	return query + " LIMIT " + strconv.Itoa(f.Limit), q.args
}

// sqlitePageHint names the index of which a page is a range: SQLite does not know how
// many rows have a value, and would take an index that has too many.
func sqlitePageHint(f ConnFilter, r connRange) string {
	if f.IDPrefix != "" {
		return ` NOT INDEXED`
	}
	var columns []string
	if r.workspace != 0 {
		columns = append(columns, "workspace")
	}
	switch { // what few rows have comes first
	case f.Status != 0 && f.Status != StatusClosed:
		columns = append(columns, "live")
	case f.UserName != "" || r.user != 0:
		columns = append(columns, "user")
	case f.Reason != nil:
		columns = append(columns, "reason")
	case f.App != "":
		columns = append(columns, "app")
	case f.Type != nil:
		columns = append(columns, "type")
	case f.Initiator != nil:
		columns = append(columns, "initiator")
	case f.Expected != nil:
		columns = append(columns, "expected")
	case f.ConnectType != 0:
		columns = append(columns, "connect_type")
	}
	if len(columns) == 0 {
		return ""
	}
	return ` INDEXED BY connections_by_` + strings.Join(columns, "_")
}

// connWhere grows a condition.
type connWhere struct {
	terms []string
	args  []any
}

// and adds a term in which ? stands for v.
func (q *connWhere) and(term string, v any) {
	q.args = append(q.args, v)
	q.terms = append(q.terms, strings.ReplaceAll(term, "?", "$"+strconv.Itoa(len(q.args))))
}

func (q *connWhere) filter(f ConnFilter) {
	if f.UserName != "" {
		q.and(`c.user_no = (SELECT no FROM logged_users WHERE name = ?)`, f.UserName)
	}
	if f.Type != nil {
		q.and(`c.type = ?`, int(*f.Type))
	}
	if f.App != "" {
		q.and(`c.app = ?`, f.App)
	}
	if f.ConnectType != 0 {
		q.and(`c.connect_type = ?`, int(f.ConnectType))
	}
	if f.Reason != nil {
		q.and(`c.reason = ?`, int(*f.Reason))
	}
	if f.Initiator != nil {
		q.and(`c.initiator = ?`, int(*f.Initiator))
	}
	if f.Expected != nil {
		q.and(`c.expected = ?`, *f.Expected)
	}
	if f.Locus != "" {
		q.and(`c.locus = ?`, f.Locus)
	}
	if f.Rule != nil {
		q.and(`c.rule = ?`, int(*f.Rule))
	}
	if f.Confidence != 0 {
		q.and(`c.confidence = ?`, int(f.Confidence))
	}
	switch {
	case f.LastEnded:
		q.terms = append(q.terms, `c.live IS NULL`)
	case f.Status == 0:
	case f.Status == StatusClosed:
		q.terms = append(q.terms, `c.live IS NULL`)
	default:
		q.and(`c.live = ?`, int(f.Status))
	}
	if f.IDPrefix != "" {
		q.id(f.IDPrefix)
	}
	q.keys(f)
}

// maxSameID bounds the ids with one beginning that are looked at.
const maxSameID = 1000

// id looks for ids that begin so: few rows, found by their ids whatever else is asked.
func (q *connWhere) id(prefix string) {
	q.args = append(q.args, prefix, prefix+"g") // ids are lower-case hex digits and -
	n := len(q.args)
	q.terms = append(q.terms, fmt.Sprintf(
		`c.key IN (SELECT key FROM connections WHERE id >= $%d AND id < $%d ORDER BY id LIMIT %d)`, n-1, n, maxSameID))
}

// keys bounds the range of keys.
func (q *connWhere) keys(f ConnFilter) {
	if !f.Since.IsZero() {
		q.and(`c.key >= ?`, keyAt(f.Since))
	}
	if !f.Until.IsZero() {
		q.and(`c.key < ?`, keyAt(f.Until))
	}
	if f.Before != 0 {
		q.and(`c.key < ?`, f.Before)
	}
	if f.After != 0 {
		q.and(`c.key > ?`, f.After)
	}
}
