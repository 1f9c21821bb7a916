package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/agent"
	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/sdk"
)

func newAgent(s streams) *cobra.Command {
	var (
		tokenFile, stateDir string
		forceRelay          bool
		outageLimit         time.Duration
		shutdownTimeout     time.Duration
	)
	cmd := &cobra.Command{
		Use:   "agent URL",
		Short: "Serve this machine as a workspace",
		Long: "Serve this machine as a workspace. The agent's token comes from --token-file or the\n" +
			"variable " + agent.EnvToken + ", never from the command line.",
		Args: cobra.MaximumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&tokenFile, "token-file", "", "file that holds the agent's token")
	flags.StringVar(&stateDir, "state-dir", "", "directory of the agent's keys (default "+defaultStateDir("agent")+")")
	flags.BoolVar(&forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
	flags.DurationVar(&outageLimit, "outage-limit", agent.DefaultOutageLimit, "how long a client may be out of reach before its sessions end")
	flags.DurationVar(&shutdownTimeout, "shutdown-timeout", agent.DefaultShutdownTimeout, "how long a stop may take")
	logger := logFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		log, err := logger()
		if err != nil {
			return err
		}
		address := os.Getenv("FAIRLEAD_URL")
		if len(args) > 0 {
			address = args[0]
		}
		u, err := sdk.ParseURL(address)
		if err != nil {
			return withCode(exitUsage, err)
		}
		token, err := agentToken(tokenFile)
		if err != nil {
			return withCode(exitUsage, err)
		}
		if stateDir == "" {
			stateDir = defaultStateDir("agent")
		}
		a, err := agent.New(agent.Options{
			AccessURL: u, Token: token, StateDir: stateDir, Logger: log, Version: softwareVersion(),
			ForceRelay: forceRelay, OutageLimit: outageLimit, ShutdownTimeout: shutdownTimeout,
			ContextConfig: agentcontextconfig.ConfigFromEnv(),
		})
		if err != nil {
			return err
		}
		return serveAgent(cmd.Context(), a)
	})
	return cmd
}

// serveAgent runs a until a signal or until it gives up.
func serveAgent(ctx context.Context, a agent.Agent) error {
	ctx, again, stop := stopSignals(ctx)
	defer stop()
	return waitAndClose(ctx, again, a, func(context.Context) error { return nil })
}

// waitAndClose calls started, then waits until ctx ends or the agent gives up, and
// closes the agent; when again is closed, at once.
func waitAndClose(ctx context.Context, again <-chan struct{}, a agent.Agent, started func(context.Context) error) error {
	failed := started(ctx)
	if failed == nil {
		failed = a.Wait(ctx)
	} else if ctx.Err() != nil {
		failed = nil // stopped by the person before it was up
	}
	closed := make(chan struct{})
	defer close(closed)
	go func() {
		select {
		case <-again:
			a.Kill()
		case <-closed:
		}
	}()
	err := a.Close()
	if agent.IsRefused(failed) {
		return withCode(exitRefused, failed)
	}
	return errors.Join(failed, err)
}

// agentToken takes the token from the file or the environment, and out of the
// environment, so that no session's process inherits it.
func agentToken(file string) (string, error) {
	token := os.Getenv(agent.EnvToken)
	_ = os.Unsetenv(agent.EnvToken) // fails only for an invalid name
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read agent token: %w", err)
		}
		token = string(data)
	}
	token = strings.TrimSpace(token)
	if token == "" {
		return "", fmt.Errorf("the agent's token is missing; give --token-file or %s (`fairlead workspace create` makes one)", agent.EnvToken)
	}
	return token, nil
}

// defaultStateDir is fairlead/NAME in the user's state directory (XDG).
func defaultStateDir(name string) string {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "fairlead", name)
}
