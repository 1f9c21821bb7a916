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
)

// directWait is how long a speed test waits for the path to become direct, so that it
// does not measure the relay that every path begins on.
const directWait = 3 * time.Second

// speedCommand is one run of `fairlead speedtest`.
type speedCommand struct {
	streams
	workspace, profile string
	duration           time.Duration
	direction          string
	forceRelay, asJSON bool
	logger             *slog.Logger
}

func newSpeedtest(s streams) *cobra.Command {
	c := &speedCommand{streams: s}
	cmd := &cobra.Command{
		Use:   "speedtest WORKSPACE",
		Short: "Measure how fast bytes come from a workspace and go there",
		Long: "Measure how many bytes a second a workspace sends and receives, inside the encryption\n" +
			"and on the path that sessions take, and name that path. It waits for a direct path for\n" +
			"3 seconds at most. One speed test at a time runs in a workspace.\n\n" +
			"The exit code is 5 when the workspace does not answer or is lost meanwhile, 255 when\n" +
			"the server could not be reached.",
		Example: "  fairlead speedtest dev\n  fairlead speedtest dev --direction upload --duration 10s -o json",
		Args:    oneWorkspace,
	}
	flags := cmd.Flags()
	flags.DurationVarP(&c.duration, "duration", "t", 5*time.Second, "time for each direction, in whole seconds up to 30s")
	flags.StringVar(&c.direction, "direction", "both", "what to measure: download, upload or both")
	flags.BoolVar(&c.forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
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
		directions, err := c.directions()
		if err != nil {
			return withCode(exitUsage, err)
		}
		c.profile, c.workspace = *profileName, args[0]
		return c.run(cmd.Context(), directions)
	})
	return cmd
}

func (c *speedCommand) directions() ([]client.SpeedDirection, error) {
	if c.duration < time.Second || c.duration > proto.MaxSpeed || c.duration%time.Second != 0 {
		return nil, fmt.Errorf("--duration %v is not valid: give whole seconds from 1s to %v", c.duration, proto.MaxSpeed)
	}
	switch c.direction {
	case "both":
		return []client.SpeedDirection{client.Download, client.Upload}, nil
	case string(client.Download), string(client.Upload):
		return []client.SpeedDirection{client.SpeedDirection(c.direction)}, nil
	}
	return nil, fmt.Errorf("--direction %q is not known; use download, upload or both", plain(c.direction))
}

func (c *speedCommand) run(ctx context.Context, directions []client.SpeedDirection) error {
	// A reader of our output that goes away must not kill us before the goodbye.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status := newStatusLine(c.err)
	cl, err := openClient(ctx, c.profile, client.Options{Logger: c.logger, ForceRelay: c.forceRelay, Step: status.show})
	if err != nil {
		status.clear()
		return pingFailure(err)
	}
	goodbye := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the client gave up connecting"}
	defer func() { cl.Close(context.WithoutCancel(ctx), goodbye) }()
	workspace, err := cl.Reach(ctx, c.workspace)
	if err == nil && !c.forceRelay {
		status.show("waiting for a direct path")
		workspace.AwaitDirect(ctx, directWait)
	}
	status.clear()
	if err != nil {
		return pingFailure(err)
	}
	all, err := c.measure(ctx, workspace, status, directions)
	if err != nil {
		goodbye.Detail = "the speed test was stopped"
		return c.failed(ctx, err)
	}
	goodbye = disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Client, Detail: "the speed test is over"}
	if c.asJSON {
		return printJSON(c.out, speedReport{Workspace: c.workspace, Results: all})
	}
	return nil
}

// failed gives a measurement that did not end its exit code.
func (c *speedCommand) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("stopped before the speed was known")
	}
	if a, ok := disconnect.FromError(err); ok && a.Reason == disconnect.LimitExceeded {
		return err
	}
	return pingFailure(err)
}

// measure runs the directions one after the other, and tells of each when it is over.
func (c *speedCommand) measure(ctx context.Context, w *client.Workspace, status *statusLine, directions []client.SpeedDirection) (all []speedResult, err error) {
	_, watched := terminalOf(c.out)
	for _, direction := range directions {
		var samples []float64
		speed, err := w.MeasureSpeed(ctx, direction, c.duration, func(rate float64) {
			samples = append(samples, rate)
			status.show(fmt.Sprintf("%-8s %s %s", direction, bitRate(rate), plot(samples, plotWidth)))
		})
		status.clear()
		if err != nil {
			return nil, err
		}
		all = append(all, speedResultOf(speed))
		if c.asJSON {
			continue
		}
		text := fmt.Sprintf("%-8s  %s  %s in %.1f s  %s", direction, bitRate(speed.BitsPerSecond()),
			byteCount(uint64(speed.Bytes)), speed.Took.Seconds(), pathText(speed))
		if watched {
			text += "\n          " + plot(speed.Samples, plotWidth)
		}
		if _, err := fmt.Fprintln(c.out, text); err != nil {
			return nil, fmt.Errorf("write result: %w", err)
		}
	}
	return all, nil
}

func pathText(s client.Speed) string {
	if s.Before != s.Path && s.Before.Kind != client.PathNone {
		return plain(s.Before.String()) + ", then " + plain(s.Path.String())
	}
	return plain(s.Path.String())
}

// bitRate prints bits per second as people say it.
func bitRate(rate float64) string {
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s"} {
		if rate < 1000 {
			return fmt.Sprintf("%5.1f %s", rate, unit)
		}
		rate /= 1000
	}
	return fmt.Sprintf("%5.1f Gbit/s", rate)
}

// plotWidth is the width of a plot in characters.
const plotWidth = 40

// plot draws rates over time, the highest one as a full block.
func plot(samples []float64, width int) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	columns := min(width, len(samples))
	means, most := make([]float64, columns), 0.0
	for i := range columns {
		from, to := i*len(samples)/columns, (i+1)*len(samples)/columns
		for _, rate := range samples[from:to] {
			means[i] += rate / float64(to-from)
		}
		most = max(most, means[i])
	}
	var b strings.Builder
	for _, mean := range means {
		level := 0
		if most > 0 {
			level = min(int(mean/most*float64(len(levels))), len(levels)-1)
		}
		b.WriteRune(levels[max(level, 0)])
	}
	return b.String()
}

// speedReport is what `speedtest --output json` prints; docs/cli.md tells the fields.
type speedReport struct {
	Workspace string        `json:"workspace"`
	Results   []speedResult `json:"results"`
}

type speedResult struct {
	Direction     string      `json:"direction"`
	Bytes         int64       `json:"bytes"`
	Seconds       float64     `json:"seconds"`
	BitsPerSecond float64     `json:"bits_per_second"`
	Samples       []float64   `json:"samples_bits_per_second"`
	Path          client.Path `json:"path"`
	Before        client.Path `json:"path_before"`
}

func speedResultOf(s client.Speed) speedResult {
	r := speedResult{
		Direction: string(s.Direction), Bytes: s.Bytes, Seconds: s.Took.Seconds(), BitsPerSecond: s.BitsPerSecond(),
		Samples: s.Samples, Path: s.Path, Before: s.Before,
	}
	if r.Samples == nil {
		r.Samples = []float64{}
	}
	return r
}
