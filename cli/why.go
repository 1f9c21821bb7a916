package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/disconnect/explain"
	"fairlead.dev/fairlead/sdk"
)

func newWhy(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why [WORKSPACE|ID]",
		Short: "Say why a session ended or was interrupted",
		Long: "Say why a session ended: your last one, the last one to a workspace, or the one with that\n" +
			"id (its beginning is enough). One sentence says what happened; then follow how sure that is,\n" +
			"who may still say more, what was lost together with it, and what each party saw, by the\n" +
			"server's clock. Of a session that is open it tells the last interruption.\n\n" +
			"When the server cannot be reached it tells what this machine noted in the last 24 hours.\n\n" +
			"The exit code is 0 if there was something to tell, whatever it was, and 1 if there is no\n" +
			"such session. docs/why.md explains the answer.",
		Example: "  fairlead why\n  fairlead why dev\n  fairlead why cd5caa6c --output json",
		Args:    cobra.MaximumNArgs(1),
	}
	profileName := profileFlag(cmd)
	output := outputFlag(cmd)
	logger := quietLogFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		log, err := logger()
		if err != nil {
			return err
		}
		asked, err := newInquiry(*profileName, log)
		if err != nil {
			return err
		}
		defer asked.api.Close()
		told, err := asked.answer(cmd.Context(), strings.Join(args, ""))
		switch {
		case err != nil:
			return loginError(err)
		case asJSON:
			return printJSON(s.out, told)
		}
		return told.print(s, time.Now())
	})
	return cmd
}

// Sources of an answer.
const (
	fromServer  = "server"
	fromMachine = "machine" // what this machine noted by itself
)

// whyAnswer is why a session ended, for a person and for a program.
type whyAnswer struct {
	Source string `json:"source"`
	Note   string `json:"note"` // why the source is not the server; else empty
	sdk.Explanation
	ConnectionID string `json:"connection_id"` // empty if this machine never knew it
	Workspace    string `json:"workspace"`
	// Connection is the row with its verdict; null if the server was not asked.
	Connection *sdk.Connection `json:"connection"`
}

func (a *whyAnswer) print(s streams, now time.Time) error {
	if a.Note != "" {
		fmt.Fprintln(s.out, plain(a.Note))
	}
	fmt.Fprintln(s.out, strings.TrimSpace(plain(a.Sentence)+" "+plain(a.Normal)))
	if a.NextStep != "" {
		fmt.Fprintln(s.out, plain(a.NextStep))
	}
	if a.Who != "" {
		fmt.Fprintln(s.out)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, line := range [...]struct{ name, value string }{
		{"who", a.Who}, {"how sure", a.Confidence}, {"not final", a.Waiting}, {"incident", a.incident()},
	} {
		if line.value != "" {
			fmt.Fprintf(w, "  %s\t%s\n", line.name, plain(line.value))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := a.printTimeline(s, now); err != nil {
		return err
	}
	if a.Connection != nil {
		fmt.Fprintf(s.out, "\n  The row of the log: %s connections show %s\n", programName(), shortID(a.ConnectionID))
	}
	return nil
}

// printTimeline prints what each party saw.
func (a *whyAnswer) printTimeline(s streams, now time.Time) error {
	if len(a.Timeline) == 0 {
		return nil
	}
	clock := "By the server's clock:"
	if a.Source == fromMachine {
		clock = "By the clock of this machine:"
	}
	fmt.Fprintf(s.out, "\n%s\n", clock)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, e := range a.Timeline {
		says := plain(e.Who) + " " + plain(e.Says)
		if role := explain.RoleInWords(e.Role); role != "" {
			says += " (" + role + ")"
		}
		fmt.Fprintf(w, "  %s\t%s\n", timeOf(e, now), says)
	}
	return w.Flush()
}

// timeOf is when an entry was, and how far that may be wrong if that is more than a second.
func timeOf(e sdk.TimelineEntry, now time.Time) string {
	if e.At == nil {
		return "-"
	}
	text := localTime(*e.At, now)
	if e.ErrorSeconds > 1 {
		text += fmt.Sprintf(" ±%ds", int(e.ErrorSeconds+0.5))
	}
	return text
}

// incident says what was lost together with it.
func (a *whyAnswer) incident() string {
	if a.Connection == nil || a.Connection.Incident == nil {
		return ""
	}
	i := a.Connection.Incident
	mine := max(0, len(i.Connections)-1)
	what := i.Element.Kind
	switch i.Element.Kind {
	case "agent":
		what = "the agent of " + i.Element.Name
	case "client":
		what = "the client of " + i.Element.Name
	case "path":
		what = "the network of " + i.Element.Name
	case "relay", "server":
		what = "the " + what
	}
	text := fmt.Sprintf("%s lost by the same event; all needed %s", count(mine+i.Others, "other connection was", "other connections were"), what)
	switch {
	case i.Others == 1 && mine == 0:
		text += " (it is not yours to see)"
	case i.Others > 0:
		text += fmt.Sprintf(" (%d of them not yours to see)", i.Others)
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

type whyInput struct {
	Target string `json:"target,omitempty" jsonschema:"a workspace, or the beginning of a connection's id; left out: the user's last session"`
}

func (m *mcpServer) why(ctx context.Context, in whyInput) (whyAnswer, error) {
	asked := inquiry{api: m.api, records: m.records, user: m.login}
	told, err := asked.answer(ctx, in.Target)
	if err != nil {
		return whyAnswer{}, err
	}
	return *told, nil
}
