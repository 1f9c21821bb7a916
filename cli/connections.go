package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newConnections(s streams) *cobra.Command {
	var q sdk.ConnectionQuery
	var since, until string
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List connections, and how each ended",
		Long: "List connections, the newest first: your own and those to your workspaces; for an admin,\n" +
			"all of them.",
		Example: "  fairlead connections --since 1h --expected false\n" +
			"  fairlead connections --workspace dev --reason network_timeout --output json",
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVarP(&q.Workspace, "workspace", "w", "", "of this workspace: NAME or OWNER/NAME")
	flags.StringVar(&q.User, "user", "", "of this user")
	flags.StringVar(&q.Type, "type", "", "of this type: ssh, vscode, jetbrains, reconnecting_pty, port_forward or control")
	flags.StringVar(&q.App, "app", "", "of this client application, as in vscode")
	flags.StringVar(&q.ConnectType, "connect-type", "", "on this layer: agent_to_client, server_to_agent or client_to_server")
	flags.StringVar(&q.Reason, "reason", "", "ended for this reason, as in network_timeout")
	flags.StringVar(&q.Initiator, "initiator", "", "ended by this side: client, agent, server or network")
	flags.StringVar(&q.Expected, "expected", "", "true: whose end was normal, false: whose end was not")
	flags.StringVar(&q.Status, "status", "", "open, closed or unheard")
	flags.StringVar(&q.ID, "id", "", "whose id begins so")
	flags.StringVar(&since, "since", "", "begun since: a time, or how long ago as in 1h or 7d")
	flags.StringVar(&until, "until", "", "begun before: a time, or how long ago")
	flags.IntVarP(&q.Limit, "limit", "n", 100, "how many, at most")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, _ []string, asJSON bool) error {
		var err error
		now := time.Now()
		if q.Since, err = moment("--since", since, now); err != nil {
			return err
		}
		if q.Until, err = moment("--until", until, now); err != nil {
			return err
		}
		page, err := api.Connections(cmd.Context(), q)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, page.Connections)
		}
		return printConnections(s, page.Connections, now)
	})
	return cmd
}

func printConnections(s streams, rows []sdk.Connection, now time.Time) error {
	if len(rows) == 0 {
		fmt.Fprintln(s.err, "There is no such connection.")
		return nil
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tWORKSPACE\tUSER\tTYPE\tBEGAN\tLASTED\tEND\tBY\tDETAIL")
	for _, c := range rows {
		end, by, detail, lasted := c.Status, "", "", now.Sub(c.ConnectedAt)
		if c.DisconnectedAt != nil {
			lasted = c.DisconnectedAt.Sub(c.ConnectedAt)
		}
		if c.Reason != nil {
			end, by, detail = *c.Reason, *c.Initiator, *c.Detail
		}
		id, _, _ := strings.Cut(c.ID, "-")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(id), plain(c.Workspace), plain(c.User), plain(c.Type),
			c.ConnectedAt.Local().Format("01-02 15:04:05"), age(lasted), plain(end), plain(by), plain(detail))
	}
	return w.Flush()
}

// moment reads a time, or how long ago it was; the empty string is no time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	ago := text
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		if _, err := fmt.Sscanf(days, "%g", &n); err == nil {
			ago = fmt.Sprintf("%gh", n*24)
		}
	}
	d, err := time.ParseDuration(ago)
	if err != nil || d < 0 {
		return time.Time{}, withCode(exitUsage, fmt.Errorf("%s %q is neither a time, as in 2026-11-23T14:02:00Z, nor how long ago, as in 90m or 7d", flag, text))
	}
	return now.Add(-d), nil
}
