package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
)

// leaveTerminal makes the local terminal again what a shell expects, whatever the remote
// program had made of it, and begins a line.
const leaveTerminal = "\x18\x1b[?1047l\x1b[<99u\x1b[>4m\x1b[r\x1b[?6l\x1b[?69l\x1b[?7h\x1b[?25h\x1b[4l\x1b[?1l\x1b[?5l\x1b>" +
	"\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l\x1b[?2004l\x1b[?2026l" +
	"\x0f\x1b(B\x1b[0 q\x1b[0m\x1b]8;;\x1b\\\x1b[999;1H\r\n"

func newAttach(s streams) *cobra.Command {
	c := &sshCommand{streams: s, attach: &proto.Attach{}}
	var list bool
	var kill string
	cmd := &cobra.Command{
		Use:   "attach WORKSPACE [-- COMMAND [ARG…]]",
		Short: "Open a terminal in a workspace that lives on without you",
		Long: "Attach to a terminal in a workspace, and start it if it is not there: a login shell, or\n" +
			"the command after --. The terminal outlives this command, its network and this machine;\n" +
			"attach again to see it as it is now. A line that begins with ~. detaches and leaves the\n" +
			"terminal running. Several may be attached at a time; the size is that of the latest.",
		Example: "  fairlead attach dev\n  fairlead attach dev --session build -- make -k\n" +
			"  fairlead attach dev --list\n  fairlead attach dev --kill build",
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if dash := cmd.ArgsLenAtDash(); len(args) == 0 || dash == 0 || (dash < 0 && len(args) > 1) || dash > 1 {
			return withCode(exitUsage, errors.New("name one workspace; a command comes after --, as in: fairlead attach dev -- make"))
		}
		return nil
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.attach.Name, "session", "s", proto.DefaultTerminal, "name of the terminal")
	flags.BoolVar(&c.attach.TakeOver, "take-over", false, "send everybody else who is attached away")
	flags.BoolVar(&list, "list", false, "list your terminals in the workspace instead")
	flags.StringVar(&kill, "kill", "", "end the terminal of this name instead")
	flags.BoolVar(&c.forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
	flags.DurationVar(&c.outageLimit, "outage-limit", 0, "how long the workspace may be out of reach before this command ends (default what the workspace allows: 30m and 1m more)")
	profileName := profileFlag(cmd)
	output := outputFlag(cmd)
	logger := quietLogFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) (err error) {
		if c.asJSON, err = output(); err != nil {
			return err
		}
		if c.logger, err = logger(); err != nil {
			return err
		}
		c.profile, c.workspace, c.args = *profileName, args[0], args[1:]
		c.attach.Command = remoteCommand(c.args)
		if err := c.chooseAction(list, kill); err != nil {
			return err
		}
		return c.run(cmd.Context())
	})
	return cmd
}

// chooseAction says which of the three things is wanted, and refuses two at once.
func (c *sshCommand) chooseAction(list bool, kill string) error {
	switch {
	case list && kill != "":
		return withCode(exitUsage, errors.New("--list and --kill cannot be used together"))
	case (list || kill != "") && len(c.args) > 0:
		return withCode(exitUsage, errors.New("--list and --kill take no command"))
	case list:
		c.attach = &proto.Attach{Action: proto.ListTerminals}
	case kill != "":
		c.attach = &proto.Attach{Action: proto.KillTerminal, Name: kill}
	default:
		if _, ok := terminalOf(c.in); !ok {
			return withCode(exitUsage, errors.New("attach needs a terminal; run a command without one by: fairlead ssh WORKSPACE -- COMMAND"))
		}
	}
	return nil
}

// attachTo does what c.attach asks for.
func (c *sshCommand) attachTo(ctx context.Context, workspace *client.Workspace) (client.SessionEnd, error) {
	request, err := json.Marshal(c.attach)
	if err != nil {
		return client.SessionEnd{}, err
	}
	opts := client.SessionOptions{
		Subsystem: proto.AttachSubsystem + " " + string(request),
		Stdin:     c.in, Stdout: c.out, Stderr: c.err,
	}
	if c.attach.Action != proto.AttachToTerminal {
		return c.askOfTerminals(ctx, workspace, opts)
	}
	in, ok := terminalOf(c.in)
	if !ok {
		return client.SessionEnd{}, errors.New("standard input is no terminal any more")
	}
	restore, err := c.terminal(in, &opts, workspace)
	if err != nil {
		return client.SessionEnd{}, err
	}
	defer restore()
	end := workspace.RunSession(ctx, opts)
	if end.Err == nil {
		_, _ = io.WriteString(c.out, leaveTerminal)
	}
	return end, nil
}

// askOfTerminals lists or kills.
func (c *sshCommand) askOfTerminals(ctx context.Context, workspace *client.Workspace, opts client.SessionOptions) (client.SessionEnd, error) {
	var answer bytes.Buffer
	opts.Stdin, opts.Stdout = nil, &answer
	end := workspace.RunSession(ctx, opts)
	if end.Err != nil || end.ExitCode != 0 || c.attach.Action != proto.ListTerminals {
		return end, nil
	}
	terminals := []proto.Terminal{}
	if err := json.Unmarshal(answer.Bytes(), &terminals); err != nil {
		return end, fmt.Errorf("read the list of terminals: %w", err)
	}
	if c.asJSON {
		return end, printJSON(c.out, terminals)
	}
	return end, printTerminals(c.streams, terminals, time.Now())
}

func printTerminals(s streams, terminals []proto.Terminal, now time.Time) error {
	if len(terminals) == 0 {
		fmt.Fprintln(s.err, "There are no terminals; `fairlead attach WORKSPACE` starts one.")
		return nil
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SESSION\tCOMMAND\tTITLE\tSIZE\tAGE\tATTACHED")
	for _, t := range terminals {
		attached := fmt.Sprint(t.Viewers)
		if t.Detached != nil {
			attached = "no, for " + age(now.Sub(*t.Detached))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%dx%d\t%s\t%s\n", plain(t.Name), orDash(t.Command), orDash(t.Title), t.Columns, t.Rows, age(now.Sub(t.Began)), attached)
	}
	return w.Flush()
}

// orDash makes an empty cell visible.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return plain(text)
}

// offerTerminals tells the user of a lost session which of their terminals were there
// when the workspace was last heard, unless the end is that of the terminals too.
func (c *sshCommand) offerTerminals(end client.SessionEnd) {
	a := end.Attribution
	if c.attach != nil || len(c.left) == 0 || end.Exited || a.Expected() ||
		a.Reason == disconnect.PeerCrashed || a.Reason == disconnect.WorkspaceEvicted || a.Reason == disconnect.DuplicateAgent {
		return
	}
	what, how := "terminal "+plain(c.left[0]), ""
	switch {
	case slices.Contains(c.left, proto.DefaultTerminal):
		what = "terminal " + proto.DefaultTerminal
	case len(c.left) == 1:
		how = " --session " + plain(c.left[0])
	default:
		what, how = "terminals "+plain(strings.Join(c.left, ", ")), " --list"
	}
	fmt.Fprintf(c.err, "fairlead: your %s was still there when %s was last heard from; go on there with: %s attach %s%s\n",
		what, plain(c.workspace), programName(), plain(c.workspace), how)
}

// detached says what is left behind, if the user left a terminal that goes on.
func (c *sshCommand) detached(end client.SessionEnd) bool {
	if c.attach.Action != proto.AttachToTerminal {
		return false
	}
	again := programName() + " attach " + plain(c.workspace)
	if c.attach.Name != proto.DefaultTerminal {
		again += " --session " + plain(c.attach.Name)
	}
	switch end.Attribution.Reason {
	case disconnect.ClientClosed:
		if end.Attribution.Detail == proto.TerminalKilled {
			return false
		}
		fmt.Fprintf(c.err, "fairlead: detached; the terminal goes on, come back with: %s\n", again)
		return true
	case disconnect.Graceful, disconnect.ProcessExited, disconnect.ProcessSignaled, disconnect.ServerShutdown:
	default:
		fmt.Fprintf(c.err, "fairlead: the terminal goes on unless its workspace is gone; come back with: %s\n", again)
	}
	return false
}
