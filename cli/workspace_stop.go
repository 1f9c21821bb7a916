package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newWorkspaceStop(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stop WORKSPACE",
		Short: "End a workspace's sessions, and let none in until it is started",
		Long: "End a workspace's sessions, and let none in until it is started. Its agent stays\n" +
			"connected; one that is offline is told when it is back.",
		Args: cobra.ExactArgs(1),
	}
	changeCommand(cmd, s, (*sdk.Client).StopWorkspace, func(name string, change sdk.WorkspaceChange) string {
		switch {
		case !change.Changed && change.Workspace.Stopped != nil:
			return fmt.Sprintf("Workspace %s is stopped already, by %s.", name, plain(change.Workspace.Stopped.By))
		case change.Workspace.Agent.Status == sdk.AgentOffline:
			return fmt.Sprintf("Workspace %s is stopped. Its agent is offline; it is told when it is back.", name)
		}
		return fmt.Sprintf("Workspace %s is stopped: its sessions end, and new ones are refused.", name)
	})
	return cmd
}

func newWorkspaceStart(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start WORKSPACE",
		Short: "Let sessions into a stopped workspace again",
		Args:  cobra.ExactArgs(1),
	}
	changeCommand(cmd, s, (*sdk.Client).StartWorkspace, func(name string, change sdk.WorkspaceChange) string {
		if !change.Changed {
			return fmt.Sprintf("Workspace %s was not stopped.", name)
		}
		return fmt.Sprintf("Workspace %s is started: it lets sessions in again.", name)
	})
	return cmd
}

// changeCommand makes cmd a command that stops or starts a workspace and says so.
func changeCommand(cmd *cobra.Command, s streams, change func(*sdk.Client, context.Context, string) (sdk.WorkspaceChange, error),
	say func(name string, change sdk.WorkspaceChange) string) {
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		done, err := change(api, cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, done)
		}
		fmt.Fprintln(s.out, say(plain(args[0]), done))
		return nil
	})
}
