package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// defaultPage is how many rows a page of the connection log has when nobody says.
const defaultPage = 100

// getConnections answers with a page of the connection log: everything for an admin,
// for others what they connected to and who connected to them.
func (s *Server) getConnections(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	query := r.URL.Query()
	follows := query.Get("follow") == "true"
	if query.Has("follow") && !follows && query.Get("follow") != "false" {
		return invalid("follow is true or false")
	}
	query.Del("follow")
	f, err := connFilter(query)
	if err != nil {
		return err
	}
	f.For = visibleTo(p)
	if f.LastEnded && (follows || f.Before != 0) {
		return invalid("order=ended has one page: give a limit instead of a cursor, and do not follow it")
	}
	if follows {
		if !query.Has("limit") {
			f.Limit = 0
		}
		return s.followConnections(w, r, p, f)
	}
	limit := f.Limit
	f.Limit++ // one more than asked for tells whether there is a next page
	rows, err := s.store.Connections(r.Context(), f)
	if err != nil {
		return err
	}
	if err := s.store.AddInterruptions(r.Context(), rows); err != nil {
		return err
	}
	page := sdk.ConnectionPage{Connections: make([]sdk.Connection, 0, min(limit, len(rows)))}
	for i, row := range rows {
		if i == limit {
			if !f.LastEnded {
				page.Next = strconv.FormatInt(rows[i-1].Key, 36)
			}
			break
		}
		page.Connections = append(page.Connections, s.connectionOut(row))
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

// visibleTo is the user whose connections p sees; empty: all are seen.
func visibleTo(p auth.Principal) string {
	if p.IsAdmin() {
		return ""
	}
	return p.UserID
}

// getConnection answers with one row.
func (s *Server) getConnection(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	row, err := s.connection(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	rows := []store.Connection{row}
	if err := s.store.AddInterruptions(r.Context(), rows); err != nil {
		return err
	}
	out := s.connectionOut(rows[0])
	v, testimonies, err := connlog.Judge(r.Context(), s.store.ConnReader(), row, s.opts.Now())
	if err != nil {
		return err
	}
	if testimonies > 0 {
		out.Verdict = v
	}
	if out.Explanation, err = s.explained(r.Context(), rows[0], v, testimonies > 0, p); err != nil {
		return err
	}
	if out.Incident, err = s.incident(r.Context(), row, v, p); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// getTestimonies answers with what was testified of one connection, to those who see it.
func (s *Server) getTestimonies(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	row, err := s.connection(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	raw, err := s.store.Testimonies(r.Context(), row.Key)
	if err != nil {
		return err
	}
	list := sdk.TestimonyList{Testimonies: make([]json.RawMessage, 0, len(raw))}
	for _, t := range raw {
		list.Testimonies = append(list.Testimonies, t.Body)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// postTestimony takes what a client saw of the end of a session, or of a control link, of
// its user.
func (s *Server) postTestimony(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	row, err := s.connection(r.Context(), p, r.PathValue("id"))
	if err != nil {
		return err
	}
	if row.ConnectType == disconnect.ServerToAgent || row.User.ID != p.UserID {
		return errNoConnection // whose it is not has nothing to say of it
	}
	var body json.RawMessage
	if err := readJSON(r, &body); err != nil {
		return err
	}
	t, err := connlog.ParseTestimony(body, disconnect.Client, p.UserID)
	if err != nil {
		return invalid(disconnect.Scrub(err.Error()))
	}
	if err := s.connlog.Testify(r.Context(), row.ID, t); err != nil {
		return err
	}
	s.endOrphan(row, t)
	if row, err = s.connection(r.Context(), p, row.ID); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.connectionOut(row))
	return nil
}

// getConnectionGaps answers with the times of which the log may be incomplete.
func (s *Server) getConnectionGaps(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	query := r.URL.Query()
	for name := range query {
		if name != "workspace" && name != "since" && name != "limit" {
			return invalid("there is no filter " + strconv.Quote(disconnect.Scrub(name)) + " for gaps")
		}
	}
	f, err := connFilter(query)
	if err != nil {
		return err
	}
	gaps, err := s.store.Gaps(r.Context(), store.GapFilter{
		For: visibleTo(p), WorkspaceName: f.WorkspaceName, OwnerName: f.OwnerName, Since: f.Since, Limit: f.Limit,
	})
	if err != nil {
		return err
	}
	list := sdk.ConnectionGapList{Gaps: make([]sdk.ConnectionGap, 0, len(gaps))}
	for _, g := range gaps {
		list.Gaps = append(list.Gaps, sdk.ConnectionGap{
			Workspace: g.Workspace.Name, Owner: g.Workspace.Owner.Name, Began: g.Began, Ended: g.Ended, Detail: g.Detail,
		})
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// connectionOut is a row as the API shows it.
func (s *Server) connectionOut(c store.Connection) sdk.Connection {
	out := sdk.Connection{
		ID: c.ID, Workspace: c.Workspace.Name, Owner: c.Workspace.Owner.Name, User: c.User.Name,
		Type: c.Type.String(), App: c.App, ConnectType: c.ConnectType.String(), Status: c.Status.String(),
		ConnectedAt: c.ConnectedAt, Path: c.Path.String(), IP: c.IP, ClientVersion: c.ClientVersion,
		BytesSent: c.BytesSent, BytesReceived: c.BytesReceived, Provisional: c.MayChange(s.opts.Now()), Revision: c.Revision,
		ObservedConnectedAt: timeOrNil(c.ObservedAt),
	}
	if c.Status == store.StatusClosed {
		reason, expected, initiator, detail := c.Ending.Reason.String(), c.Ending.Expected(), c.Ending.Initiator.String(), c.Ending.Detail
		out.DisconnectedAt, out.ObservedDisconnectedAt = timeOrNil(c.DisconnectedAt), timeOrNil(c.EndObservedAt)
		out.Reason, out.Expected, out.Initiator, out.Detail = &reason, &expected, &initiator, &detail
		out.ExitCode = c.ExitCode
	}
	if j := c.Judgement; j.Judged {
		rule, evidence, confidence, observer := j.Rule.String(), j.Evidence.String(), j.Confidence.String(), j.Observer.String()
		out.Locus, out.Rule, out.Evidence, out.Confidence, out.Observer = &j.Locus, &rule, &evidence, &confidence, &observer
	}
	for _, i := range c.Interruptions {
		out.Interruptions = append(out.Interruptions, sdk.Interruption{
			BeganAt: i.Began, Seconds: i.Duration.Seconds(), ConnectType: c.ConnectType.String(),
			Reason: i.Attribution.Reason.String(), Expected: i.Attribution.Expected(),
			Initiator: i.Attribution.Initiator.String(), Detail: i.Attribution.Detail,
		})
	}
	return out
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// filters reads each parameter of a query for connections.
var filters = map[string]func(f *store.ConnFilter, value string) error{
	"workspace": func(f *store.ConnFilter, v string) error { return setWorkspace(f, v) },
	"user":      func(f *store.ConnFilter, v string) error { return setName(&f.UserName, "user", v) },
	"app":       func(f *store.ConnFilter, v string) error { f.App = v; return nil },
	"type": func(f *store.ConnFilter, v string) (err error) {
		t, err := store.ParseConnType(v)
		f.Type = &t
		return err
	},
	"connect_type": func(f *store.ConnFilter, v string) (err error) {
		f.ConnectType, err = disconnect.ParseConnectType(v)
		return err
	},
	"reason": func(f *store.ConnFilter, v string) error {
		reason, err := disconnect.ParseReason(v)
		f.Reason = &reason
		return err
	},
	"initiator": func(f *store.ConnFilter, v string) error {
		initiator, err := disconnect.ParseInitiator(v)
		f.Initiator = &initiator
		return err
	},
	"locus": func(f *store.ConnFilter, v string) error { f.Locus = v; return nil },
	"rule": func(f *store.ConnFilter, v string) error {
		f.Rule = new(verdict.Rule)
		return f.Rule.UnmarshalText([]byte(v))
	},
	"confidence": func(f *store.ConnFilter, v string) (err error) {
		f.Confidence, err = disconnect.ParseConfidence(v)
		return err
	},
	"expected": func(f *store.ConnFilter, v string) error {
		if v != "true" && v != "false" {
			return invalid("expected is true or false")
		}
		yes := v == "true"
		f.Expected = &yes
		return nil
	},
	"status": func(f *store.ConnFilter, v string) (err error) {
		f.Status, err = store.ParseConnStatus(v)
		return err
	},
	"id":    setIDPrefix,
	"since": func(f *store.ConnFilter, v string) error { return setTime(&f.Since, "since", v) },
	"until": func(f *store.ConnFilter, v string) error { return setTime(&f.Until, "until", v) },
	"order": func(f *store.ConnFilter, v string) error {
		if v != "begun" && v != "ended" {
			return invalid("order is begun or ended")
		}
		f.LastEnded = v == "ended"
		return nil
	},
	"limit": func(f *store.ConnFilter, v string) (err error) {
		f.Limit, err = strconv.Atoi(v)
		if err != nil || f.Limit < 1 || f.Limit > sdk.MaxConnectionPage {
			return invalid("limit is a number from 1 to " + strconv.Itoa(sdk.MaxConnectionPage))
		}
		return nil
	},
	"cursor": func(f *store.ConnFilter, v string) (err error) {
		f.Before, err = strconv.ParseInt(v, 36, 64)
		if err != nil || f.Before <= 0 {
			return invalid("the cursor is not one that this server gave")
		}
		return nil
	},
}

// connFilter reads a query. What it does not know it refuses: a filter that is
// misspelt would show what was not asked for.
func connFilter(query url.Values) (store.ConnFilter, error) {
	f := store.ConnFilter{Limit: defaultPage}
	for name, values := range query {
		set := filters[name]
		if set == nil {
			return f, invalid("there is no filter " + strconv.Quote(disconnect.Scrub(name)))
		}
		if len(values) != 1 {
			return f, invalid("the filter " + name + " is given more than once")
		}
		if err := set(&f, values[0]); err != nil {
			return f, invalid(disconnect.Scrub(err.Error()))
		}
	}
	return f, nil
}

func setWorkspace(f *store.ConnFilter, v string) error {
	owner, name, ok := strings.Cut(v, "/")
	if !ok {
		owner, name = "", v
	}
	if owner != "" {
		if err := setName(&f.OwnerName, "workspace", owner); err != nil {
			return err
		}
	}
	return setName(&f.WorkspaceName, "workspace", name)
}

func setName(to *string, what, v string) error {
	if !sdk.ValidName(v) {
		return invalid("the " + what + " is not a name: " + sdk.NameRule)
	}
	*to = v
	return nil
}

func setTime(to *time.Time, what, v string) (err error) {
	if *to, err = time.Parse(time.RFC3339Nano, v); err != nil {
		return invalid(what + " is a time as in 2026-11-23T14:02:00Z")
	}
	return nil
}

var idForm = regexp.MustCompile(`^[0-9a-f-]{4,36}$`)

func setIDPrefix(f *store.ConnFilter, v string) error {
	if !idForm.MatchString(v) {
		return invalid("a connection's id begins with at least 4 of 0-9, a-f and -")
	}
	f.IDPrefix = v
	return nil
}
