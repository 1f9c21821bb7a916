package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newWorkspace(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workspace",
		Short: "Manage workspaces",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list := newLs(s)
	list.Use, list.Aliases = "list", []string{"ls"}
	cmd.AddCommand(newWorkspaceCreate(s), list, newWorkspaceDelete(s), newWorkspaceShare(s), newWorkspaceUnshare(s),
		newWorkspaceStop(s), newWorkspaceStart(s), newWorkspacePolicy(s), newWorkspaceSet(s), newWorkspaceNotice(s),
		newWorkspaceRotateToken(s), newWorkspaceRekey(s), newWorkspaceForget(s))
	return cmd
}

func newWorkspaceCreate(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a workspace and its agent's token",
		Args:  cobra.ExactArgs(1),
	}
	agentTokenCommand(cmd, s, "Workspace %s is there. Start its agent, on the machine that it is, with:",
		func(ctx context.Context, api *sdk.Client, name string) (sdk.CreateWorkspaceResponse, error) {
			return api.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: name})
		})
	return cmd
}

func newWorkspaceRotateToken(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-token WORKSPACE",
		Short: "Give a workspace's agent a new token; the old one is void at once",
		Args:  cobra.ExactArgs(1),
	}
	agentTokenCommand(cmd, s, "The old token of %s is void, and an agent that used it was told to stop. Start the agent anew with:",
		func(ctx context.Context, api *sdk.Client, name string) (sdk.CreateWorkspaceResponse, error) {
			return api.RotateToken(ctx, name)
		})
	return cmd
}

// agentTokenCommand makes cmd a command whose result is an agent's token, which is
// shown, or written to a file, once.
func agentTokenCommand(cmd *cobra.Command, s streams, done string,
	f func(context.Context, *sdk.Client, string) (sdk.CreateWorkspaceResponse, error)) {
	var tokenFile string
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write the agent's token to this new file (mode 0600) instead of showing it")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		var made sdk.CreateWorkspaceResponse
		kept, err := keepSecret(tokenFile, func() (_ string, err error) {
			made, err = f(cmd.Context(), api, args[0])
			return made.AgentToken, err
		})
		if err != nil {
			return err
		}
		if kept {
			made.AgentToken = ""
		}
		if asJSON {
			return printJSON(s.out, made)
		}
		fmt.Fprintf(s.out, done+"\n\n", plain(made.Workspace.Name))
		if !kept {
			fmt.Fprintf(s.out, "  FAIRLEAD_AGENT_TOKEN=%s %s agent %s\n\nThe token is not shown again.\n", plain(made.AgentToken), programName(), api.URL())
			return nil
		}
		fmt.Fprintf(s.out, "  %s agent %s --token-file %s\n", programName(), api.URL(), tokenFile)
		return nil
	})
}

func newWorkspaceDelete(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete WORKSPACE",
		Short: "Delete a workspace: its sessions end, its agent is not accepted any more",
		Args:  cobra.ExactArgs(1),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		if err := api.DeleteWorkspace(cmd.Context(), args[0]); err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, map[string]string{"deleted": args[0]})
		}
		fmt.Fprintf(s.out, "Workspace %s is deleted. What is on its machine stays there.\n", plain(args[0]))
		return nil
	})
	return cmd
}

func newWorkspaceShare(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "share WORKSPACE [USER]",
		Short: "Let another user reach a workspace, or show who may",
		Long: "Let another user reach a workspace: they see it, and connect to it as OWNER/WORKSPACE.\n" +
			"Without USER, show who may.",
		Args: cobra.RangeArgs(1, 2),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		if len(args) == 1 {
			users, err := api.Shares(cmd.Context(), args[0])
			return printShares(s, args[0], users, err, asJSON)
		}
		users, err := api.Share(cmd.Context(), args[0], args[1])
		return printShares(s, args[0], users, err, asJSON)
	})
	return cmd
}

func newWorkspaceUnshare(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unshare WORKSPACE USER",
		Short: "Take a share back: the user's sessions there end at once",
		Args:  cobra.ExactArgs(2),
	}
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		users, err := api.Unshare(cmd.Context(), args[0], args[1])
		return printShares(s, args[0], users, err, asJSON)
	})
	return cmd
}

func printShares(s streams, workspace string, users []string, err error, asJSON bool) error {
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(s.out, append([]string{}, users...))
	case len(users) == 0:
		fmt.Fprintf(s.out, "Workspace %s is shared with nobody.\n", plain(workspace))
	default:
		fmt.Fprintf(s.out, "Workspace %s is shared with %s.\n", plain(workspace), plain(strings.Join(users, ", ")))
	}
	return nil
}

// keepSecret calls create, which gets a secret that is shown once, and writes it to the
// new file path, which must not exist, with mode 0600. kept is false for an empty path:
// the secret is then to be shown.
func keepSecret(path string, create func() (secret string, err error)) (kept bool, err error) {
	if path == "" {
		_, err := create()
		return false, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // before there is a secret to lose
	if err != nil {
		return false, fmt.Errorf("create token file: %w", err)
	}
	secret, err := create()
	if err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return false, err
	}
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("write token file: %w", err)
	}
	return true, nil
}
