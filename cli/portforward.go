package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
)

// forwardCommand is one run of `fairlead port-forward`.
type forwardCommand struct {
	streams
	workspace   string
	profile     string
	forwards    []client.Forward
	exitOnLoss  bool
	verbose     bool
	forceRelay  bool
	outageLimit time.Duration
	logger      *slog.Logger
}

func newPortForward(s streams) *cobra.Command {
	c := &forwardCommand{streams: s}
	var local, remote, dynamic []string
	cmd := &cobra.Command{
		Use:   "port-forward WORKSPACE [PORT…]",
		Short: "Lead ports and sockets of this machine into a workspace, or back",
		Long: "Lead connections to ports or sockets of this machine into a workspace (-L, or PORT for\n" +
			"a port of the workspace by the same number here), from the workspace to this machine\n" +
			"(-R), or wherever they ask for by SOCKS (-D). The forms are those of OpenSSH.\n\n" +
			"It goes on until Ctrl-C. When the workspace or the network is away it waits for them\n" +
			"to come back; until then a new connection is reset at once, and a line says why.\n" +
			"With --exit-on-disconnect it ends instead, with exit code 255.",
		Example: "  fairlead port-forward dev 8080 3000:80\n" +
			"  fairlead port-forward dev -L 5432:db.internal:5432 -L ./docker.sock:/var/run/docker.sock\n" +
			"  fairlead port-forward dev -D 1080\n  fairlead port-forward dev -R 9000:localhost:9000",
	}
	cmd.Args = func(_ *cobra.Command, args []string) error { return oneWorkspace(nil, args[:min(len(args), 1)]) }
	flags := cmd.Flags()
	flags.StringArrayVarP(&local, "local", "L", nil, "listen here and lead into the workspace: "+localForm+" (repeatable)")
	flags.StringArrayVarP(&remote, "remote", "R", nil, "listen in the workspace and lead here: the same forms, or [ADDRESS:]PORT for SOCKS (repeatable)")
	flags.StringArrayVarP(&dynamic, "dynamic", "D", nil, "listen here and speak SOCKS 4 and 5: "+dynamicForm+" (repeatable)")
	flags.BoolVar(&c.exitOnLoss, "exit-on-disconnect", false, "end with exit code 255 when the workspace is lost, instead of waiting for it")
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "tell of each connection even if standard output is no terminal")
	flags.BoolVar(&c.forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
	flags.DurationVar(&c.outageLimit, "outage-limit", 0, "how long the workspace may be out of reach before open connections end (default what the workspace allows: 30m and 1m more)")
	profileName := profileFlag(cmd)
	logger := quietLogFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) (err error) {
		if c.forwards, err = parseForwards(local, remote, dynamic, args[1:]); err != nil {
			return err
		}
		if c.logger, err = logger(); err != nil {
			return err
		}
		c.profile, c.workspace = *profileName, args[0]
		return c.run(cmd.Context())
	})
	return cmd
}

func parseForwards(local, remote, dynamic, ports []string) (all []client.Forward, err error) {
	parse := func(specs []string, one func(string) (client.Forward, error)) {
		for _, spec := range specs {
			if err != nil {
				return
			}
			var f client.Forward
			f, err = one(spec)
			all = append(all, f)
		}
	}
	parse(ports, parsePort)
	parse(local, func(spec string) (client.Forward, error) { return parseForward(spec, false) })
	parse(dynamic, parseDynamic)
	parse(remote, func(spec string) (client.Forward, error) { return parseForward(spec, true) })
	if err == nil && len(all) == 0 {
		err = withCode(exitUsage, errors.New("name a port, or a forward with -L, -R or -D"))
	}
	return all, err
}

func (c *forwardCommand) run(ctx context.Context) error {
	// A reader of our output that goes away must not kill us before the goodbye.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	forwards, err := client.ListenForwards(ctx, c.forwards)
	if err != nil {
		return err
	}
	defer forwards.Close()
	show := newForwardView(c.streams, c.workspace, c.verbose)
	cl, err := openClient(ctx, c.profile, client.Options{
		Logger: c.logger, ForceRelay: c.forceRelay, OutageLimit: c.outageLimit, Step: show.step, Notice: show.notice,
	})
	if err != nil {
		show.clear()
		return cannotReach(err)
	}
	end, err := forwards.Run(ctx, cl, c.workspace, client.ForwardOptions{
		ExitOnDisconnect: c.exitOnLoss,
		OnEvent:          show.event,
	})
	show.clear()
	cl.Close(context.WithoutCancel(ctx), client.SessionEnd{Attribution: end}.Goodbye())
	switch {
	case err != nil:
		return cannotReach(err)
	case end.Reason == disconnect.ClientClosed:
		return nil
	}
	fmt.Fprintf(c.err, "fairlead: connection to %s ended: %s\n", plain(c.workspace), end)
	if loginRefused(end) {
		return exitWith(exitAuth)
	}
	return exitWith(exitLost)
}
