package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

func newContext(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context WORKSPACE",
		Short: "Show what a workspace has to tell coding agents",
		Long: "Show what a workspace has to tell coding agents: its instruction files, its skills and\n" +
			"where it keeps MCP server definitions, and what was found but not taken. The content\n" +
			"of the instruction files is in the JSON.",
		Example: "  fairlead context dev\n  fairlead context dev --output json",
		Args:    oneWorkspace,
	}
	profileName := profileFlag(cmd)
	output := outputFlag(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		config, err := readContext(cmd.Context(), s, *profileName, args[0])
		switch {
		case err != nil:
			return reachError(err)
		case asJSON:
			return printJSON(s.out, config)
		}
		return printContext(s, config)
	})
	return cmd
}

// readContext goes to the workspace for one question.
func readContext(ctx context.Context, s streams, profileName, workspace string) (proto.ContextConfig, error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status := newStatusLine(s.err)
	defer status.clear()
	cl, err := openClient(ctx, profileName, client.Options{Step: status.show})
	if err != nil {
		return proto.ContextConfig{}, err
	}
	goodbye := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the client could not read the context"}
	defer func() { cl.Close(context.WithoutCancel(ctx), goodbye) }()
	w, err := cl.Reach(ctx, workspace)
	if err != nil {
		return proto.ContextConfig{}, err
	}
	config, err := w.ContextConfig(ctx)
	if err == nil {
		goodbye.Reason, goodbye.Detail = disconnect.Graceful, "the client has read the context"
	}
	return config, err
}

// openClient makes this process a client with the chosen login, and checks host keys by
// it. What is no matter of the login is in opts.
func openClient(ctx context.Context, profileName string, opts client.Options) (*client.Client, error) {
	p, err := chooseProfile(profileName)
	if err != nil {
		return nil, err
	}
	accessURL, err := sdk.ParseURL(p.URL)
	if err != nil {
		return nil, withCode(exitAuth, fmt.Errorf("the login is damaged, log in again: %w", err))
	}
	opts.AccessURL, opts.Token, opts.CheckHostKey = accessURL, p.Token, hostKeyChecker{profile: p}.check
	opts.Instance, opts.Version = uuid.NewString(), softwareVersion()
	if api, err := sdk.NewClient(p.URL, p.Token); err == nil {
		opts.Records = recordsOf(p, api, opts.Logger)
	}
	return client.Open(ctx, opts)
}

// reachError gives a failure on the way to a workspace its exit code.
func reachError(err error) error {
	var coded *exitErr
	if a, _ := disconnect.FromError(err); loginRefused(a) && !errors.As(err, &coded) {
		return withCode(exitAuth, err)
	}
	return err
}

// printContext shows a part per line; there is nothing in it that a terminal obeys.
func printContext(s streams, config proto.ContextConfig) error {
	if len(config.Parts) == 0 {
		fmt.Fprintln(s.err, "The workspace has no instruction files and no skills for coding agents.")
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, p := range config.Parts {
		switch p.Type {
		case proto.ContextFile:
			size := fmt.Sprintf("%d bytes", len(p.Content))
			if p.Truncated {
				size += ", cut"
			}
			if p.Cleaned {
				size += ", without invisible characters"
			}
			fmt.Fprintf(w, "file\t%s\t%s\n", p.Path, size)
		case proto.ContextSkill:
			fmt.Fprintf(w, "skill\t%s\t%s\n", p.SkillDirectory, disconnect.ScrubTo(p.SkillDescription, 100))
		}
	}
	for _, path := range config.MCPConfigFiles {
		fmt.Fprintf(w, "mcp\t%s\t%s\n", path, "if it is there")
	}
	for _, skipped := range config.Skipped {
		fmt.Fprintf(w, "skipped\t%s\t%s\n", skipped.Path, skipped.Reason)
	}
	return w.Flush()
}
