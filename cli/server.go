package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/httpport"
	"fairlead.dev/fairlead/server"
)

// defaultListen is where a server listens that was told nothing.
const defaultListen = "127.0.0.1:7080"

func newServer(s streams) *cobra.Command {
	var opts server.Options
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane, relay and API",
		Long: "Run the control plane, relay and API. The first start prints a one-time code with\n" +
			"which the first user logs in; so does a start at which no admin has a valid token.\n" +
			"Every flag may also come from the environment (--state-dir from FAIRLEAD_STATE_DIR) or\n" +
			"from a YAML file (--config).",
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newServerCheck(s))
	options := addOptions(cmd, serverOptions(&opts)...)
	logger := logFlags(cmd, s.err)
	cmd.RunE = options.run(func(cmd *cobra.Command, _ []string) error {
		err := opts.Check()
		if err != nil {
			return withCode(exitUsage, err)
		}
		if opts.Logger, err = logger(); err != nil {
			return err
		}
		log, export, endExport := exportLog(cmd.Context(), "fairlead-server", opts.Logger)
		defer endExport()
		opts.Logger, opts.Event = log, export.Event
		opts.Version = softwareVersion()
		if opts.Listener, err = inheritedListener(); err != nil {
			return err
		}
		saveMemory()
		manager := takeServiceManager(opts.Logger)
		ctx, again, stop := stopSignals(cmd.Context())
		defer stop()
		srv, err := server.New(ctx, opts)
		if err != nil {
			return notStarted(err)
		}
		countExport(srv.Metrics(), export)
		printAdminCode(s.out, srv)
		return serve(ctx, again, srv, manager)
	})
	cmd.AddCommand(newServerBackup(s), newServerRestore(s))
	return cmd
}

// notStarted makes an error a usage error if another try with the same options fails
// again, so that nobody restarts the process for ever.
func notStarted(err error) error {
	if never := (*httpport.OptionError)(nil); errors.As(err, &never) {
		return withCode(exitUsage, err)
	}
	return err
}

// saveMemory makes the garbage collector run at a quarter of garbage instead of one as
// large as what is alive: a server holds much for its idle agents, and allocates
// little. Who sets GOGC knows better.
func saveMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
}

// serverOptions is the option table of `fairlead server`.
func serverOptions(opts *server.Options) []option {
	opts.MaxLinksPerUser, opts.MaxLinksPerAddress = server.DefaultMaxLinksPerUser, server.DefaultMaxLinksPerAddress
	opts.ConnectionRetention, opts.OutageLimit = server.DefaultConnectionRetention, server.DefaultOutageLimit
	opts.Listen, opts.STUNListen, opts.StateDir = defaultListen, ":3478", defaultStateDir("server")
	return []option{
		{name: "listen", value: &opts.Listen, usage: "address and port of HTTP"},
		{name: "access-url", value: &opts.AccessURL, usage: "URL at which agents and clients reach the server", shown: "made from listen"},
		{name: "state-dir", value: &opts.StateDir, usage: "directory of the database", shown: shownStateDir("server")},
		{name: "stun-listen", value: &opts.STUNListen, usage: "UDP address and port of STUN; empty turns it off"},
		{name: "no-relay", value: &opts.NoRelay, usage: "turn the server's own relay and STUN off: nodes use relays that are processes of their own"},
		{name: "behind-proxy", value: &opts.BehindProxy, usage: "a proxy in front does TLS"},
		{name: "trusted-proxies", value: &opts.TrustedProxies, usage: "addresses and networks of proxies whose X-Forwarded-For counts", shown: "with behind-proxy: this host"},
		{name: "insecure-http", value: &opts.InsecureHTTP, usage: "serve plain HTTP beyond loopback"},
		{name: "max-links-per-user", value: &opts.MaxLinksPerUser, usage: "how many clients of one user, or agents of one workspace, may be connected at once"},
		{name: "max-links-per-address", value: &opts.MaxLinksPerAddress, usage: "how many agents and clients of one address may be connected at once"},
		{name: "idle-timeout", value: &opts.IdleTimeout, usage: "end sessions through which nothing passed for so long, in workspaces without a policy of their own; 0: never"},
		{name: "session-limit", value: &opts.SessionLimit, usage: "end sessions that have lasted so long, in workspaces without a policy of their own; 0: never"},
		{name: "outage-limit", value: &opts.OutageLimit, usage: "how long a client may be out of reach before its sessions end, unless its agent has a limit of its own"},
		{name: "connection-retention", value: &opts.ConnectionRetention, usage: "how long closed connections stay in the connection log; 0: for ever", shown: "2160h (90 days)"},
		{name: "metrics-listen", value: &opts.MetricsListen, usage: "address and port of /metrics, and of pprof if it is loopback; empty turns both off"},
		{name: "tls-cert", value: &opts.TLSCert, usage: "TLS certificate (PEM file); read anew when it changes"},
		{name: "tls-key", value: &opts.TLSKey, usage: "TLS key (PEM file)"},
	}
}

// printAdminCode shows the one-time code; it never goes to the log.
func printAdminCode(w io.Writer, srv *server.Server) {
	code, file := srv.AdminCode()
	if code == "" {
		return
	}
	what := "This server has no user yet. Log in as the first one within 15 minutes:"
	if name := srv.AdminCodeFor(); name != "" {
		what = "No admin has a valid token any more. Log in again as " + name + " within 15 minutes:"
	}
	fmt.Fprintf(w, "%s\n\n  %s login %s --code %s\n\nThe code works once; it is also in %s.\n",
		what, programName(), srv.URL(), code, file)
}

// serve runs srv until ctx ends, then stops it in order; at once when again is closed.
func serve(ctx context.Context, again <-chan struct{}, srv *server.Server, manager *serviceManager) error {
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	ctx, cancel := context.WithCancel(ctx)
	wait := manager.run(ctx, srv.Healthy)
	defer wait()
	defer cancel()
	select {
	case err := <-served: // the port failed
		return errors.Join(err, closeInTime(again, srv.Close))
	case <-ctx.Done():
		return errors.Join(closeInTime(again, srv.Close), <-served)
	}
}
