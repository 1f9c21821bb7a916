package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/relayhost"
	"fairlead.dev/fairlead/sdk"
)

// envRelayToken is the variable of the relay's token.
const envRelayToken = "FAIRLEAD_RELAY_TOKEN"

// relayOptions are the options of `fairlead relay`.
type relayOptions struct {
	relayhost.Options
	server, tokenFile string
}

// table is the option table of `fairlead relay`.
func (o *relayOptions) table() []option {
	o.Listen, o.STUNListen = "127.0.0.1:7081", ":3478"
	return []option{
		{name: "server", value: &o.server, usage: "URL of the server"},
		{name: "relay-token", value: &o.Token, usage: "the relay's token", secret: true},
		{name: "token-file", value: &o.tokenFile, usage: "file that holds the relay's token"},
		{name: "access-url", value: &o.AccessURL, usage: "URL at which nodes and the server reach this relay"},
		{name: "listen", value: &o.Listen, usage: "address and port of HTTP"},
		{name: "stun-listen", value: &o.STUNListen, usage: "UDP address and port of STUN; empty turns it off"},
		{name: "behind-proxy", value: &o.BehindProxy, usage: "a proxy in front does TLS"},
		{name: "insecure-http", value: &o.InsecureHTTP, usage: "use plain HTTP beyond loopback, to the server and to serve"},
		{name: "metrics-listen", value: &o.MetricsListen, usage: "address and port of /metrics, and of pprof if it is loopback; empty turns both off"},
		{name: "tls-cert", value: &o.TLSCert, usage: "TLS certificate (PEM file); read anew when it changes"},
		{name: "tls-key", value: &o.TLSKey, usage: "TLS key (PEM file)"},
	}
}

func newRelay(s streams) *cobra.Command {
	var opts relayOptions
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Run a relay as a process of its own, or manage relays",
		Long: "Run a relay: a machine, perhaps near its users, over which nodes talk that find no\n" +
			"direct path. The server that --server names decides who may use it and puts it into\n" +
			"the map that nodes get. An admin makes the relay's token with `fairlead relay create`;\n" +
			"it comes from --token-file or the variable " + envRelayToken + ", never from the\n" +
			"command line. Every flag may also come from the environment or from a YAML file (--config).",
		Args: cobra.NoArgs,
	}
	options := addOptions(cmd, opts.table()...)
	logger := logFlags(cmd, s.err)
	cmd.RunE = options.run(func(cmd *cobra.Command, _ []string) (err error) {
		if opts.Logger, err = logger(); err != nil {
			return err
		}
		if err := opts.check(); err != nil {
			return withCode(exitUsage, err)
		}
		log, _, endExport := exportLog(cmd.Context(), "fairlead-relay", opts.Logger)
		defer endExport()
		opts.Logger, opts.Version = log, softwareVersion()
		return runRelay(cmd.Context(), opts.Options)
	})
	cmd.AddCommand(newRelayCreate(s), newRelayList(s), newRelayDelete(s))
	return cmd
}

// check fills in what the options name, and says what is wrong with them.
func (o *relayOptions) check() (err error) {
	if o.server == "" {
		return errors.New("the server is missing; give --server URL")
	}
	if o.ServerURL, err = sdk.ParseURL(o.server); err != nil {
		return err
	}
	if plainBeyondLoopback(o.ServerURL) && !o.InsecureHTTP {
		return fmt.Errorf("refusing to use %s: plain HTTP would show the relay's token to everybody on the way; use https, or --insecure-http to accept the risk", o.ServerURL)
	}
	if o.AccessURL == "" {
		return errors.New("the access URL is missing; give --access-url, the URL at which nodes reach this relay")
	}
	access, err := sdk.ParseURL(o.AccessURL)
	if err != nil {
		return fmt.Errorf("access URL: %w", err)
	}
	if plainBeyondLoopback(access) && !o.InsecureHTTP {
		return fmt.Errorf("refusing to be reached at %s: plain HTTP would show nodes' tokens to everybody on the way; use https, or --insecure-http to accept the risk", access)
	}
	_ = os.Unsetenv(envRelayToken) // fails only for an invalid name
	if o.tokenFile != "" {
		data, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return fmt.Errorf("read relay token: %w", err)
		}
		o.Token = string(data)
	}
	if o.Token = strings.TrimSpace(o.Token); o.Token == "" {
		return fmt.Errorf("the relay's token is missing; give --token-file or %s (`fairlead relay create` makes one)", envRelayToken)
	}
	return nil
}

// runRelay runs a relay until a signal or until the server refuses it.
func runRelay(ctx context.Context, opts relayhost.Options) error {
	manager := takeServiceManager(opts.Logger)
	ctx, again, stop := stopSignals(ctx)
	defer stop()
	host, err := relayhost.New(ctx, opts)
	if err != nil {
		return notStarted(err)
	}
	watch, cancel := context.WithCancel(ctx)
	wait := manager.run(watch, func(context.Context) error { return nil }) // alive is all there is to say
	defer wait()
	defer cancel()
	failed := host.Wait(ctx)
	err = closeInTime(again, host.Close)
	if relayhost.IsRefused(failed) {
		return withCode(exitRefused, failed)
	}
	return errors.Join(failed, err)
}

func newRelayCreate(s streams) *cobra.Command {
	var tokenFile, region string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a relay's identity and its token (for admins)",
		Args:  cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "write the relay's token to this new file (mode 0600) instead of showing it")
	cmd.Flags().StringVar(&region, "region", "", "short name of the region it stands in (the relay's name if empty)")
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		var made sdk.CreateRelayResponse
		kept, err := keepSecret(tokenFile, func() (_ string, err error) {
			made, err = api.CreateRelay(cmd.Context(), sdk.CreateRelayRequest{Name: args[0], Region: region})
			return made.Token, err
		})
		if err != nil {
			return err
		}
		if kept {
			made.Token = ""
		}
		if asJSON {
			return printJSON(s.out, made)
		}
		fmt.Fprintf(s.out, "Relay %s (region %d) is there. Start it, on a machine that nodes reach, with:\n\n", plain(made.Relay.Name), made.Relay.RegionID)
		if !kept {
			fmt.Fprintf(s.out, "  %s=%s %s relay --server %s --access-url URL\n\nThe token is not shown again.\n", envRelayToken, plain(made.Token), programName(), api.URL())
			return nil
		}
		fmt.Fprintf(s.out, "  %s relay --server %s --token-file %s --access-url URL\n", programName(), api.URL(), tokenFile)
		return nil
	})
	return cmd
}

func newRelayList(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the relays that are processes of their own (for admins)", Args: cobra.NoArgs}
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, _ []string, asJSON bool) error {
		all, err := api.Relays(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, append([]sdk.Relay{}, all...))
		}
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tREGION\tSTATUS\tURL")
		for _, r := range all {
			fmt.Fprintf(w, "%s\t%d %s\t%s\t%s\n", plain(r.Name), r.RegionID, plain(r.Region), plain(r.Status), plain(r.AccessURL))
		}
		return w.Flush()
	})
	return cmd
}

func newRelayDelete(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a relay: nodes leave it, and it stops (for admins)",
		Args:  cobra.ExactArgs(1),
	}
	withAdminAPI(cmd, s, func(cmd *cobra.Command, api *sdk.Client, args []string, asJSON bool) error {
		if err := api.DeleteRelay(cmd.Context(), args[0]); err != nil {
			return err
		}
		if asJSON {
			return printJSON(s.out, map[string]string{"deleted": args[0]})
		}
		fmt.Fprintf(s.out, "Relay %s is deleted. Nodes use the others.\n", plain(args[0]))
		return nil
	})
	return cmd
}
