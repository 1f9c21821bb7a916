package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/server"
)

// stopTimeout bounds the stop of a server.
const stopTimeout = 10 * time.Second

func newServer(s streams) *cobra.Command {
	var opts server.Options
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane, relay and API",
		Long: "Run the control plane, relay and API. The first start prints a one-time code with\n" +
			"which the first user logs in. Every flag may also come from the environment:\n" +
			"--state-dir from FAIRLEAD_STATE_DIR.",
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Listen, "listen", "127.0.0.1:7080", "address and port of HTTP")
	flags.StringVar(&opts.AccessURL, "access-url", "", "URL at which agents and clients reach the server (default: from --listen)")
	flags.StringVar(&opts.StateDir, "state-dir", "", "directory of the database (default "+defaultStateDir("server")+")")
	flags.StringVar(&opts.STUNListen, "stun-listen", ":3478", "UDP address and port of STUN; empty turns it off")
	flags.BoolVar(&opts.BehindProxy, "behind-proxy", false, "a proxy in front does TLS")
	flags.BoolVar(&opts.InsecureHTTP, "insecure-http", false, "serve plain HTTP beyond loopback")
	flags.StringVar(&opts.TLSCert, "tls-cert", "", "TLS certificate (PEM file)")
	flags.StringVar(&opts.TLSKey, "tls-key", "", "TLS key (PEM file)")
	logger := logFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		var err error
		if opts.Logger, err = logger(); err != nil {
			return err
		}
		if opts.StateDir == "" {
			opts.StateDir = defaultStateDir("server")
		}
		opts.Version = softwareVersion()
		ctx, again, stop := stopSignals(cmd.Context())
		defer stop()
		srv, err := server.New(ctx, opts)
		if err != nil {
			return err
		}
		printAdminCode(s.out, srv)
		return serve(ctx, again, srv)
	})
	return cmd
}

// printAdminCode shows the one-time code; it never goes to the log.
func printAdminCode(w io.Writer, srv *server.Server) {
	code, file := srv.AdminCode()
	if code == "" {
		return
	}
	fmt.Fprintf(w, "This server has no user yet. Log in as the first one within 15 minutes:\n\n"+
		"  fairlead login %s --code %s\n\nThe code works once; it is also in %s.\n", srv.URL(), code, file)
}

// serve runs srv until ctx ends, then stops it in order; at once when again is closed.
func serve(ctx context.Context, again <-chan struct{}, srv *server.Server) error {
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	select {
	case err := <-served: // the port failed
		return errors.Join(err, closeServer(again, srv))
	case <-ctx.Done():
		return errors.Join(closeServer(again, srv), <-served)
	}
}

func closeServer(again <-chan struct{}, srv *server.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	closed := make(chan struct{})
	defer close(closed)
	go func() {
		select {
		case <-again:
			cancel()
		case <-closed:
		}
	}()
	return srv.Close(ctx)
}
