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

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

// pingCommand is one run of `fairlead ping`.
type pingCommand struct {
	streams
	workspace  string
	profile    string
	once       bool
	forceRelay bool
	outage     time.Duration
	asJSON     bool
	options    client.PingOptions
	logger     *slog.Logger
}

func newPing(s streams) *cobra.Command {
	c := &pingCommand{streams: s}
	cmd := &cobra.Command{
		Use:   "ping WORKSPACE",
		Short: "Measure the path to a workspace",
		Long: "Ping a workspace inside the encrypted network, on the path that a session takes, and\n" +
			"tell how the path changes: it begins on the relay and becomes direct where the\n" +
			"networks allow. It goes on until Ctrl-C, --count or --until-direct.\n\n" +
			"The exit code is 0 when any ping was answered, 5 when none was or the agent is\n" +
			"offline, 6 when --until-direct saw only the relay, and 255 when the server could not\n" +
			"be reached.",
		Example: "  fairlead ping dev\n  fairlead ping --once --output json dev\n  fairlead ping --until-direct -c 10 dev",
		Args:    oneWorkspace,
	}
	flags := cmd.Flags()
	flags.IntVarP(&c.options.Count, "count", "c", 0, "number of pings (default: until Ctrl-C)")
	flags.BoolVar(&c.once, "once", false, "one ping, the same as --count 1")
	flags.DurationVarP(&c.options.Interval, "interval", "i", time.Second, "time from one ping to the next")
	flags.DurationVar(&c.options.Timeout, "timeout", 3*time.Second, "time after which a ping is lost")
	flags.BoolVar(&c.options.UntilDirect, "until-direct", false, "end with the first answer over a direct path")
	flags.BoolVar(&c.forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
	flags.DurationVar(&c.outage, "outage-limit", 0, "how long the workspace may be out of reach before the pings end (default what the workspace allows: 30m and 1m more)")
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
		if err := c.check(); err != nil {
			return withCode(exitUsage, err)
		}
		c.profile, c.workspace = *profileName, args[0]
		return c.run(cmd.Context())
	})
	return cmd
}

// oneWorkspace wants one argument that can be a workspace.
func oneWorkspace(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return withCode(exitUsage, errors.New("name one workspace"))
	}
	if !validWorkspace(args[0]) {
		return withCode(exitUsage, fmt.Errorf("%q cannot be a workspace: %s", plain(args[0]), sdk.NameRule))
	}
	return nil
}

func (c *pingCommand) check() error {
	o := &c.options
	switch {
	case o.Count < 0:
		return fmt.Errorf("--count %d is not valid: give a number of pings", o.Count)
	case c.once && o.Count > 1:
		return errors.New("--once and --count contradict each other")
	case o.Interval < 10*time.Millisecond:
		return fmt.Errorf("--interval %v is not valid: 10ms is the shortest", o.Interval)
	case o.Timeout < 10*time.Millisecond:
		return fmt.Errorf("--timeout %v is not valid: 10ms is the shortest", o.Timeout)
	}
	if c.once {
		o.Count = 1
	}
	return nil
}

func (c *pingCommand) run(ctx context.Context) error {
	// A reader of our output that goes away must not kill us before the goodbye.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status := newStatusLine(c.err)
	cl, err := openClient(ctx, c.profile, client.Options{
		Logger: c.logger, ForceRelay: c.forceRelay, OutageLimit: c.outage, Step: status.show,
	})
	if err != nil {
		status.clear()
		return pingFailure(err)
	}
	goodbye := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the client gave up connecting"}
	defer func() { cl.Close(context.WithoutCancel(ctx), goodbye) }()
	workspace, err := cl.Reach(ctx, c.workspace)
	status.clear()
	if err != nil {
		return pingFailure(err)
	}
	summary := c.ping(ctx, workspace)
	goodbye = summary.Goodbye()
	return c.report(summary)
}

// ping runs the pings and shows each event. A reader that leaves ends them.
func (c *pingCommand) ping(ctx context.Context, workspace *client.Workspace) client.PingSummary {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.options.OnEvent = func(e client.PingEvent) {
		if err := c.show(e); err != nil {
			cancel()
		}
	}
	return workspace.RunPing(ctx, c.options)
}

// pingFailure gives a failure before the first ping its exit code.
func pingFailure(err error) error {
	a, known := disconnect.FromError(err)
	switch {
	case client.IsOffline(err):
		return withCode(exitNoAnswer, err)
	case !known:
		return err // the server's refusal
	case loginRefused(a):
		return withCode(exitAuth, err)
	case a.ConnectType == disconnect.AgentToClient:
		return withCode(exitNoAnswer, err)
	}
	return withCode(exitLost, err)
}

// report shows how the pings went, and judges them.
func (c *pingCommand) report(s client.PingSummary) error {
	if err := c.summarize(s); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	switch s.Attribution.Reason {
	case disconnect.Graceful, disconnect.ClientClosed:
	default:
		fmt.Fprintf(c.err, "fairlead: connection to %s ended: %s\n", plain(c.workspace), s.Attribution)
		return exitWith(exitNoAnswer)
	}
	switch {
	case s.Answered == 0:
		return exitWith(exitNoAnswer)
	case c.options.UntilDirect && s.Path.Kind != client.PathDirect:
		return exitWith(exitIndirect)
	}
	return nil
}

// show prints one event as a line.
func (c *pingCommand) show(e client.PingEvent) error {
	if c.asJSON {
		return printJSON(c.out, pingLine(c.workspace, e))
	}
	var text string
	switch e.Type {
	case client.PingAnswered:
		text = fmt.Sprintf("answer %d from %s: %s ms, %s", e.Sequence, c.workspace, milliseconds(e.RTT), plain(e.Path.String()))
	case client.PingLost:
		text = fmt.Sprintf("answer %d from %s: none within %v", e.Sequence, c.workspace, c.options.Timeout)
	case client.PingPath:
		text = "path to " + c.workspace + ": " + plain(e.Path.String())
		if e.Old.Kind != client.PathNone {
			text += ", before " + plain(e.Old.String())
		}
	}
	_, err := fmt.Fprintln(c.out, text)
	return err
}

func (c *pingCommand) summarize(s client.PingSummary) error {
	if c.asJSON {
		return printJSON(c.out, pingSummary(c.workspace, s))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d sent, %d answered, %.1f%% lost", c.workspace, s.Sent, s.Answered, lossPercent(s))
	if s.Answered > 0 {
		fmt.Fprintf(&b, "; min/avg/max %s/%s/%s ms", milliseconds(s.Min), milliseconds(s.Avg), milliseconds(s.Max))
	}
	fmt.Fprintf(&b, "; path %s", plain(s.Path.String()))
	if s.Direct {
		fmt.Fprintf(&b, ", direct after %s ms", milliseconds(s.DirectAfter))
	}
	_, err := fmt.Fprintln(c.out, b.String())
	return err
}

func lossPercent(s client.PingSummary) float64 {
	if s.Sent == 0 {
		return 0
	}
	return 100 * float64(s.Lost()) / float64(s.Sent)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f", inMilliseconds(d)) }

func inMilliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// pingEvent is a line of `ping --output json`; docs/cli.md tells the fields.
type pingEvent struct {
	Type      client.PingEventType `json:"type"`
	Time      time.Time            `json:"time"`
	Workspace string               `json:"workspace"`
	Sequence  int                  `json:"sequence,omitempty"`
	RTT       *float64             `json:"rtt_ms,omitempty"`
	Path      client.Path          `json:"path"`
	OldPath   *client.Path         `json:"old_path,omitempty"`
}

func pingLine(workspace string, e client.PingEvent) pingEvent {
	line := pingEvent{Type: e.Type, Time: e.At.UTC(), Workspace: workspace, Sequence: e.Sequence, Path: e.Path}
	switch e.Type {
	case client.PingAnswered:
		rtt := inMilliseconds(e.RTT)
		line.RTT = &rtt
	case client.PingPath:
		line.OldPath = &e.Old
	}
	return line
}

// pingSummaryLine is the last line of `ping --output json`.
type pingSummaryLine struct {
	Type        string      `json:"type"`
	Time        time.Time   `json:"time"`
	Workspace   string      `json:"workspace"`
	Sent        int         `json:"sent"`
	Answered    int         `json:"answered"`
	LossPercent float64     `json:"loss_percent"`
	Min         *float64    `json:"rtt_min_ms,omitempty"`
	Avg         *float64    `json:"rtt_avg_ms,omitempty"`
	Max         *float64    `json:"rtt_max_ms,omitempty"`
	Path        client.Path `json:"path"`
	DirectAfter *float64    `json:"direct_after_ms,omitempty"`
	ConnectType string      `json:"connect_type"`
	sdk.Ending
}

func pingSummary(workspace string, s client.PingSummary) pingSummaryLine {
	line := pingSummaryLine{
		Type: "summary", Time: time.Now().UTC(), Workspace: workspace,
		Sent: s.Sent, Answered: s.Answered, LossPercent: lossPercent(s), Path: s.Path,
		ConnectType: s.Attribution.ConnectType.String(),
		Ending: sdk.Ending{
			Reason: s.Attribution.Reason.String(), Initiator: s.Attribution.Initiator.String(),
			Expected: s.Attribution.Expected(), Detail: s.Attribution.Detail,
		},
	}
	if s.Answered > 0 {
		least, mean, most := inMilliseconds(s.Min), inMilliseconds(s.Avg), inMilliseconds(s.Max)
		line.Min, line.Avg, line.Max = &least, &mean, &most
	}
	if s.Direct {
		after := inMilliseconds(s.DirectAfter)
		line.DirectAfter = &after
	}
	return line
}
