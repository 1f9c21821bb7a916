package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

func newLs(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the workspaces you can reach",
		Args:    cobra.NoArgs,
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, _ []string, asJSON bool) error {
		workspaces, err := api.Workspaces(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			if workspaces == nil {
				workspaces = []sdk.Workspace{}
			}
			return printJSON(s.out, workspaces)
		}
		p, err := chooseProfile(cmd.Flag("profile").Value.String())
		if err != nil {
			return err
		}
		return printWorkspaces(s, workspaces, p.User, time.Now())
	})
	return cmd
}

// printWorkspaces shows each workspace by the name that user types to reach it; whose
// a login by environment is, is not known, and OWNER/NAME is good for everybody.
func printWorkspaces(s streams, workspaces []sdk.Workspace, user string, now time.Time) error {
	if len(workspaces) == 0 {
		fmt.Fprintln(s.err, "There are no workspaces yet; create one with `fairlead workspace create NAME`.")
		return nil
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WORKSPACE\tOWNER\tAGENT\tSINCE\tLAST ENDING")
	for _, ws := range workspaces {
		name, since, ending := ws.Name, "-", "-"
		if ws.Owner != user {
			name = ws.Owner + "/" + ws.Name
		}
		if ws.Agent.Since != nil {
			since = age(now.Sub(*ws.Agent.Since))
		}
		if e := ws.Agent.Ending; e != nil {
			ending = e.Reason + " by " + e.Initiator
		}
		status := plain(string(ws.Agent.Status))
		if ws.Stopped != nil {
			status += ", stopped"
		}
		if ws.Notice != nil {
			status += ", " + plain(ws.Notice.Kind)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", plain(name), plain(ws.Owner), status, since, plain(ending))
	}
	return w.Flush()
}

// plain makes text from the server safe to show.
func plain(s string) string { return disconnect.Scrub(s) }

// age prints a duration as people say it.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
