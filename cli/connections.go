package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newConnections(s streams) *cobra.Command {
	var follow bool
	var limit int
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List connections, and how each ended",
		Long: "List connections, the newest first: your own and those to your workspaces; for an admin,\n" +
			"all of them. Each has one row, and each that is closed says why. The exit code of --follow\n" +
			"is 0 when you end it, 1 when the server does.",
		Example: "  fairlead connections --since 1h --expected false\n" +
			"  fairlead connections --workspace dev --reason network_timeout --output json\n" +
			"  fairlead connections --follow --output ndjson",
		Args: cobra.NoArgs,
	}
	query := connectionFilters(cmd)
	flags := cmd.Flags()
	flags.IntVarP(&limit, "limit", "n", 100, "how many at most; 0: all there are")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with those that open or close from now on, until Ctrl-C")
	profileName := profileFlag(cmd)
	format := flags.StringP("output", "o", "table", "output format: table, json, csv or ndjson")
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		out, err := newConnectionWriter(s, *format, time.Now)
		if err != nil {
			return err
		}
		q, err := query(time.Now())
		if err != nil {
			return err
		}
		if limit < 0 {
			return withCode(exitUsage, fmt.Errorf("--limit %d is not valid: give a number of rows, or 0 for all", limit))
		}
		if follow && *format == "json" {
			return withCode(exitUsage, errors.New("an array has an end: use --output ndjson with --follow"))
		}
		api, err := newAPI(*profileName)
		if err != nil {
			return err
		}
		defer api.Close()
		if follow {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			defer context.AfterFunc(ctx, stop)() // the next signal ends us even if our reader does not read
			return loginError(followConnections(ctx, api, q, out))
		}
		for page, err := range api.ConnectionPages(cmd.Context(), q, limit) {
			if err != nil {
				return loginError(err)
			}
			if err := out.write(page); err != nil {
				return err
			}
		}
		return out.end()
	})
	cmd.AddCommand(newConnectionsShow(s), newConnectionsKill(s))
	return cmd
}

// connectionFilters adds the flags that choose rows, and returns what they chose.
func connectionFilters(cmd *cobra.Command) func(now time.Time) (sdk.ConnectionQuery, error) {
	var q sdk.ConnectionQuery
	var since, until string
	flags := cmd.Flags()
	flags.StringVarP(&q.Workspace, "workspace", "w", "", "to this workspace: NAME or OWNER/NAME")
	flags.StringVar(&q.User, "user", "", "of this user")
	flags.StringVar(&q.Type, "type", "", "of this type: ssh, vscode, jetbrains, reconnecting_pty, port_forward or control")
	flags.StringVar(&q.App, "app", "", "of this client application, as in vscode")
	flags.StringVar(&q.ConnectType, "connect-type", "", "on this layer: agent_to_client, server_to_agent or client_to_server")
	flags.StringVar(&q.Reason, "reason", "", "ended for this reason, as in network_timeout")
	flags.StringVar(&q.Initiator, "initiator", "", "ended by this side: client, agent, server or network")
	flags.StringVar(&q.Expected, "expected", "", "true: whose end was normal; false: whose end was not")
	flags.StringVar(&q.Locus, "locus", "", "whose fault was there: client, agent, server, relay, client_net, agent_net or path")
	flags.StringVar(&q.Rule, "rule", "", "whose verdict is by this rule: R1 to R11")
	flags.StringVar(&q.Confidence, "confidence", "", "whose verdict is so sure: certain, high or low")
	flags.StringVar(&q.Status, "status", "", "open, closed, or unheard: open when the server last heard of it")
	flags.StringVar(&q.ID, "id", "", "whose id begins so, with at least 4 characters")
	flags.StringVar(&since, "since", "", "begun since then: a time, or how long ago as in 90m or 7d")
	flags.StringVar(&until, "until", "", "begun before then: a time, or how long ago")
	return func(now time.Time) (_ sdk.ConnectionQuery, err error) {
		if q.Since, err = moment("--since", since, now); err != nil {
			return q, err
		}
		q.Until, err = moment("--until", until, now)
		return q, err
	}
}

// layouts are the ways to write a time; those without a zone are local.
var layouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}

// moment reads a time, or how long ago it was; the empty string is no time.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, withCode(exitUsage, fmt.Errorf(
		"%s %q is neither a time, as in 2026-11-23T14:02:00Z, nor how long ago, as in 90m or 7d", flag, plain(text)))
}

func newConnectionsShow(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show everything that is recorded about one connection",
		Long:  "Show everything that is recorded about one connection. The beginning of an id is enough\nwhen no other begins so.",
		Args:  cobra.ExactArgs(1),
	}
	testimonies := cmd.Flags().Bool("testimonies", false, "show what was testified of its end instead, one a line, as fairlead verdict replay reads it")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		c, err := api.Connection(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if *testimonies {
			return printTestimonies(cmd.Context(), s, api, c.ID)
		}
		if asJSON {
			return printJSON(s.out, c)
		}
		return printConnection(s, c)
	})
	return cmd
}

// printTestimonies prints what was testified of a connection, one JSON object a line.
func printTestimonies(ctx context.Context, s streams, api *sdk.Client, id string) error {
	all, err := api.Testimonies(ctx, id)
	if err != nil {
		return err
	}
	for _, t := range all.Testimonies {
		if _, err := fmt.Fprintln(s.out, string(t)); err != nil {
			return err
		}
	}
	return nil
}
