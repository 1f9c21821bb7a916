package cli

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"fairlead.dev/fairlead/sdk"
)

// connectionWriter writes rows of the connection log in one format.
type connectionWriter interface {
	// write writes rows, as many as there are at a time.
	write([]sdk.Connection) error
	// end is called once, after the last.
	end() error
}

func newConnectionWriter(s streams, format string, now func() time.Time) (connectionWriter, error) {
	switch format {
	case "table":
		return &tableWriter{s: s, now: now}, nil
	case "json":
		return &arrayWriter{s: s}, nil
	case "ndjson":
		return lineWriter{json.NewEncoder(s.out)}, nil
	case "csv":
		return &csvWriter{w: csv.NewWriter(s.out)}, nil
	}
	return nil, withCode(exitUsage, fmt.Errorf("--output %q is not known; use table, json, csv or ndjson", plain(format)))
}

// lineWriter writes one JSON object per line.
type lineWriter struct{ *json.Encoder }

func (w lineWriter) write(rows []sdk.Connection) error {
	for _, c := range rows {
		if err := w.Encode(c); err != nil {
			return err
		}
	}
	return nil
}

func (lineWriter) end() error { return nil }

// arrayWriter writes one JSON array, as the rows come.
type arrayWriter struct {
	s     streams
	begun bool
}

func (w *arrayWriter) write(rows []sdk.Connection) error {
	for _, c := range rows {
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		lead := "["
		if w.begun {
			lead = ",\n "
		}
		w.begun = true
		if _, err := fmt.Fprintf(w.s.out, "%s%s", lead, b); err != nil {
			return err
		}
	}
	return nil
}

func (w *arrayWriter) end() error {
	text := "]"
	if !w.begun {
		text = "[]"
	}
	_, err := fmt.Fprintln(w.s.out, text)
	return err
}

// csvWriter writes comma-separated values with a header.
type csvWriter struct {
	w     *csv.Writer
	begun bool
}

// csvColumns are the columns in order.
var csvColumns = []struct {
	name string
	cell func(c sdk.Connection) string
}{
	{"id", func(c sdk.Connection) string { return c.ID }},
	{"workspace", func(c sdk.Connection) string { return c.Workspace }},
	{"owner", func(c sdk.Connection) string { return c.Owner }},
	{"user", func(c sdk.Connection) string { return c.User }},
	{"type", func(c sdk.Connection) string { return c.Type }},
	{"app", func(c sdk.Connection) string { return c.App }},
	{"connect_type", func(c sdk.Connection) string { return c.ConnectType }},
	{"status", func(c sdk.Connection) string { return c.Status }},
	{"connected_at", func(c sdk.Connection) string { return stamp(&c.ConnectedAt) }},
	{"disconnected_at", func(c sdk.Connection) string { return stamp(c.DisconnectedAt) }},
	{"disconnect_reason", func(c sdk.Connection) string { return or(c.Reason, "") }},
	{"disconnect_expected", func(c sdk.Connection) string { return printed(c.Expected) }},
	{"disconnect_initiator", func(c sdk.Connection) string { return or(c.Initiator, "") }},
	{"disconnect_detail", func(c sdk.Connection) string { return or(c.Detail, "") }},
	{"exit_code", func(c sdk.Connection) string { return printed(c.ExitCode) }},
	{"path", func(c sdk.Connection) string { return c.Path }},
	{"ip", func(c sdk.Connection) string { return c.IP }},
	{"client_version", func(c sdk.Connection) string { return c.ClientVersion }},
	{"bytes_sent", func(c sdk.Connection) string { return strconv.FormatInt(c.BytesSent, 10) }},
	{"bytes_received", func(c sdk.Connection) string { return strconv.FormatInt(c.BytesReceived, 10) }},
}

func (w *csvWriter) write(rows []sdk.Connection) error {
	w.header()
	for _, c := range rows {
		cells := make([]string, 0, len(csvColumns))
		for _, column := range csvColumns {
			cells = append(cells, cell(column.cell(c)))
		}
		if err := w.w.Write(cells); err != nil {
			return err
		}
	}
	w.w.Flush()
	return w.w.Error()
}

func (w *csvWriter) header() {
	if w.begun {
		return
	}
	w.begun = true
	names := make([]string, 0, len(csvColumns))
	for _, column := range csvColumns {
		names = append(names, column.name)
	}
	_ = w.w.Write(names) // the error is kept for Error
}

func (w *csvWriter) end() error {
	w.header()
	w.w.Flush()
	return w.w.Error()
}

// cell makes text safe in a spreadsheet: what begins with one of these characters would
// be taken for a formula.
func cell(text string) string {
	text = plain(text)
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

// tableWriter writes lines for people, with columns as wide as the first rows need.
type tableWriter struct {
	s      streams
	now    func() time.Time
	widths []int // of all columns but the last; nil: nothing was written yet
}

var tableColumns = []string{"ID", "WORKSPACE", "USER", "TYPE", "BEGAN", "LASTED", "END", "BY", "DETAIL"}

func (w *tableWriter) write(rows []sdk.Connection) error {
	lines := make([][]string, 0, len(rows)+1)
	if w.widths == nil {
		lines = append(lines, tableColumns)
	}
	for _, c := range rows {
		lines = append(lines, tableRow(c, w.now()))
	}
	if w.widths == nil {
		w.widths = make([]int, len(tableColumns)-1)
		for _, line := range lines {
			for i := range w.widths {
				w.widths[i] = max(w.widths[i], len(line[i]))
			}
		}
	}
	for _, line := range lines {
		var b strings.Builder
		for i, width := range w.widths {
			fmt.Fprintf(&b, "%-*s  ", width, line[i])
		}
		b.WriteString(line[len(line)-1])
		if _, err := fmt.Fprintln(w.s.out, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

func (w *tableWriter) end() error {
	if w.widths == nil {
		fmt.Fprintln(w.s.err, "There is no such connection.")
	}
	return nil
}

func tableRow(c sdk.Connection, now time.Time) []string {
	end, lasted := c.Status, now.Sub(c.ConnectedAt)
	if c.DisconnectedAt != nil {
		end, lasted = or(c.Reason, c.Status), c.DisconnectedAt.Sub(c.ConnectedAt)
	}
	if c.Provisional {
		end += "?"
	}
	row := []string{shortID(c.ID), c.Workspace, c.User, c.Type, localTime(c.ConnectedAt, now), age(lasted), end, or(c.Initiator, ""), or(c.Detail, "")}
	for i, text := range row[:len(row)-1] {
		if row[i] = plain(text); row[i] == "" {
			row[i] = "-"
		}
	}
	row[len(row)-1] = plain(row[len(row)-1])
	return row
}

// shortID is as much of an id as people need.
func shortID(id string) string {
	short, _, _ := strings.Cut(id, "-")
	return short
}

// localTime prints a time as short as it is clear.
func localTime(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	switch {
	case t.Year() == now.Year() && t.YearDay() == now.YearDay():
		return t.Format("15:04:05")
	case now.Sub(t) < 300*24*time.Hour:
		return t.Format("Jan 02 15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// or returns what p points to, or something else.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// printed prints what p points to; nothing for nil.
func printed[T any](p *T) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(*p)
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// printConnection writes all that is known of one connection, a line for each fact.
func printConnection(s streams, c sdk.Connection) error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, plain(value))
		}
	}
	line("id", c.ID)
	if c.Workspace != "" {
		line("workspace", c.Owner+"/"+c.Workspace)
	}
	line("user", c.User)
	line("type", c.Type)
	line("app", c.App)
	line("connect_type", c.ConnectType)
	line("status", c.Status)
	line("path", c.Path)
	line("ip", c.IP)
	line("client_version", c.ClientVersion)
	line("connected_at", both(&c.ConnectedAt, c.ObservedConnectedAt))
	line("disconnected_at", both(c.DisconnectedAt, c.ObservedDisconnectedAt))
	if c.DisconnectedAt != nil {
		line("duration", c.DisconnectedAt.Sub(c.ConnectedAt).Round(time.Millisecond).String())
	}
	if c.Type != "control" {
		line("bytes_sent", strconv.FormatInt(c.BytesSent, 10))
		line("bytes_received", strconv.FormatInt(c.BytesReceived, 10))
	}
	line("exit_code", printed(c.ExitCode))
	line("disconnect_reason", or(c.Reason, ""))
	line("disconnect_expected", printed(c.Expected))
	line("disconnect_initiator", or(c.Initiator, ""))
	line("disconnect_detail", or(c.Detail, ""))
	if c.Provisional {
		line("provisional", "true: a witness may still tell more")
	}
	if c.Revision > 0 {
		line("revision", strconv.Itoa(c.Revision))
	}
	for _, i := range c.Interruptions {
		lasted := time.Duration(i.Seconds * float64(time.Second)).Round(time.Second)
		line("interruption", fmt.Sprintf("%s for %v: %s by %s, expected=%t, %s", stamp(&i.BeganAt), lasted, i.Reason, i.Initiator, i.Expected, i.Detail))
	}
	return w.Flush()
}

// both prints a time on the server's clock, and on the agent's if it is told and shows
// another second.
func both(t, observed *time.Time) string {
	text := stamp(t)
	if observed != nil && observed.Sub(*t).Abs() >= time.Second {
		text += " (" + stamp(observed) + " by the agent's clock)"
	}
	return text
}

// followConnections writes rows as they open and close, until ctx ends, which is the way
// to end it and no error.
func followConnections(ctx context.Context, api *sdk.Client, q sdk.ConnectionQuery, out connectionWriter) error {
	err := api.FollowConnections(ctx, q, func(c sdk.Connection) error { return out.write([]sdk.Connection{c}) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}
