package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newWorkspaceSet(s streams) *cobra.Command {
	var directory, motdFile string
	var env, unset []string
	cmd := &cobra.Command{
		Use:   "set WORKSPACE",
		Short: "Show or set how sessions begin in a workspace",
		Long: "Show or set how sessions begin in a workspace: where, with which variables, and with\n" +
			"which message before a login shell. Paths are those of the workspace's host. An empty\n" +
			"value is the default. What is set counts for sessions that begin from then on, and\n" +
			"everybody who reaches the workspace can read it: it is no place for secrets.",
		Example: "  fairlead workspace set dev --directory src/app --env EDITOR=vim\n" +
			"  fairlead workspace set dev --unset-env EDITOR --motd-file /etc/motd",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&directory, "directory", "", "where sessions start; relative to the home directory, which is the default")
	flags.StringArrayVarP(&env, "env", "e", nil, "set a variable of every session, KEY=VALUE (repeatable)")
	flags.StringArrayVar(&unset, "unset-env", nil, "set a variable of that name no more (repeatable)")
	flags.StringVar(&motdFile, "motd-file", "", "file that is shown before a login shell on a terminal")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		var req sdk.UpdateSettingsRequest
		change := false // the variables that stand for flags are of other commands too
		if typed(cmd, "directory") {
			req.Directory, change = &directory, true
		}
		if typed(cmd, "motd-file") {
			req.MOTDFile, change = &motdFile, true
		}
		if typed(cmd, "env") || typed(cmd, "unset-env") {
			var err error
			if req.Environment, err = changedVariables(env, unset); err != nil {
				return withCode(exitUsage, err)
			}
			change = true
		}
		ask := api.Settings
		if change {
			ask = func(ctx context.Context, name string) (sdk.Settings, error) {
				return api.UpdateSettings(ctx, name, req)
			}
		}
		set, err := ask(cmd.Context(), args[0])
		switch {
		case err != nil:
			return err
		case asJSON:
			return printJSON(s.out, set)
		}
		printSettings(s, set)
		return nil
	})
	return cmd
}

// changedVariables is what the flags ask for: nil unsets one.
func changedVariables(env, unset []string) (map[string]*string, error) {
	change := make(map[string]*string)
	for _, kv := range env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--env %q is not KEY=VALUE", plain(kv))
		}
		change[name] = &value
	}
	for _, name := range unset {
		change[name] = nil
	}
	return change, nil
}

func printSettings(s streams, set sdk.Settings) {
	fmt.Fprintf(s.out, "directory: %s\nmotd file: %s\n", plain(cmp.Or(set.Directory, "~")), plain(cmp.Or(set.MOTDFile, "none")))
	for _, name := range slices.Sorted(maps.Keys(set.Environment)) {
		fmt.Fprintf(s.out, "env:       %s=%s\n", plain(name), plain(set.Environment[name]))
	}
}
