package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/sdk"
)

func newWorkspacePolicy(s streams) *cobra.Command {
	var req sdk.UpdatePolicyRequest
	cmd := &cobra.Command{
		Use:   "policy WORKSPACE",
		Short: "Show or set how long sessions may last in a workspace",
		Long: "Show or set how long sessions may last in a workspace. A time is as in 30m or 8h; 0 is\n" +
			"for ever; default is what the server has for workspaces without a policy of their own.\n" +
			"Sessions that are open follow. Who sits at a terminal is told a minute before the end.",
		Example: "  fairlead workspace policy dev --idle-timeout 30m --session-limit 8h\n" +
			"  fairlead workspace policy dev --idle-timeout default",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.Var(boundFlag{&req.IdleTimeout}, "idle-timeout", "end a session through which nothing passed for so long")
	flags.Var(boundFlag{&req.SessionLimit}, "session-limit", "end a session that has lasted so long")
	withAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		// The variables are the server's options: they change no workspace.
		if !typed(cmd, "idle-timeout") {
			req.IdleTimeout = nil
		}
		if !typed(cmd, "session-limit") {
			req.SessionLimit = nil
		}
		var p sdk.Policy
		var err error
		if req == (sdk.UpdatePolicyRequest{}) {
			p, err = api.Policy(cmd.Context(), args[0])
		} else {
			p, err = api.UpdatePolicy(cmd.Context(), args[0], req)
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, p)
		}
		fmt.Fprintf(s.out, "idle timeout:  %s\nsession limit: %s\n", boundText(p.IdleTimeout), boundText(p.SessionLimit))
		return nil
	})
	return cmd
}

// typed reports whether a flag stands on the command line.
func typed(cmd *cobra.Command, name string) bool {
	f := cmd.Flags().Lookup(name)
	return f.Changed && f.Annotations[noteSource] == nil
}

func boundText(b sdk.Bound) string {
	text := plain(b.Value)
	if b.Rule == sdk.RuleServer {
		text += " (the server's default)"
	}
	return text
}

// boundFlag is a bound of a session on the command line; nil: not given.
type boundFlag struct{ to **string }

// Set implements [pflag.Value].
func (f boundFlag) Set(text string) error {
	switch text {
	case "0", sdk.Never:
		text = sdk.Never
	case sdk.ServerDefault:
	default:
		if d, err := time.ParseDuration(text); err != nil || d < 0 {
			return errors.New("it is a time as in 30m or 8h, 0 for ever, or default")
		}
	}
	*f.to = &text
	return nil
}

// String implements [pflag.Value].
func (f boundFlag) String() string {
	if f.to == nil || *f.to == nil {
		return ""
	}
	return **f.to
}

// Type implements [pflag.Value].
func (f boundFlag) Type() string { return "duration" }
