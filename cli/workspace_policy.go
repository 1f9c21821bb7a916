package cli

import (
	"cmp"
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
		Short: "Show or set what sessions may do in a workspace, and for how long",
		Long: "Show or set what sessions may do in a workspace, and for how long. A time is as in 30m or\n" +
			"8h; 0 is for ever; default is what the server has for workspaces without a policy of their\n" +
			"own. Sessions that are open follow. Who sits at a terminal is told a minute before the end.\n\n" +
			"What is blocked is refused from then on, in words and in the log; what is open goes on. Local\n" +
			"forwarding leads to what the workspace reaches (ssh -L, -D, -W; editors need it), remote\n" +
			"forwarding from the workspace to you (ssh -R, -A, -X). File transfer is SFTP, and scp and\n" +
			"rsync as they are usually run: who has a shell can copy in other ways.",
		Example: "  fairlead workspace policy dev --idle-timeout 30m --session-limit 8h\n" +
			"  fairlead workspace policy dev --file-transfer blocked --accept-env 'LANG,LC_*'\n" +
			"  fairlead workspace policy dev --idle-timeout default",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.Var(boundFlag{&req.IdleTimeout}, "idle-timeout", "end a session through which nothing passed for so long")
	flags.Var(boundFlag{&req.SessionLimit}, "session-limit", "end a session that has lasted so long")
	flags.Var(wordFlag{&req.FileTransfer, "allowed|blocked"}, "file-transfer", "allowed or blocked: SFTP, scp, rsync")
	flags.Var(wordFlag{&req.LocalForwarding, "allowed|blocked"}, "local-forwarding", "allowed or blocked: to what the workspace reaches")
	flags.Var(wordFlag{&req.RemoteForwarding, "allowed|blocked"}, "remote-forwarding", "allowed or blocked: from the workspace to clients")
	flags.Var(wordFlag{&req.AcceptEnv, "names"}, "accept-env", "variables that clients may set, as in LANG,LC_*; * for any")
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
		fmt.Fprintf(s.out, "idle timeout:      %s\nsession limit:     %s\n", boundText(p.IdleTimeout), boundText(p.SessionLimit))
		fmt.Fprintf(s.out, "file transfer:     %s\nlocal forwarding:  %s\nremote forwarding: %s\naccepted env:      %s\n",
			orAllowed(p.FileTransfer), orAllowed(p.LocalForwarding), orAllowed(p.RemoteForwarding), cmp.Or(p.AcceptEnv, sdk.AnyEnv))
		return nil
	})
	return cmd
}

// orAllowed is what a server means that is too old to say so.
func orAllowed(word string) string { return cmp.Or(word, sdk.Allowed) }

// wordFlag is a word on the command line, which the server judges; nil: not given.
type wordFlag struct {
	to   **string
	kind string
}

// Set implements [pflag.Value].
func (f wordFlag) Set(text string) error {
	*f.to = &text
	return nil
}

// String implements [pflag.Value].
func (f wordFlag) String() string {
	if f.to == nil || *f.to == nil {
		return ""
	}
	return **f.to
}

// Type implements [pflag.Value].
func (f wordFlag) Type() string { return f.kind }

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
