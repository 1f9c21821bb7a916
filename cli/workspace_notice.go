package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newWorkspaceNotice(s streams) *cobra.Command {
	var kind, deadline string
	var withdraw bool
	cmd := &cobra.Command{
		Use:   "notice WORKSPACE",
		Short: "Say that the platform will take a workspace's host away",
		Long: "Say that the platform will take a workspace's host away, as a spot instance is, or a node\n" +
			"that is drained. Who sits at a terminal there is told. When the agent ends after that, in\n" +
			"whatever way, and not later than two minutes after the deadline, that is recorded as\n" +
			"workspace_evicted.",
		Example: "  fairlead workspace notice dev --kind preempted --deadline 2m\n" +
			"  fairlead workspace notice dev --withdraw",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&kind, "kind", "preempted", "what the platform does, in one word")
	flags.StringVar(&deadline, "deadline", "", "when the host will be gone: in how long, as in 2m, or a time")
	flags.BoolVar(&withdraw, "withdraw", false, "take the notice back")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		var ws sdk.Workspace
		var err error
		if withdraw {
			ws, err = api.WithdrawNotice(cmd.Context(), args[0])
		} else {
			var at time.Time
			if at, err = until(deadline, time.Now()); err == nil {
				ws, err = api.GiveNotice(cmd.Context(), args[0], sdk.NoticeRequest{Kind: kind, Deadline: at})
			}
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, ws)
		}
		if ws.Notice == nil {
			fmt.Fprintf(s.out, "The notice for workspace %s is withdrawn.\n", plain(args[0]))
			return nil
		}
		fmt.Fprintf(s.out, "Notice is given: the host of workspace %s goes at %s (%s).\n",
			plain(args[0]), ws.Notice.Deadline.Local().Format("2006-01-02 15:04:05"), plain(ws.Notice.Kind))
		return nil
	})
	return cmd
}

// until reads a time to come, or in how long it is.
func until(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, withCode(exitUsage, errors.New("give the --deadline: in how long, as in 2m, or a time, as in 2026-11-23T14:02:00Z"))
}
