package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Connection is one row of the connection log. What says how it ended is null until it
// is closed.
type Connection struct {
	ID string `json:"id"`
	// Workspace and Owner are empty for the control link of a client, User for that of
	// an agent.
	Workspace string `json:"workspace"`
	Owner     string `json:"owner"`
	User      string `json:"user"`
	// Type is ssh, vscode, jetbrains, reconnecting_pty, port_forward or control.
	Type        string `json:"type"`
	App         string `json:"app"`
	ConnectType string `json:"connect_type"`
	// Status is open, closed, or unheard: open when the server last heard of it.
	Status         string     `json:"status"`
	ConnectedAt    time.Time  `json:"connected_at"`
	DisconnectedAt *time.Time `json:"disconnected_at"`
	Reason         *string    `json:"disconnect_reason"`
	Expected       *bool      `json:"disconnect_expected"`
	Initiator      *string    `json:"disconnect_initiator"`
	Detail         *string    `json:"disconnect_detail"`
	// ExitCode is null when no process ended.
	ExitCode *int `json:"exit_code"`
	// Path is direct, relay, or empty when it is not known.
	Path          string `json:"path"`
	IP            string `json:"ip"`
	ClientVersion string `json:"client_version"`
	BytesSent     int64  `json:"bytes_sent"`     // to the client
	BytesReceived int64  `json:"bytes_received"` // from the client
	// Provisional endings may still be replaced by a better one, as Revision counts.
	Provisional bool `json:"provisional"`
	Revision    int  `json:"revision"`
	// What follows is of the verdict that the row has now, null before anybody has testified.
	Locus      *string `json:"locus"`      // client, agent, server, relay, client_net, agent_net, path, or empty
	Rule       *string `json:"rule"`       // R1 to R11
	Evidence   *string `json:"evidence"`   // declared, local, inferred or correlated
	Confidence *string `json:"confidence"` // certain, high or low
	Observer   *string `json:"observer"`   // whose word decided
	// The same times by the clock of the agent; null when the server saw it itself.
	ObservedConnectedAt    *time.Time `json:"observed_connected_at"`
	ObservedDisconnectedAt *time.Time `json:"observed_disconnected_at"`
	// Interruptions are the times in which the client was not heard, and that the
	// connection survived, oldest first. While rows are followed they are left out.
	Interruptions []Interruption `json:"interruptions,omitempty"`
	// Verdict is who ended it and why, by all that was testified: with the rule that decided,
	// the evidence, and how sure that is. Only the answer about one connection has it, and
	// only once somebody has testified.
	Verdict any `json:"verdict,omitempty"`
	// Explanation is the verdict in plain language. Only the answer about one connection has
	// it, once the connection has ended or was interrupted.
	Explanation *Explanation `json:"explanation,omitempty"`
	// Incident is the event that others were lost by too, if there was one. Only the answer
	// about one connection has it.
	Incident *Incident `json:"incident,omitempty"`
}

// Incident is one event that several connections were lost by.
type Incident struct {
	// Element is what they had in common.
	Element IncidentElement `json:"element"`
	Began   time.Time       `json:"began"`
	Noticed time.Time       `json:"noticed"`
	// Connections are the ids of those that the caller may see, Others how many more there are.
	Connections []string `json:"connections"`
	Others      int      `json:"others"`
	Reason      string   `json:"disconnect_reason"` // of most of them
	Initiator   string   `json:"disconnect_initiator"`
}

// IncidentElement is what connections that were lost together have in common.
type IncidentElement struct {
	Kind string `json:"kind"` // agent, client, relay, path or server
	Name string `json:"name"` // may be empty
}

// Explanation says in plain language why a connection ended, or was interrupted. All of its
// texts are whole sentences or empty, unless it is said otherwise.
type Explanation struct {
	Kind     string `json:"kind"`     // ending, interruption, or attempt: it never came to be
	Sentence string `json:"sentence"` // what happened, when and where
	Expected bool   `json:"expected"`
	Normal   string `json:"normal"` // the same in words
	Who      string `json:"who"`    // who began it: a noun, as in: your laptop
	// Confidence says how sure this is and on what it rests, Waiting who may still say more;
	// it is empty once the verdict is final.
	Confidence string `json:"confidence"`
	Waiting    string `json:"waiting"`
	NextStep   string `json:"next_step"` // what helps most; empty if nothing needs to be done
	// Terminal: a terminal of the user's lives in the workspace, to be attached to.
	Terminal bool `json:"terminal"`
	// Timeline is what each party saw, the earliest first; what has no time comes last. It is
	// all of the evidence.
	Timeline []TimelineEntry `json:"timeline"`
}

// TimelineEntry is one thing that was seen. Its times are by the server's clock.
type TimelineEntry struct {
	At    *time.Time `json:"at"`    // null if it is not known
	Until *time.Time `json:"until"` // null if it was a moment, or is not over
	// ErrorSeconds is how far At may be wrong, for the clocks of two hosts differ.
	ErrorSeconds float64 `json:"error_seconds"`
	// Party is client, agent, server or relay, whoever saw it; log for the connection log.
	Party string `json:"party"`
	Who   string `json:"who"`  // the same in words; the subject of Says
	Says  string `json:"says"` // the predicate, as in: heard nothing of the agent of dev
	// Role is what it is to the verdict: decided, supports, consequence, denied,
	// not_believed, hearsay; empty for the connection log.
	Role string `json:"role"`
	Fact string `json:"fact"` // its word in the verdict; empty for the connection log
}

// TestimonyList is what was testified of one connection, as it came.
type TestimonyList struct {
	Testimonies []json.RawMessage `json:"testimonies"`
}

// Interruption is a time in which an end of a connection was not heard by the other. It
// is no disconnect, though it has the same five fields.
type Interruption struct {
	BeganAt     time.Time `json:"began_at"`
	Seconds     float64   `json:"seconds"`
	ConnectType string    `json:"connect_type"`
	Reason      string    `json:"disconnect_reason"`
	Expected    bool      `json:"disconnect_expected"`
	Initiator   string    `json:"disconnect_initiator"`
	Detail      string    `json:"disconnect_detail"`
}

// ConnectionPage is a part of the connection log, the newest first.
type ConnectionPage struct {
	Connections []Connection `json:"connections"`
	// Next is the cursor of the page behind this one; empty: there is none.
	Next string `json:"next,omitempty"`
}

// ConnectionQuery chooses rows of the connection log; an empty field chooses all.
type ConnectionQuery struct {
	Workspace   string // NAME or OWNER/NAME
	User        string
	Type        string
	App         string
	ConnectType string
	Reason      string
	Initiator   string
	Expected    string // true or false
	Locus       string
	Rule        string // R1 to R11
	Confidence  string // certain, high or low
	Status      string
	ID          string // the beginning of the id
	Since       time.Time
	Until       time.Time
	// Order is begun, or empty: the one that began last comes first; or ended: only those
	// that have ended, the one that ended last first, in one page.
	Order  string
	Limit  int    // of the page; 0: the server's
	Cursor string // from ConnectionPage.Next
}

// MaxConnectionPage is the most rows that the server gives at once.
const MaxConnectionPage = 1000

// MinIDPrefix is the shortest beginning of a connection's id to look for.
const MinIDPrefix = 4

// Values returns q as an URL's query.
func (q ConnectionQuery) Values() url.Values {
	v := make(url.Values)
	for name, value := range map[string]string{
		"workspace": q.Workspace, "user": q.User, "type": q.Type, "app": q.App, "connect_type": q.ConnectType,
		"reason": q.Reason, "initiator": q.Initiator, "expected": q.Expected, "locus": q.Locus, "rule": q.Rule, "confidence": q.Confidence, "status": q.Status, "id": q.ID, "order": q.Order, "cursor": q.Cursor,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Connections returns one page of the connection log: of all connections for an admin,
// of the caller's own and those to their workspaces for everybody else.
func (c *Client) Connections(ctx context.Context, q ConnectionQuery) (ConnectionPage, error) {
	var out ConnectionPage
	err := c.doQuery(ctx, http.MethodGet, "/api/v1/connections", q.Values(), nil, &out)
	return out, err
}

// Connection returns the connection whose id begins with prefix. None, and more than
// one, are errors.
func (c *Client) Connection(ctx context.Context, prefix string) (Connection, error) {
	page, err := c.Connections(ctx, ConnectionQuery{ID: prefix, Limit: 2})
	switch {
	case err != nil:
		return Connection{}, err
	case len(page.Connections) == 0:
		return Connection{}, &Error{Status: http.StatusNotFound, Code: CodeNotFound, Message: fmt.Sprintf("no connection of yours has an id that begins with %q", prefix)}
	case len(page.Connections) > 1:
		return Connection{}, &Error{Code: CodeInvalid, Message: fmt.Sprintf("more than one connection has an id that begins with %q: give more of it", prefix)}
	}
	var out Connection // with its verdict
	err = c.do(ctx, http.MethodGet, "/api/v1/connections/"+page.Connections[0].ID, nil, &out)
	return out, err
}

// Testify tells what the client saw of the end of a connection of its user, as JSON. It
// returns the row as it is with that; an older server tells nothing of it.
func (c *Client) Testify(ctx context.Context, id string, testimony json.RawMessage) (Connection, error) {
	var out Connection
	err := c.do(ctx, http.MethodPost, "/api/v1/connections/"+url.PathEscape(id)+"/testimonies", testimony, &out)
	return out, err
}

// Testimonies returns what was testified of a connection, as it came. The id is whole.
func (c *Client) Testimonies(ctx context.Context, id string) (TestimonyList, error) {
	var out TestimonyList
	err := c.do(ctx, http.MethodGet, "/api/v1/connections/"+url.PathEscape(id)+"/testimonies", nil, &out)
	return out, err
}

// ConnectionPages returns the pages of the connection log that q chooses, one after the
// other, until limit rows; 0: all.
func (c *Client) ConnectionPages(ctx context.Context, q ConnectionQuery, limit int) iter.Seq2[[]Connection, error] {
	return func(yield func([]Connection, error) bool) {
		for left := limit; limit == 0 || left > 0; {
			q.Limit = MaxConnectionPage
			if limit != 0 {
				q.Limit = min(left, MaxConnectionPage)
			}
			page, err := c.Connections(ctx, q)
			left -= len(page.Connections)
			if err == nil && len(page.Connections) == 0 {
				return
			}
			if !yield(page.Connections, err) || err != nil || page.Next == "" {
				return
			}
			q.Cursor = page.Next
		}
	}
}

// FollowConnections calls each with the rows that q chooses as they open and close,
// until ctx ends, each fails or the server ends it; it returns why.
func (c *Client) FollowConnections(ctx context.Context, q ConnectionQuery, each func(Connection) error) error {
	query := q.Values()
	query.Set("follow", "true")
	lines, err := c.stream(ctx, "/api/v1/connections", query)
	if err != nil {
		return err
	}
	defer lines.Close()
	for decoder := json.NewDecoder(lines); ; {
		var line struct {
			Connection
			Error *ErrorBody `json:"error"` // the last line, if the server ends it
		}
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) {
			return &Error{Code: CodeUnavailable, Message: fmt.Sprintf("the stream of the server at %s was cut", c.base)}
		} else if err != nil {
			return c.unreachable(err)
		}
		if e := line.Error; e != nil {
			return &Error{Code: disconnect.Scrub(e.Code), Message: fmt.Sprintf("the server at %s ended the stream: %s", c.base, disconnect.Scrub(e.Message))}
		}
		if err := each(line.Connection); err != nil {
			return err
		}
	}
}
