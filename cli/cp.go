package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

// progressEvery is how often the progress is shown anew.
const progressEvery = 200 * time.Millisecond

// copyCommand is one run of `fairlead cp`.
type copyCommand struct {
	streams
	workspace, profile string
	options            client.CopyOptions
	quiet, forceRelay  bool
	outageLimit        time.Duration
	logger             *slog.Logger
}

func newCp(s streams) *cobra.Command {
	c := &copyCommand{streams: s}
	cmd := &cobra.Command{
		Use:   "cp SOURCE… TARGET",
		Short: "Copy files and directories to a workspace or from one",
		Long: "Copy files, and directories with all that is in them, to a workspace or from one. The\n" +
			"workspace's side is WORKSPACE:PATH, where PATH begins at the home directory; a path of\n" +
			"this machine with a colon in it is written with a slash before that, as ./a:b. Into a\n" +
			"TARGET that ends with a slash the sources go by their names; else it is the name that\n" +
			"the one source gets.\n\n" +
			"Modes and times are kept. What is there already, with the same size and time, is left\n" +
			"alone, and a file that an interrupted run has begun goes on where that stopped: run the\n" +
			"same command again. The exit code is 0 when all is copied, 1 when anything is not, and\n" +
			"255 when the connection was lost.",
		Example: "  fairlead cp report.pdf dev:\n  fairlead cp dev:src/build ./build\n  fairlead cp a b c ada/dev:/tmp/",
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if err := c.sides(args); err != nil {
			return withCode(exitUsage, err)
		}
		return nil
	}
	flags := cmd.Flags()
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "tell only of what failed")
	flags.BoolVar(&c.forceRelay, "force-relay", false, "keep all traffic on the relay, never direct")
	flags.DurationVar(&c.outageLimit, "outage-limit", 0, "how long the workspace may be out of reach before the copy ends (default what the workspace allows: 30m and 1m more)")
	profileName := profileFlag(cmd)
	logger := quietLogFlags(cmd, s.err)
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) (err error) {
		if c.logger, err = logger(); err != nil {
			return err
		}
		c.profile = *profileName
		return c.run(cmd.Context())
	})
	return cmd
}

// sides finds out which side is the workspace's.
func (c *copyCommand) sides(args []string) error {
	if len(args) < 2 {
		return errors.New("name what to copy, and where to: fairlead cp notes.txt dev:notes.txt")
	}
	sources, target := args[:len(args)-1], args[len(args)-1]
	workspace, path, remote := remotePath(target)
	c.workspace, c.options = workspace, client.CopyOptions{Upload: remote, Target: path}
	for _, source := range sources {
		name, path, ofWorkspace := remotePath(source)
		switch {
		case source == "":
			return errors.New("the name of a file cannot be empty")
		case ofWorkspace && remote:
			return errors.New("one side is a workspace's and the other is this machine's: copy between workspaces in two steps")
		case !ofWorkspace && !remote:
			return errors.New("neither side is a workspace's: write that one as WORKSPACE:PATH")
		case ofWorkspace && c.workspace != "" && c.workspace != name:
			return errors.New("all sources must be of one workspace")
		case ofWorkspace:
			c.workspace = name
		}
		c.options.Sources = append(c.options.Sources, path)
	}
	if !validWorkspace(c.workspace) {
		return fmt.Errorf("%q cannot be a workspace: %s", plain(c.workspace), sdk.NameRule)
	}
	return nil
}

// remotePath splits WORKSPACE:PATH. What has a slash before its colon is a path of this
// machine, unless that is the one of OWNER/NAME.
func remotePath(arg string) (workspace, path string, remote bool) {
	name, rest, found := strings.Cut(arg, ":")
	if !found || name == "" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "/") || strings.Count(name, "/") > 1 {
		if arg == "" {
			arg = "."
		}
		return "", arg, false
	}
	rest = strings.TrimPrefix(rest, "~/")
	if rest == "" || rest == "~" {
		rest = "."
	}
	return name, rest, true
}

func (c *copyCommand) run(ctx context.Context) error {
	// A reader of our output that goes away must not kill us before the goodbye.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status := newStatusLine(c.err)
	cl, err := openClient(ctx, c.profile, client.Options{
		Logger: c.logger, ForceRelay: c.forceRelay, OutageLimit: c.outageLimit, Step: status.show,
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
	view := &copyView{streams: c.streams, status: status, quiet: c.quiet}
	_, view.watched = terminalOf(c.out)
	c.options.OnBegin, c.options.OnResult = view.begin, view.result
	began := time.Now()
	stats, end, err := workspace.Copy(ctx, c.options)
	view.end()
	goodbye = end.Goodbye()
	return c.report(ctx, stats, time.Since(began), err)
}

// report says how the copy went.
func (c *copyCommand) report(ctx context.Context, s client.CopyStats, took time.Duration, err error) error {
	if !c.quiet && s.TotalFiles > 0 {
		text := fmt.Sprintf("%d of %d files, %s of %s in %.1f s", s.Files, s.TotalFiles, byteCount(uint64(s.Bytes)), byteCount(uint64(s.TotalBytes)), took.Seconds())
		if s.Skipped > 0 {
			text += fmt.Sprintf("; %d were there already", s.Skipped)
		}
		if s.Resumed > 0 {
			text += fmt.Sprintf("; %s of an earlier run", byteCount(uint64(s.Resumed)))
		}
		fmt.Fprintln(c.out, text)
	}
	a, attributed := disconnect.FromError(err)
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped; run the same command again to go on")
	case attributed && loginRefused(a):
		return withCode(exitAuth, err)
	case attributed && a.Reason == disconnect.WorkspaceStopped:
		return withCode(exitStopped, err)
	case attributed && a.Reason == disconnect.PolicyDenied:
		return err
	case attributed:
		return withCode(exitLost, fmt.Errorf("%w; run the same command again to go on", err))
	case err != nil:
		return err
	case s.Failed > 0:
		return fmt.Errorf("%d could not be copied", s.Failed)
	}
	return nil
}

// copyView shows how far a copy is: a line that moves on a terminal, else a line for each
// file.
type copyView struct {
	streams
	quiet, watched bool
	stop           chan struct{}
	ticking        sync.WaitGroup

	mu     sync.Mutex // guards status, and is held while a line is written
	status *statusLine
}

// begin starts to show.
func (v *copyView) begin(stats func() client.CopyStats) {
	v.stop = make(chan struct{})
	if v.quiet {
		return
	}
	v.ticking.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		rate := newRateMeter(time.Now(), stats().Resumed)
		for {
			select {
			case <-v.stop:
				return
			case now := <-tick.C:
				s := stats()
				v.mu.Lock()
				v.status.show(progressText(s, rate.at(now, s.Bytes-s.Resumed)))
				v.mu.Unlock()
			}
		}
	})
}

// end stops showing.
func (v *copyView) end() {
	if v.stop != nil {
		close(v.stop)
	}
	v.ticking.Wait()
	v.status.clear()
}

func (v *copyView) result(r client.CopyResult) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case r.Err != nil:
		v.status.clear()
		fmt.Fprintln(v.err, "fairlead: "+plain(r.Err.Error()))
	case v.quiet || v.watched:
	case r.Skipped:
		fmt.Fprintf(v.out, "%s: is there already\n", r.Name)
	default:
		fmt.Fprintf(v.out, "%s: %s\n", r.Name, byteCount(uint64(r.Bytes)))
	}
}

// rateMeter tells how fast bytes pass, over the last few seconds.
type rateMeter struct {
	times []time.Time
	bytes []int64
}

// rateWindow is how many looks a rate is over.
const rateWindow = 25

func newRateMeter(now time.Time, bytes int64) *rateMeter {
	return &rateMeter{times: []time.Time{now}, bytes: []int64{bytes}}
}

// at takes in how many bytes have passed by now, and returns bytes per second.
func (m *rateMeter) at(now time.Time, bytes int64) float64 {
	m.times, m.bytes = append(m.times, now), append(m.bytes, bytes)
	if len(m.times) > rateWindow {
		m.times, m.bytes = m.times[1:], m.bytes[1:]
	}
	elapsed := now.Sub(m.times[0]).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return max(0, float64(bytes-m.bytes[0])/elapsed)
}

// progressWidth is the width of the bar in characters.
const progressWidth = 20

// progressText is the line that moves: a bar, bytes, rate, what is left, and files.
func progressText(s client.CopyStats, rate float64) string {
	part := 0.0
	if s.TotalBytes > 0 {
		part = min(1, float64(s.Bytes)/float64(s.TotalBytes))
	}
	full := int(part * progressWidth)
	text := fmt.Sprintf("%s%s %s of %s, %s/s", strings.Repeat("█", full), strings.Repeat("░", progressWidth-full),
		byteCount(uint64(s.Bytes)), byteCount(uint64(s.TotalBytes)), byteCount(uint64(rate)))
	if left := s.TotalBytes - s.Bytes; rate > 0 && s.Known && left > 0 {
		text += ", " + age(time.Duration(float64(left)/rate*float64(time.Second))) + " left"
	}
	return text + fmt.Sprintf(", %d of %d files", s.Files, s.TotalFiles)
}
