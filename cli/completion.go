package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

// completionTimeout bounds what a person waits for after the tab key. A server that
// is slower completes nothing.
const completionTimeout = time.Second

// addCompletions makes the shell complete what the command tree names: a first
// argument WORKSPACE, and the flags whose values are known. It never asks, and says
// nothing when it does not know.
func addCompletions(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		addCompletions(cmd)
	}
	if words := strings.Fields(root.Use); len(words) > 1 && root.ValidArgsFunction == nil {
		switch {
		case words[1] == "WORKSPACE":
			root.ValidArgsFunction = completeWorkspace
		case !strings.Contains(words[1], "FILE") && root.Name() != "cp":
			root.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
	for name, complete := range map[string]cobra.CompletionFunc{
		"profile":    completeProfile,
		"output":     cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp),
		"log-level":  cobra.FixedCompletions([]string{"debug", "info", "warn", "error", "off"}, cobra.ShellCompDirectiveNoFileComp),
		"scope":      cobra.FixedCompletions([]string{"full", "read", "ssh"}, cobra.ShellCompDirectiveNoFileComp),
		"role":       cobra.FixedCompletions([]string{"member", "admin"}, cobra.ShellCompDirectiveNoFileComp),
		"log-format": cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp),
	} {
		if root.LocalNonPersistentFlags().Lookup(name) != nil {
			_ = root.RegisterFlagCompletionFunc(name, complete) // fails only for an unknown flag
		}
	}
}

// completeWorkspace offers the workspaces that the login reaches, with their state.
func completeWorkspace(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 || bindEnv(cmd) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	name := ""
	if f := cmd.Flags().Lookup("profile"); f != nil {
		name = f.Value.String()
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	var found []cobra.Completion
	for _, ws := range reachableWorkspaces(ctx, name) {
		if strings.HasPrefix(ws.name, typed) {
			found = append(found, cobra.CompletionWithDesc(ws.name, ws.state))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// reachable is a workspace as a person types it.
type reachable struct{ name, state string }

// reachableWorkspaces is nil whenever anything is in the way.
func reachableWorkspaces(ctx context.Context, profileName string) (found []reachable) {
	p, err := chooseProfile(profileName)
	if err != nil {
		return nil
	}
	api, err := sdk.NewClient(p.URL, p.Token)
	if err != nil {
		return nil
	}
	defer api.Close()
	workspaces, err := api.Workspaces(ctx)
	if err != nil {
		return nil
	}
	if p.User == "" { // a login from the environment
		me, err := api.WhoAmI(ctx)
		if err != nil {
			return nil
		}
		p.User = me.Name
	}
	for _, ws := range workspaces {
		name := ws.Name
		if ws.Owner != p.User {
			name = ws.Owner + "/" + name
		}
		if validWorkspace(name) {
			found = append(found, reachable{name, plain(string(ws.Agent.Status))})
		}
	}
	return found
}

func completeProfile(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all, err := loadProfiles()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, name := range slices.Sorted(maps.Keys(all.Profiles)) {
		if strings.HasPrefix(name, typed) {
			names = append(names, cobra.CompletionWithDesc(plain(name), plain(all.Profiles[name].URL)))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
