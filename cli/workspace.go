package cli

import (
	"fmt"
	"os"

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
	cmd.AddCommand(newWorkspaceCreate(s))
	return cmd
}

func newWorkspaceCreate(s streams) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a workspace and its agent's token",
		Args:  cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write the agent's token to this new file (mode 0600) instead of showing it")
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
		file, err := newSecretFile(tokenFile) // before the token exists, which is shown once
		if err != nil {
			return err
		}
		created, err := api.CreateWorkspace(cmd.Context(), sdk.CreateWorkspaceRequest{Name: args[0]})
		if err != nil {
			file.discard()
			return loginError(err)
		}
		if file != nil {
			if err := file.write(created.AgentToken); err != nil {
				return err
			}
			created.AgentToken = ""
		}
		if asJSON {
			return printJSON(s.out, created)
		}
		fmt.Fprintf(s.out, "Workspace %s is there. Start its agent, on the machine that it is, with:\n\n", plain(created.Workspace.Name))
		if file == nil {
			fmt.Fprintf(s.out, "  FAIRLEAD_AGENT_TOKEN=%s fairlead agent %s\n\nThe token is not shown again.\n", plain(created.AgentToken), api.URL())
			return nil
		}
		fmt.Fprintf(s.out, "  fairlead agent %s --token-file %s\n", api.URL(), tokenFile)
		return nil
	})
	return cmd
}

// secretFile is a new file that will hold a secret.
type secretFile struct{ f *os.File }

// newSecretFile creates path, which must not exist; nil for an empty path.
func newSecretFile(path string) (*secretFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create token file: %w", err)
	}
	return &secretFile{f}, nil
}

func (s *secretFile) write(secret string) error {
	_, err := s.f.WriteString(secret + "\n")
	if closeErr := s.f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write token file: %w", err)
	}
	return nil
}

func (s *secretFile) discard() {
	if s != nil {
		_ = s.f.Close()
		_ = os.Remove(s.f.Name())
	}
}
