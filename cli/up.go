package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/agent"
	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server"
)

// What `fairlead up` makes for a newcomer.
const (
	localUser      = "admin"
	localWorkspace = "local"
	localProfile   = "local"
)

func newUp(s streams) *cobra.Command {
	stateDir, listen, metricsListen := defaultStateDir("up"), defaultListen, ""
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Try Fairlead: server and agent on this machine, nothing to configure",
		Long: "Run a server and an agent for this machine in one process, as the workspace\n" +
			"\"local\", and remember the login. Then, in another terminal: fairlead ssh local",
		Args: cobra.NoArgs,
	}
	options := addOptions(cmd,
		option{name: "state-dir", value: &stateDir, usage: "directory of all state", shown: shownStateDir("up")},
		option{name: "listen", value: &listen, usage: "address and port of HTTP"},
		option{name: "metrics-listen", value: &metricsListen, usage: "address and port of /metrics, and of pprof if it is loopback; empty turns both off"},
	)
	output := outputFlag(cmd)
	logger := logFlags(cmd, s.err)
	level := cmd.Flags().Lookup("log-level")
	_ = level.Value.Set("warn") // a newcomer reads the terminal
	level.DefValue = "warn"
	cmd.RunE = options.run(func(cmd *cobra.Command, _ []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		log, err := logger()
		if err != nil {
			return err
		}
		log, export, endExport := exportLog(cmd.Context(), "fairlead-up", log)
		defer endExport()
		ctx, again, stop := stopSignals(cmd.Context())
		defer stop()
		srv, err := server.New(ctx, server.Options{
			Listen: listen, StateDir: filepath.Join(stateDir, "server"), STUNListen: "127.0.0.1:0",
			MetricsListen: metricsListen, Local: true, ConnectionRetention: server.DefaultConnectionRetention,
			Logger: log.With("role", "server"), Event: export.Event, Version: softwareVersion(),
		})
		if err != nil {
			return err
		}
		countExport(srv.Metrics(), export)
		u := &up{streams: s, srv: srv, agentOptions: agent.Options{
			AccessURL: srv.URL(), StateDir: filepath.Join(stateDir, "agent"),
			Logger: log.With("role", "agent"), Version: softwareVersion(),
			ContextConfig: agentcontextconfig.ConfigFromEnv(),
		}}
		return u.run(ctx, again, func() error { return u.announce(asJSON, stateDir) })
	})
	return cmd
}

// up is one run of `fairlead up`.
type up struct {
	streams
	srv          *server.Server
	agentOptions agent.Options
}

// run serves until ctx ends. The server outlives the agent, so that the agent can say
// goodbye to it.
func (u *up) run(ctx context.Context, again <-chan struct{}, ready func() error) error {
	served := make(chan error, 1)
	go func() { served <- u.srv.Serve() }()
	err := u.runAgent(ctx, again, ready)
	return errors.Join(err, closeInTime(again, u.srv.Close), <-served)
}

func (u *up) runAgent(ctx context.Context, again <-chan struct{}, ready func() error) error {
	userToken, agentToken, err := u.srv.EnsureLocal(ctx, localUser, localWorkspace)
	if err != nil {
		return err
	}
	u.agentOptions.Token = agentToken
	a, err := agent.New(u.agentOptions)
	if err != nil {
		return err
	}
	countAgent(u.srv.Metrics(), a) // how its connections end, the server hears and counts
	return waitAndClose(ctx, again, a, func(ctx context.Context) error {
		p := profile{URL: u.srv.URL().String(), Token: userToken, User: localUser}
		if err := awaitOnline(ctx, p); err != nil {
			return err
		}
		// The default only when there is none: a newcomer's, never somebody's real one.
		if err := saveProfile(localProfile, p, false); err != nil {
			return err
		}
		return ready()
	})
}

// announce says that everything is up: one line of JSON for a program, or what to do
// next for a person.
func (u *up) announce(asJSON bool, stateDir string) error {
	if asJSON {
		return printJSON(u.out, struct {
			URL       string `json:"url"`
			Workspace string `json:"workspace"`
			StateDir  string `json:"state_dir"`
		}{u.srv.URL().String(), localWorkspace, stateDir})
	}
	_, err := fmt.Fprintf(u.out, "Fairlead is up at %s, with this machine as workspace %q.\n\n"+
		"In another terminal:\n\n  %s ssh %s\n\nCtrl-C stops it.\n", u.srv.URL(), localWorkspace, programName(), localWorkspace)
	return err
}

// awaitOnline returns when the server lists the local agent as online.
func awaitOnline(ctx context.Context, p profile) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	api, err := sdk.NewClient(p.URL, p.Token)
	if err != nil {
		return err
	}
	defer api.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ws, err := api.Workspace(ctx, localWorkspace)
		if err == nil && ws.Agent.Status == sdk.AgentOnline {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(errors.New("the local agent did not come online"), err)
		}
	}
}
