package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/explain"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
)

const (
	// whyWait bounds how long the server is waited for: this machine knows something too.
	whyWait = 10 * time.Second
	// recentEndings is among how many of the last endings that of a session is looked for
	// first: forwards may have ended in great numbers since.
	recentEndings = 100
	// together is how far apart the ends of a session and of its forwards may be told.
	together = 2 * time.Second
)

// inquiry is where the answer to why is looked for.
type inquiry struct {
	api     *sdk.Client
	records *client.Records // nil: this machine notes nothing
	user    string          // who asks; empty: the server knows
}

func newInquiry(profileName string, logger *slog.Logger) (*inquiry, error) {
	p, err := chooseProfile(profileName)
	if err != nil {
		return nil, err
	}
	api, records, err := openAPI(p, logger)
	if err != nil {
		return nil, err
	}
	return &inquiry{api: api, records: records, user: p.User}, nil
}

var idBeginning = regexp.MustCompile(`^[0-9a-f-]{4,36}$`)

// answer says why the session that a person means has ended.
func (q *inquiry) answer(ctx context.Context, name string) (*whyAnswer, error) {
	if name != "" && !validWorkspace(name) && !idBeginning.MatchString(name) {
		return nil, withCode(exitUsage, fmt.Errorf("%q is neither a workspace nor the beginning of a connection's id", plain(name)))
	}
	asking, cancel := context.WithTimeout(ctx, whyWait)
	defer cancel()
	now := time.Now()
	noted := q.noted(name, now)
	row, err := q.find(asking, name)
	if err == nil && noted != nil && noted.ConnectionID != "" && noted.ConnectionID != row.ID && later(noted.Ended, row) {
		row, err = q.api.Connection(asking, noted.ConnectionID) // the log has not recorded its end yet
		if notFound(err) {
			row, err = sdk.Connection{}, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case noServer(err) && noted != nil:
		return q.byMachine(noted, "The server cannot be reached; this is what this machine noted.", now), nil
	case refused(err) && noted != nil:
		return q.byMachine(noted, "The server does not accept this login any more; this is what this machine noted.", now), nil
	case noServer(err):
		return nil, fmt.Errorf("%w; and this machine noted no session of the last 24 hours", err)
	case err != nil:
		return nil, err
	case noted != nil && row.DisconnectedAt == nil && (row.ID == "" || row.ID == noted.ConnectionID):
		return q.byMachine(noted, "The connection log has not recorded its end yet; this is what this machine noted.", now), nil
	case row.ID == "" && name == "":
		return nil, errors.New("no session: none of yours has ended or was interrupted yet")
	case row.ID == "":
		return nil, fmt.Errorf("no session: none to %s that you may see has ended or was interrupted yet", plain(name))
	}
	return q.byServer(row, now), nil
}

// find returns the row that a person means, as the server has it; one without an id if
// there is none.
func (q *inquiry) find(ctx context.Context, name string) (row sdk.Connection, err error) {
	query := sdk.ConnectionQuery{ConnectType: disconnect.AgentToClient.String()}
	switch {
	case name == "":
		if query.User, err = q.whoAsks(ctx); err != nil {
			return row, err
		}
	case validWorkspace(name):
		query.Workspace = name
	default:
		return q.api.Connection(ctx, name)
	}
	if row, err = q.last(ctx, query); err != nil {
		return row, err
	}
	switch {
	case row.ID != "":
		return q.api.Connection(ctx, row.ID) // with its verdict
	case name != "" && idBeginning.MatchString(name):
		if row, err = q.api.Connection(ctx, name); notFound(err) {
			return sdk.Connection{}, nil // it was a workspace after all
		}
	}
	return row, err
}

func (q *inquiry) whoAsks(ctx context.Context) (string, error) {
	if q.user == "" {
		me, err := q.api.WhoAmI(ctx)
		if err != nil {
			return "", err
		}
		q.user = me.Name
	}
	return q.user, nil
}

// last finds what happened last: the end of a session, or an interruption of one that is
// open.
func (q *inquiry) last(ctx context.Context, query sdk.ConnectionQuery) (row sdk.Connection, err error) {
	query.Order, query.Limit = "ended", recentEndings
	for _, only := range []string{"", "ssh", "reconnecting_pty"} {
		query.Type = only
		page, err := q.api.Connections(ctx, query)
		if err != nil {
			return row, err
		}
		if row = lastEnding(page.Connections); row.ID != "" || len(page.Connections) < recentEndings && only == "" {
			break
		}
	}
	query.Order, query.Type, query.Status = "", "", "open"
	open, err := q.api.Connections(ctx, query)
	if err != nil {
		return row, err
	}
	for _, c := range open.Connections {
		if at := interruptedUntil(c); !forwarded(c) && later(at, row) {
			row = c
		}
	}
	return row, nil
}

// later reports whether at is after what happened to row last.
func later(at time.Time, row sdk.Connection) bool {
	last := interruptedUntil(row)
	if row.DisconnectedAt != nil {
		last = *row.DisconnectedAt
	}
	return at.After(last.Add(together))
}

// interruptedUntil is when the last interruption of a row was over; zero: there was none.
func interruptedUntil(c sdk.Connection) time.Time {
	n := len(c.Interruptions)
	if n == 0 {
		return time.Time{}
	}
	last := c.Interruptions[n-1]
	return last.BeganAt.Add(time.Duration(last.Seconds * float64(time.Second)))
}

// lastEnding is the ending that a person asks about: the last one, but not that of a
// forward that ended as it should, or together with its session.
func lastEnding(rows []sdk.Connection) (last sdk.Connection) {
	for _, c := range rows {
		if c.DisconnectedAt == nil || (forwarded(c) && or(c.Expected, false)) {
			continue
		}
		if last.DisconnectedAt == nil || endedAfter(c, last) {
			last = c
		}
	}
	return last
}

// endedAfter reports whether c is a later ending than other, or the one behind it.
func endedAfter(c, other sdk.Connection) bool {
	by := c.DisconnectedAt.Sub(*other.DisconnectedAt)
	if forwarded(c) != forwarded(other) && by.Abs() <= together && or(c.Reason, "") == or(other.Reason, "") {
		return forwarded(other)
	}
	return by > 0
}

// forwarded reports whether c is a channel beside a session.
func forwarded(c sdk.Connection) bool {
	switch c.Type {
	case "port_forward", "jetbrains", "vscode":
		return true
	}
	return false
}

// noServer reports whether there was no answer of a server.
func noServer(err error) bool {
	var api *sdk.Error
	if !errors.As(err, &api) {
		return errors.Is(err, context.DeadlineExceeded)
	}
	switch api.Status {
	case 0:
		return api.Err != nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// refused reports whether the server does not know who asks.
func refused(err error) bool {
	var api *sdk.Error
	return errors.As(err, &api) && api.Status == http.StatusUnauthorized
}

func notFound(err error) bool { return sdk.IsCode(err, sdk.CodeNotFound) }

// noted is what this machine noted of the session that a person means; nil: nothing.
func (q *inquiry) noted(name string, now time.Time) *client.Recent {
	for _, r := range q.records.Recent(now) {
		if name == "" || r.Workspace == name || strings.HasSuffix(r.Workspace, "/"+name) ||
			idBeginning.MatchString(name) && strings.HasPrefix(r.ConnectionID, name) {
			return &r
		}
	}
	return nil
}

// byMachine is the answer from what this machine noted.
func (q *inquiry) byMachine(noted *client.Recent, note string, now time.Time) *whyAnswer {
	t := noted.Testimony
	t.ConnectionID = noted.ConnectionID
	v := verdict.Judge([]verdict.Testimony{t}, verdict.Context{ConnectionID: noted.ConnectionID})
	if v.Kind == verdict.Ending && v.Rule >= verdict.R10 && t.Account.Reason != disconnect.Unknown {
		v.Attribution = t.Account // what it was told at its end
	}
	v.Kind, v.Final, v.Waiting = verdict.Ending, true, nil
	told := explain.Tell(v, explain.Frame{Ended: noted.Ended}, q.viewer(true, "", noted.Workspace), now)
	told.Waiting = "The server may know more."
	return &whyAnswer{Source: fromMachine, Note: note, Explanation: told, ConnectionID: noted.ConnectionID, Workspace: plain(noted.Workspace)}
}

func (q *inquiry) viewer(mine bool, user, workspace string) explain.Viewer {
	return explain.Viewer{Mine: mine, User: user, Workspace: workspace, Program: programName(), Zone: time.Local}
}

// byServer is the answer from a row: by its verdict, told in this machine's time; of a
// verdict that this version cannot read, and of a row without one, in the server's words.
func (q *inquiry) byServer(row sdk.Connection, now time.Time) *whyAnswer {
	a := &whyAnswer{Source: fromServer, ConnectionID: row.ID, Workspace: reachedAs(row, q.user)}
	switch v, ok := verdictOf(row); {
	case row.Explanation == nil:
		a.Explanation = goesOn(row, a.Workspace, now)
	case !ok:
		a.Explanation = *row.Explanation
	default:
		viewer := q.viewer(row.User == q.user, row.User, a.Workspace)
		viewer.Terminal = row.Explanation.Terminal
		frame := explain.Frame{Opened: row.ConnectedAt, Ended: or(row.DisconnectedAt, time.Time{}), Path: row.Path}
		a.Explanation = explain.Tell(v, frame, viewer, now)
	}
	row.Explanation = nil // it is in the answer
	a.Connection = &row
	return a
}

// reachedAs is how a user calls the workspace of a row.
func reachedAs(row sdk.Connection, user string) string {
	if row.Owner == user || row.Workspace == "" {
		return row.Workspace
	}
	return row.Owner + "/" + row.Workspace
}

// verdictOf is what ended a row, or interrupted it last.
func verdictOf(row sdk.Connection) (v verdict.Verdict, ok bool) {
	if row.Verdict != nil {
		raw, err := json.Marshal(row.Verdict)
		if err != nil || json.Unmarshal(raw, &v) != nil {
			return v, false // of a newer server
		}
		n := len(row.Interruptions)
		if row.DisconnectedAt != nil || n > 0 && v.Kind == verdict.Interruption && v.Over.After(row.Interruptions[n-1].BeganAt) {
			return v, true
		}
	}
	return asLogged(row)
}

// asLogged is a verdict that says no more than the row does.
func asLogged(row sdk.Connection) (v verdict.Verdict, ok bool) {
	v = verdict.Verdict{ConnectionID: row.ID, Rule: verdict.R11, Final: true}
	var words struct{ reason, initiator, detail string }
	switch n := len(row.Interruptions); {
	case row.DisconnectedAt != nil:
		v.Kind, v.Noticed, v.Final = verdict.Ending, *row.DisconnectedAt, !row.Provisional
		words.reason, words.initiator, words.detail = or(row.Reason, ""), or(row.Initiator, ""), or(row.Detail, "")
		if row.ExitCode != nil {
			code := int32(*row.ExitCode)
			v.ExitCode = &code
		}
	case n > 0:
		last := row.Interruptions[n-1]
		v.Kind, v.Began, v.Noticed, v.Over = verdict.Interruption, last.BeganAt, last.BeganAt, interruptedUntil(row)
		words.reason, words.initiator, words.detail = last.Reason, last.Initiator, last.Detail
	}
	var errs [3]error
	v.Detail = words.detail
	v.Reason, errs[0] = disconnect.ParseReason(words.reason)
	v.Initiator, errs[1] = disconnect.ParseInitiator(words.initiator)
	v.ConnectType, errs[2] = disconnect.ParseConnectType(row.ConnectType)
	return v, errors.Join(errs[:]...) == nil
}

// goesOn is of a connection that has neither ended nor was interrupted.
func goesOn(row sdk.Connection, workspace string, now time.Time) sdk.Explanation {
	what := "session"
	switch row.Type {
	case "port_forward", "jetbrains", "vscode":
		what = "forwarded port"
	case "control":
		what = "link to the server"
	}
	if workspace != "" {
		what += " on " + workspace
	}
	state := "it is open"
	if row.Status == "unheard" {
		state = "it was open when the server last heard of it,"
	}
	return sdk.Explanation{
		Kind: row.Status, Expected: true, Timeline: []sdk.TimelineEntry{},
		Sentence: fmt.Sprintf("The %s has not ended: %s since %s.", what, state, localTime(row.ConnectedAt, now)),
	}
}
