package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

func newWhy(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why [WORKSPACE|ID]",
		Short: "Say why a connection ended",
		Long: "Say why the last connection ended: yours, the last one to a workspace, or the one with\n" +
			"that id (its beginning is enough); and what is known of it. Without an id it is looked\n" +
			"for among the 200 that began last.",
		Example: "  fairlead why\n  fairlead why dev\n  fairlead why cd5caa6c",
		Args:    cobra.MaximumNArgs(1),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		c, err := whichEnding(cmd.Context(), api, strings.Join(args, ""))
		if err != nil {
			return err
		}
		told := explainRow(c, time.Now())
		if asJSON {
			return printJSON(s.out, told)
		}
		return told.print(s)
	})
	return cmd
}

// recentEndings is among how many connections the one that ended last is looked for:
// they come in the order in which they began.
const recentEndings = 200

var idBeginning = regexp.MustCompile(`^[0-9a-f-]{4,36}$`)

// whichEnding finds the connection that a person means: by the beginning of its id, or
// the one that ended last, to a workspace or of theirs.
func whichEnding(ctx context.Context, api *sdk.Client, name string) (sdk.Connection, error) {
	q := sdk.ConnectionQuery{ConnectType: disconnect.AgentToClient.String(), Status: "closed", Limit: recentEndings}
	switch {
	case name == "":
		me, err := api.WhoAmI(ctx)
		if err != nil {
			return sdk.Connection{}, err
		}
		q.User = me.Name
	case validWorkspace(name):
		q.Workspace = name
	case idBeginning.MatchString(name):
		return api.Connection(ctx, name)
	default:
		return sdk.Connection{}, withCode(exitUsage, fmt.Errorf("%q is neither a workspace nor the beginning of a connection's id", plain(name)))
	}
	page, err := api.Connections(ctx, q)
	if err != nil {
		return sdk.Connection{}, err
	}
	last := lastEnding(page.Connections)
	switch {
	case last.ID != "":
		return last, nil
	case name == "":
		return last, errors.New("none of your connections has ended yet")
	case idBeginning.MatchString(name):
		return api.Connection(ctx, name)
	}
	return last, fmt.Errorf("no connection of yours to %s has ended yet", plain(name))
}

// together is how far apart the ends of a session and of its forwards may be told.
const together = 2 * time.Second

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

// explanation is why a connection ended, for a person and for a program.
type explanation struct {
	Sentence   string         `json:"sentence"`
	Evidence   []evidence     `json:"evidence"`
	Connection sdk.Connection `json:"connection"`
}

// evidence is one thing that is known, and who says so.
type evidence struct {
	Source string     `json:"source"` // agent or server
	At     *time.Time `json:"at"`
	Says   string     `json:"says"`
}

// explainRow makes sentence and evidence of what the log has.
func explainRow(c sdk.Connection, now time.Time) explanation {
	told := explanation{Connection: c, Evidence: []evidence{{observer(c), &c.ConnectedAt, "it began" + how(c)}}}
	if c.DisconnectedAt == nil {
		told.Sentence = fmt.Sprintf("%s has not ended: it is %s since %s.", subject(c), c.Status, localTime(c.ConnectedAt, now))
		return told
	}
	normal := "which is normal"
	if !or(c.Expected, false) {
		normal = "which is not normal"
	}
	told.Sentence = fmt.Sprintf("%s ended at %s after %s, %s: %s", subject(c), localTime(*c.DisconnectedAt, now),
		age(c.DisconnectedAt.Sub(c.ConnectedAt)), normal, causeOf(c))
	says := fmt.Sprintf("%s by %s", or(c.Reason, ""), or(c.Initiator, ""))
	if detail := or(c.Detail, ""); detail != "" {
		says += ": " + detail
	}
	source := observer(c)
	if c.Provisional {
		source, says = "server", says+" (for now: the agent has not been heard)"
	}
	told.Evidence = append(told.Evidence, evidence{source, c.DisconnectedAt, says})
	return told
}

// observer is whose word the row of a connection is.
func observer(c sdk.Connection) string {
	if c.ObservedConnectedAt != nil {
		return "agent"
	}
	return "server"
}

func subject(c sdk.Connection) string {
	what := "connection"
	switch c.Type {
	case "ssh", "reconnecting_pty":
		what = "session"
	case "port_forward":
		what = "forwarded port"
	case "jetbrains":
		what = "connection to a JetBrains IDE"
	case "vscode":
		what = "connection to a VS Code server"
	case "control":
		what = "link to the server"
	}
	text := "The " + what
	if c.User != "" {
		text += " of " + c.User
	}
	if c.Workspace != "" {
		text += " in " + c.Workspace
	}
	return text
}

func how(c sdk.Connection) string {
	text := ""
	if c.Path != "" {
		text += " on a " + c.Path + " path"
	}
	if c.IP != "" {
		text += " from " + c.IP
	}
	if c.ClientVersion != "" {
		text += " with " + c.ClientVersion
	}
	return text
}

// causeOf is a reason in words. A newer server may have reasons that this version does
// not know.
func causeOf(c sdk.Connection) string {
	reason, err := disconnect.ParseReason(or(c.Reason, ""))
	if err != nil {
		return or(c.Reason, "") + "."
	}
	sentence := reason.Sentence()
	return strings.ToLower(sentence[:1]) + sentence[1:]
}

func (e explanation) print(s streams) error {
	fmt.Fprintln(s.out, plain(e.Sentence))
	fmt.Fprintln(s.out)
	for _, ev := range e.Evidence {
		fmt.Fprintf(s.out, "  %s  %-6s  %s\n", ev.At.Local().Format("15:04:05"), ev.Source, plain(ev.Says))
	}
	_, err := fmt.Fprintf(s.out, "\n  All of it: %s connections show %s\n", programName(), shortID(e.Connection.ID))
	return err
}
