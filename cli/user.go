package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newUser(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Manage users (for admins)",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newUserCreate(s), newUserList(s), newUserRole(s),
		newUserDisable(s, "disable", "Close a user's account: they are logged out at once", true),
		newUserDisable(s, "enable", "Reopen a user's account", false))
	return cmd
}

func newUserCreate(s streams) *cobra.Command {
	var tokenFile, role string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a user, and the token with which they log in",
		Args:  cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write the user's token to this new file (mode 0600) instead of showing it")
	cmd.Flags().StringVar(&role, "role", "member", "role: member or admin")
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		var made sdk.LoginResponse
		kept, err := keepSecret(tokenFile, func() (_ string, err error) {
			made, err = api.CreateUser(cmd.Context(), sdk.CreateUserRequest{Name: args[0], Role: role})
			return made.Token, err
		})
		if err != nil {
			return err
		}
		if kept {
			made.Token = ""
		}
		if asJSON {
			return printJSON(s.out, made)
		}
		fmt.Fprintf(s.out, "User %s (%s) is there. They log in with:\n\n", plain(made.User.Name), plain(made.User.Role))
		if kept {
			fmt.Fprintf(s.out, "  %s login %s --token-file %s\n", programName(), api.URL(), tokenFile)
			return nil
		}
		fmt.Fprintf(s.out, "  FAIRLEAD_TOKEN=%s %s login %s\n\nThe token is not shown again.\n", plain(made.Token), programName(), api.URL())
		return nil
	})
	return cmd
}

func newUserList(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List all users", Args: cobra.NoArgs}
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, _ []string, asJSON bool) error {
		users, err := api.Users(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, append([]sdk.User{}, users...))
		}
		now := time.Now()
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "USER\tROLE\tSTATUS\tAGE")
		for _, u := range users {
			status := "open"
			if u.Disabled {
				status = "disabled"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", plain(u.Name), plain(u.Role), status, age(now.Sub(u.CreatedAt)))
		}
		return w.Flush()
	})
	return cmd
}

func newUserDisable(s streams, verb, short string, disabled bool) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1)}
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		u, err := api.UpdateUser(cmd.Context(), args[0], sdk.UpdateUserRequest{Disabled: &disabled})
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, u)
		}
		fmt.Fprintf(s.out, "User %s is %sd.\n", plain(u.Name), verb)
		return nil
	})
	return cmd
}

func newUserRole(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use: "role NAME member|admin", Short: "Change a user's role", Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) != 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []cobra.Completion{"member", "admin"}, cobra.ShellCompDirectiveNoFileComp
		},
	}
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		u, err := api.UpdateUser(cmd.Context(), args[0], sdk.UpdateUserRequest{Role: &args[1]})
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, u)
		}
		fmt.Fprintf(s.out, "User %s has the role %s.\n", plain(u.Name), plain(u.Role))
		return nil
	})
	return cmd
}

// withAdminAPI is [withAPI] for what only an admin may do: for anybody else the server
// has nothing there, which is hard to make sense of.
func withAdminAPI(cmd *cobra.Command, s streams, f func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error) {
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		if err := mustBeAdmin(cmd.Context(), api); err != nil {
			return err
		}
		return f(cmd, api, args, asJSON)
	})
}

// mustBeAdmin returns an error if the login is not an admin's. The server decides; this
// only says it in words.
func mustBeAdmin(ctx context.Context, api *sdk.Client) error {
	me, err := api.WhoAmI(ctx)
	if err != nil {
		return err
	}
	if me.Role != "admin" {
		return fmt.Errorf("this is for admins, and %s is a %s", plain(me.Name), plain(me.Role))
	}
	return nil
}

// withAPI makes f what cmd does, with the API of the chosen login, and adds the flags
// --profile and --output.
func withAPI(cmd *cobra.Command, s streams, f func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error) {
	profileName := profileFlag(cmd)
	output := outputFlag(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		api, err := newAPI(*profileName)
		if err != nil {
			return err
		}
		defer api.Close()
		return loginError(f(cmd, api, args, asJSON))
	})
}
