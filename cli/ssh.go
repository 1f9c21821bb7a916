package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

// sshCommand is one run of `fairlead ssh`.
type sshCommand struct {
	streams
	workspace string
	args      []string // after --

	profile     string
	stdio       bool
	forcePTY    bool
	noPTY       bool
	forceRelay  bool
	outageLimit time.Duration
	env         []string
	name        string
	logger      *slog.Logger

	left   []string      // the user's terminals that a lost session leaves behind
	attach *proto.Attach // of `fairlead attach`
	asJSON bool
}

func newSSH(s streams) *cobra.Command {
	c := &sshCommand{streams: s}
	cmd := &cobra.Command{
		Use:   "ssh WORKSPACE [-- COMMAND [ARG…]]",
		Short: "Open a shell in a workspace, or run a command there",
		Long: "Open a shell in a workspace, or run a command there. One argument after -- is a\n" +
			"command line for the remote shell; several are one command and its arguments, passed\n" +
			"as they are. The remote exit status is this command's; 255 means that the connection\n" +
			"was lost. On a terminal, a line that begins with ~. leaves.",
		Example: "  fairlead ssh dev\n  fairlead ssh dev -- 'cd src && make'\n" +
			"  ssh -o ProxyCommand='fairlead ssh --stdio dev' dev",
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if dash := cmd.ArgsLenAtDash(); len(args) == 0 || dash == 0 || (dash < 0 && len(args) > 1) || dash > 1 {
			return withCode(exitUsage, errors.New("name one workspace; a command comes after --, as in: fairlead ssh dev -- make"))
		}
		return nil
	}
	flags := cmd.Flags()
	flags.BoolVar(&c.stdio, "stdio", false, "connect standard input and output to the workspace's SSH server, for ProxyCommand")
	flags.BoolVarP(&c.forcePTY, "tty", "t", false, "use a remote terminal for a command too")
	flags.BoolVarP(&c.noPTY, "no-tty", "T", false, "use no remote terminal")
	flags.BoolVar(&c.forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
	flags.DurationVar(&c.outageLimit, "outage-limit", 0, "how long the workspace may be out of reach before the session ends (default what the workspace allows: 30m and 1m more)")
	flags.StringArrayVarP(&c.env, "env", "e", nil, "set a variable of the remote session, KEY=VALUE (repeatable)")
	flags.StringVar(&c.name, "name", "", "name the session; one of yours that has the name ends")
	profileName := profileFlag(cmd)
	logger := quietLogFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) (err error) {
		if c.logger, err = logger(); err != nil {
			return err
		}
		c.profile, c.workspace, c.args = *profileName, args[0], args[1:]
		return c.run(cmd.Context())
	})
	return cmd
}

func (c *sshCommand) run(ctx context.Context) error {
	if !validWorkspace(c.workspace) {
		return withCode(exitUsage, fmt.Errorf("%q cannot be a workspace: %s", plain(c.workspace), sdk.NameRule))
	}
	if err := c.checkName(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A reader of our output that goes away must not kill us before the goodbye.
	signal.Ignore(syscall.SIGPIPE)
	leave := c.leaveOnSignal(cancel)
	defer leave()

	var notices notices
	defer func() { notices.show(c.err) }() // not before: the screen belongs to the session
	status := newStatusLine(c.err)
	cl, err := openClient(ctx, c.profile, client.Options{
		Logger: c.logger, ForceRelay: c.forceRelay, OutageLimit: c.outageLimit, Step: status.show, Notice: notices.add,
	})
	if err != nil {
		status.clear()
		return cannotReach(err)
	}
	goodbye := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the client gave up connecting"}
	defer func() { cl.Close(context.WithoutCancel(ctx), goodbye) }()
	workspace, err := cl.Reach(ctx, c.workspace)
	status.clear()
	if err != nil {
		return cannotReach(err)
	}
	end, err := c.serve(ctx, workspace)
	if err != nil {
		return err
	}
	goodbye = end.Goodbye()
	return c.report(end)
}

// checkName refuses a name of a session that cannot be one.
func (c *sshCommand) checkName() error {
	switch {
	case c.name == "":
	case !sdk.ValidName(c.name):
		return withCode(exitUsage, fmt.Errorf("%q cannot be the name of a session: %s", plain(c.name), sdk.NameRule))
	case c.stdio:
		return withCode(exitUsage, errors.New("--name does not go with --stdio: let the ssh client send FAIRLEAD_SESSION, as in: ssh -o SetEnv=FAIRLEAD_SESSION=build dev.fairlead"))
	}
	return nil
}

// validWorkspace allows NAME and OWNER/NAME.
func validWorkspace(s string) bool {
	owner, name, both := strings.Cut(s, "/")
	return sdk.ValidName(owner) && (!both || sdk.ValidName(name))
}

// cannotReach gives a failure before there is a connection its exit code.
func cannotReach(err error) error {
	var coded *exitErr
	if err = reachError(err); errors.As(err, &coded) {
		return err
	}
	return withCode(exitLost, err)
}

// loginRefused reports whether a says that the server does not accept the login.
func loginRefused(a disconnect.Attribution) bool {
	switch a.Reason {
	case disconnect.AuthFailed, disconnect.AuthRevoked, disconnect.AuthExpired:
		return true
	}
	return false
}

// report says how the session ended, unless it was a clean exit whose status says
// it all, or the local ssh client, which speaks for itself, ended it.
func (c *sshCommand) report(end client.SessionEnd) error {
	if end.Err != nil && end.Attribution.Reason == disconnect.WorkspaceStopped {
		return withCode(exitStopped, end.Err)
	}
	if end.Err != nil {
		return withCode(end.ExitCode, end.Err)
	}
	switch reason := end.Attribution.Reason; {
	case c.attach != nil && c.detached(end):
		return nil
	case reason == disconnect.Graceful, reason == disconnect.ProcessExited:
	case c.stdio && end.Attribution.Initiator == disconnect.Client:
	default:
		fmt.Fprintf(c.err, "fairlead: connection to %s ended: %s\n", plain(c.workspace), end.Attribution)
		c.explainAtOnce(end)
		c.offerTerminals(end)
	}
	return exitWith(end.ExitCode)
}

// serve runs what was asked for: a raw stream, a shell or a command.
func (c *sshCommand) serve(ctx context.Context, workspace *client.Workspace) (client.SessionEnd, error) {
	if c.stdio {
		return workspace.Stdio(ctx, c.in, c.out), nil
	}
	if c.attach != nil {
		return c.attachTo(ctx, workspace)
	}
	return c.session(ctx, workspace)
}

// session runs a shell or a command.
func (c *sshCommand) session(ctx context.Context, workspace *client.Workspace) (client.SessionEnd, error) {
	opts := client.SessionOptions{
		Shell:   len(c.args) == 0,
		Command: remoteCommand(c.args),
		Env:     map[string]string{},
		Stdin:   c.in, Stdout: c.out, Stderr: c.err,
	}
	for _, kv := range c.env {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			return client.SessionEnd{}, withCode(exitUsage, fmt.Errorf("--env %q is not KEY=VALUE", plain(kv)))
		}
		opts.Env[key] = value
	}
	if c.name != "" {
		opts.Env["FAIRLEAD_SESSION"] = c.name
	}
	signals, stop := passedSignals()
	defer stop()
	opts.Signals = signals
	if in, ok := terminalOf(c.in); ok && !c.noPTY && (opts.Shell || c.forcePTY) {
		restore, err := c.terminal(in, &opts, workspace)
		if err != nil {
			return client.SessionEnd{}, err
		}
		defer restore()
		defer func() { c.left = workspace.Terminals() }()
	}
	return workspace.RunSession(ctx, opts), nil
}

// terminal prepares the local terminal for a remote one: raw, with its size followed, and
// a line on it while the workspace is silent.
func (c *sshCommand) terminal(in terminal, opts *client.SessionOptions, workspace *client.Workspace) (restore func(), err error) {
	columns, rows, err := in.size()
	if err != nil {
		return nil, fmt.Errorf("read the terminal's size: %w", err)
	}
	unraw, err := in.raw()
	if err != nil {
		return nil, err
	}
	resized, stop := followSize(in)
	opts.PTY, opts.Term = true, os.Getenv("TERM")
	opts.Size = client.Size{Columns: columns, Rows: rows}
	opts.Resize = resized
	keys := client.NewEscapeReader(c.in, c.err)
	opts.Stdin = keys
	out, ok := terminalOf(c.out)
	if !ok || opts.Term == "dumb" {
		return func() { stop(); unraw() }, nil
	}
	line := newSilenceLine(out, workspace)
	keys.Behind(line)
	opts.Stdout, opts.Repaint = line, line.repaint
	if _, ok := terminalOf(c.err); ok {
		opts.Stderr = line
	}
	return func() { line.close(); stop(); unraw() }, nil
}

// followSize sends the terminal's size whenever it changes.
func followSize(t terminal) (sizes <-chan client.Size, stop func()) {
	changed := make(chan os.Signal, 1)
	notify(changed, resizeSignals)
	out := make(chan client.Size, 1)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-changed:
			case <-quit:
				return
			}
			columns, rows, err := t.size()
			if err != nil {
				continue
			}
			select {
			case out <- client.Size{Columns: columns, Rows: rows}:
			case <-quit:
				return
			}
		}
	}()
	return out, func() {
		signal.Stop(changed)
		close(quit)
		<-done
	}
}

// leaveOnSignal makes SIGTERM, SIGHUP and, outside a raw terminal, SIGINT leave the
// session on purpose.
func (c *sshCommand) leaveOnSignal(cancel context.CancelFunc) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, os.Interrupt)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-signals:
			cancel()
		case <-quit:
		}
	}()
	return func() {
		signal.Stop(signals)
		close(quit)
		<-done
	}
}

// notify is [signal.Notify], but none means none.
func notify(c chan<- os.Signal, signals []os.Signal) {
	if len(signals) > 0 {
		signal.Notify(c, signals...)
	}
}

// passedSignals are those that go to the remote process.
func passedSignals() (<-chan os.Signal, func()) {
	signals := make(chan os.Signal, 4)
	notify(signals, remoteSignals)
	return signals, func() { signal.Stop(signals) }
}

// remoteCommand makes the remote command line: one argument is one already; several
// are quoted, so that the remote shell sees each as it is.
func remoteCommand(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = shellQuote(arg)
	}
	return strings.Join(quoted, " ")
}

const plainShellCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+"

func shellQuote(s string) string {
	if s != "" && strings.Trim(s, plainShellCharacters) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
