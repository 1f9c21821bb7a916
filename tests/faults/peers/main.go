// Command peers puts OpenSSH and mosh, as the system's packages have them, through the
// truths of the fault lab: the same scenarios, as far as they are about a session between
// a client and a host, and the same score. What their records say is read by rules that
// are code (openssh.go, mosh.go), and the result of each is kept as JSON beside this file,
// with the version of the package, for docs/faults.md.
//
// A record that can be understood in several ways counts as the way that is true: so
// "right" is generous to them, and "strict" says what a reader could know.
//
// It needs root. It knows nothing of Fairlead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	run := flags.String("run", "", "only the scenarios whose whole name this regular expression matches; no result is written")
	only := flags.String("product", "", "only OpenSSH, or only mosh")
	out := flags.String("out", "", "directory for the results")
	keep := flags.String("keep", "", "directory in which each scenario leaves its records")
	parallel := flags.Int("parallel", 6, "how many scenarios side by side")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile("^(?:" + *run + ")$")
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces, signals and cgroups need root")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, p := range products {
		if *only != "" && *only != p.name {
			continue
		}
		var chosen []scenario.Scenario
		for _, s := range applying() {
			if *run == "" || match.MatchString(s.Name) {
				chosen = append(chosen, s)
			}
		}
		result, err := measure(ctx, p, chosen, *parallel, *keep)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		for _, w := range []scenario.Party{scenario.Client, scenario.Agent} {
			t := result.Totals[w]
			fmt.Printf("%s %s %-6s right %d of %d, strict %d, unknown %d, silent %d, wrong %d, false blame %d, failures called graceful %d, not run %d\n",
				p.name, result.Version, w, t.Right, t.Of, t.Strict, t.Unknown, t.Silent, t.Wrong, t.Blames, t.Graceful, t.Unrun)
		}
		if *run == "" && *out != "" {
			if err := result.Write(filepath.Join(*out, p.file)); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure plays all that is chosen, so many at a time, and judges it.
func measure(ctx context.Context, p product, chosen []scenario.Scenario, parallel int, keep string) (score.Result, error) {
	version, err := p.version(ctx)
	if err != nil {
		return score.Result{}, err
	}
	rows := make([]score.Row, len(chosen))
	turns := make(chan int)
	var work sync.WaitGroup
	var say sync.Mutex // held while a line of progress is written
	for range min(parallel, len(chosen)) {
		work.Go(func() {
			for i := range turns {
				began := time.Now()
				rows[i] = literal(score.Judge(chosen[i], perform(ctx, p, chosen[i], keep)))
				say.Lock()
				fmt.Fprintf(os.Stderr, "%4.0fs %-8s %-42s client=%s agent=%s lived=%t %s\n", time.Since(began).Seconds(), p.name,
					rows[i].Name, rows[i].Cells[scenario.Client].Mark, rows[i].Cells[scenario.Agent].Mark, rows[i].Lived, rows[i].Error)
				say.Unlock()
			}
		})
	}
	for i := range chosen {
		if ctx.Err() == nil {
			turns <- i
		}
	}
	close(turns)
	work.Wait()
	if ctx.Err() != nil {
		return score.Result{}, context.Cause(ctx)
	}
	return score.Finish(p.name, version, rows), nil
}

// literal makes a row look like the records themselves: two that read the same are the
// same to a reader, although each was understood in favour of its truth.
func literal(row score.Row) score.Row {
	for w, cell := range row.Cells {
		cell.Looks = ""
		for _, t := range row.Said {
			if t.Party == w {
				cell.Looks += t.Detail + "\n"
			}
		}
		row.Cells[w] = cell
	}
	return row
}
