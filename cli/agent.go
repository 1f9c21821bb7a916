package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/agent"
	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/sdk"
)

func newAgent(s streams) *cobra.Command {
	var opts agentOptions
	cmd := &cobra.Command{
		Use:   "agent URL",
		Short: "Serve this machine as a workspace",
		Long: "Serve this machine as a workspace. The agent's token comes from --token-file or the\n" +
			"variable " + agent.EnvToken + ", never from the command line. Every flag may\n" +
			"also come from the environment or from a YAML file (--config).",
		Args: cobra.MaximumNArgs(1),
	}
	options := addOptions(cmd, opts.table()...)
	logger := logFlags(cmd, s.err)
	cmd.RunE = options.run(func(cmd *cobra.Command, _ []string) (err error) {
		log, err := logger()
		if err != nil {
			return err
		}
		u, err := sdk.ParseURL(opts.url)
		if err != nil {
			return withCode(exitUsage, err)
		}
		if plainBeyondLoopback(u) && !opts.insecureHTTP {
			return withCode(exitUsage, fmt.Errorf("refusing to use %s: plain HTTP would show the agent's token to everybody on the way; use https, or --insecure-http to accept the risk", u))
		}
		token, err := agentToken(opts.token, opts.tokenFile)
		if err != nil {
			return withCode(exitUsage, err)
		}
		log, export, endExport := exportLog(cmd.Context(), "fairlead-agent", log)
		defer endExport()
		manager := takeServiceManager(log)
		set, closeMetrics, err := opts.metrics(cmd.Context(), log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeMetrics()) }()
		a, err := agent.New(agent.Options{
			AccessURL: u, Token: token, StateDir: opts.stateDir, Logger: log, Version: softwareVersion(),
			ForceRelay: opts.forceRelay, OutageLimit: opts.outageLimit, DetachedLimit: opts.detachedLimit, ShutdownTimeout: opts.shutdownTimeout,
			ContextConfig: agentcontextconfig.ConfigFromEnv(), Ended: set.Ended,
		})
		if err != nil {
			return err
		}
		countAgent(set, a)
		countExport(set, export)
		return serveAgent(cmd.Context(), a, manager)
	})
	return cmd
}

// agentOptions are the options of `fairlead agent`.
type agentOptions struct {
	url, token, tokenFile, stateDir, metricsListen string
	forceRelay, insecureHTTP                       bool
	outageLimit, detachedLimit, shutdownTimeout    time.Duration
}

// table is the option table of `fairlead agent`.
func (o *agentOptions) table() []option {
	o.stateDir, o.shutdownTimeout = defaultStateDir("agent"), agent.DefaultShutdownTimeout
	o.detachedLimit = agent.DefaultDetachedLimit
	return []option{
		{name: "url", value: &o.url, usage: "URL of the server", argument: true},
		{name: "agent-token", value: &o.token, usage: "the agent's token", secret: true},
		{name: "token-file", value: &o.tokenFile, usage: "file that holds the agent's token"},
		{name: "state-dir", value: &o.stateDir, usage: "directory of the agent's keys", shown: shownStateDir("agent")},
		{name: "insecure-http", value: &o.insecureHTTP, usage: "send the token over plain HTTP beyond loopback"},
		{name: "force-relay", value: &o.forceRelay, usage: "keep all traffic on the relay, never direct"},
		{name: "metrics-listen", value: &o.metricsListen, usage: "address and port of /metrics, and of pprof if it is loopback; empty turns both off"},
		{name: "outage-limit", value: &o.outageLimit, usage: "how long a client may be out of reach before its sessions end; 0: what the server says", shown: "the server's"},
		{name: "detached-limit", value: &o.detachedLimit, usage: "how long a terminal of `fairlead attach` lives while nobody is attached"},
		{name: "shutdown-timeout", value: &o.shutdownTimeout, usage: "how long a stop may take"},
	}
}

// metrics serves the agent's metrics if they are wanted; otherwise the set is nil.
func (o *agentOptions) metrics(ctx context.Context, log *slog.Logger) (set *metrics.Set, closeAll func() error, err error) {
	if o.metricsListen == "" {
		return nil, func() error { return nil }, nil
	}
	set = metrics.New(softwareVersion())
	listener, err := metrics.Listen(ctx, o.metricsListen, set, log)
	if err != nil {
		return nil, nil, err
	}
	return set, listener.Close, nil
}

// countAgent adds what a does to set, which may be nil.
func countAgent(set *metrics.Set, a agent.Agent) {
	set.Gauge("agent_control_link_up", "Whether the agent has a control link.", nil, func() float64 {
		if a.Status().Linked {
			return 1
		}
		return 0
	})
	set.Counter("agent_control_link_reconnects_total", "Control links after the agent's first.", func() float64 {
		return float64(max(a.Status().Links, 1) - 1)
	})
	for kind := range a.Status().Connections {
		set.Gauge("agent_connections", "Connections that are open.", map[string]string{"type": kind}, func() float64 {
			return float64(a.Status().Connections[kind])
		})
	}
	set.Gauge("agent_reports_pending", "Reports of connections that the server has not acknowledged.", nil, func() float64 {
		return float64(a.Status().Reports.Pending)
	})
	set.Gauge("agent_reports_volatile", "Whether reports are in memory only, for the disk does not take them.", nil, func() float64 {
		if a.Status().Reports.Volatile {
			return 1
		}
		return 0
	})
	set.Counter("agent_reports_dropped_total", "Connections that are not reported for lack of room.", func() float64 {
		return float64(a.Status().Reports.Dropped)
	})
	set.Counter("agent_reports_refused_total", "Reports that the server has refused as invalid.", func() float64 {
		return float64(a.Status().Reports.Refused)
	})
	for kind := range a.Status().Peers {
		set.Gauge("agent_peers", "Clients that are installed, by the path to them.", map[string]string{"path": kind.String()}, func() float64 {
			return float64(a.Status().Peers[kind])
		})
	}
}

// serveAgent runs a until a signal or until it gives up.
func serveAgent(ctx context.Context, a agent.Agent, manager *serviceManager) error {
	ctx, again, stop := stopSignals(ctx)
	defer stop()
	watch, cancel := context.WithCancel(ctx)
	wait := manager.run(watch, func(context.Context) error { return nil }) // alive is all there is to say
	defer wait()
	defer cancel()
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
	err := hurrying(again, a.Kill, a.Close)
	if agent.IsRefused(failed) {
		return withCode(exitRefused, failed)
	}
	return errors.Join(failed, err)
}

// agentToken takes the token from the file if one is given, and what the options gave
// otherwise; and out of the environment, so that no session's process inherits it.
func agentToken(token, file string) (string, error) {
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

// shownStateDir is what the documentation says of defaultStateDir.
func shownStateDir(name string) string { return "fairlead/" + name + " in $XDG_STATE_HOME" }

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
