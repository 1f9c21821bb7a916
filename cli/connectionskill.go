package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newConnectionsKill(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kill ID",
		Short: "End one connection, for its workspace's owner and for admins",
		Long: "End one connection, for its workspace's owner and for admins. Both its ends are told who did\n" +
			"it (admin_terminated). An agent or client whose control link is ended comes back by itself.\n" +
			"The beginning of an id is enough when no other connection's begins so.",
		Args: cobra.ExactArgs(1),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		c, err := api.Connection(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if c, err = api.KillConnection(cmd.Context(), c.ID); err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, c)
		}
		if c.Reason == nil {
			fmt.Fprintf(s.out, "The agent was told to end connection %s; it has not said that it did.\n", plain(c.ID))
			return nil
		}
		fmt.Fprintf(s.out, "Connection %s ended: %s by %s, %s\n", plain(c.ID), plain(*c.Reason), plain(*c.Initiator), plain(*c.Detail))
		return nil
	})
	return cmd
}
