package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
	"fairlead.dev/fairlead/tests/site"
)

// buildTags make the program as it is released, with a clock that can be set beside it.
const buildTags = "grpcnotrace,faultclock"

// measure runs all that is chosen, o.parallel at a time, and judges it.
func (o *options) measure(ctx context.Context, chosen []scenario.Scenario, progress io.Writer) (score.Result, error) {
	dir, err := os.MkdirTemp("", "fairlead-faults-")
	if err != nil {
		return score.Result{}, err
	}
	defer os.RemoveAll(dir)
	if err := o.build(ctx, dir, chosen); err != nil {
		return score.Result{}, err
	}
	rows := make([]score.Row, len(chosen))
	turns := make(chan int)
	var work sync.WaitGroup
	var say sync.Mutex       // held while a line of progress is written
	var machine sync.RWMutex // held by all that run, for writing by one that must be alone
	for range min(o.parallel, len(chosen)) {
		work.Go(func() {
			for i := range turns {
				enter, leave := machine.RLock, machine.RUnlock
				if chosen[i].Alone() {
					enter, leave = machine.Lock, machine.Unlock
				}
				enter()
				began := time.Now()
				rows[i] = score.Judge(chosen[i], o.perform(ctx, chosen[i]))
				leave()
				say.Lock()
				fmt.Fprintln(progress, line(rows[i], time.Since(began)))
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
	if err := o.again(ctx, chosen, rows, progress); err != nil {
		return score.Result{}, err
	}
	if ctx.Err() != nil {
		return score.Result{}, context.Cause(ctx)
	}
	return score.Finish("Fairlead", o.version, rows), nil
}

// again runs once more, alone, what turned out worse than expected: what many scenarios do
// to one small machine is not what is to be held against a change. What is worse twice is.
func (o *options) again(ctx context.Context, chosen []scenario.Scenario, rows []score.Row, progress io.Writer) error {
	if o.expect == "" || o.update {
		return nil
	}
	expected, err := score.ReadExpectation(o.expect)
	if err != nil {
		return err
	}
	for i := range chosen {
		if worse, _ := score.Finish("", "", rows[i:i+1]).Against(expected); len(worse) == 0 || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		rows[i] = score.Judge(chosen[i], o.perform(ctx, chosen[i]))
		fmt.Fprintln(progress, "again:", line(rows[i], time.Since(began)))
	}
	return nil
}

// build makes the program under test, and the variants of it that are wanted.
func (o *options) build(ctx context.Context, dir string, chosen []scenario.Scenario) error {
	site.Binary = filepath.Join(dir, "fairlead")
	if o.binary != "" {
		path, err := filepath.Abs(o.binary)
		if err != nil {
			return err
		}
		site.Binary = path
	} else if err := compile(ctx, o.overlay, site.Binary); err != nil {
		return err
	}
	o.programs = map[scenario.Variant]string{}
	for _, s := range chosen {
		for _, v := range s.Variants {
			if o.programs[v] != "" {
				continue
			}
			sources := filepath.Join(dir, "sources-"+string(v))
			if err := os.Mkdir(sources, 0o700); err != nil {
				return err
			}
			overlay, err := writeOverlay(sources, o.overlay, variants[v])
			if err != nil {
				return fmt.Errorf("change the program into one that is %q: %w", v, err)
			}
			o.programs[v] = filepath.Join(dir, "fairlead-"+string(v))
			if err := compile(ctx, overlay, o.programs[v]); err != nil {
				return err
			}
		}
	}
	return nil
}

// compile builds the program into a file, with an overlay if there is one.
func compile(ctx context.Context, overlay, into string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags", buildTags, "-o", into}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	build := exec.CommandContext(ctx, "go", append(args, "fairlead.dev/fairlead/cmd/fairlead")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the program under test: %w", err)
	}
	return nil
}

// line is a row of progress.
func line(r score.Row, took time.Duration) string {
	text := fmt.Sprintf("%4.0fs %-42s", took.Seconds(), r.Name)
	for _, w := range scenario.Witnesses {
		text += fmt.Sprintf(" %s=%s", w, r.Cells[w].Mark)
	}
	if r.Error != "" {
		text += ": " + r.Error
	} else if !r.FateRight() && r.Cannot == "" {
		text += fmt.Sprintf(" lived=%t", r.Lived)
	}
	return text
}

// publish writes what was asked for, and fails where something is worse than expected.
func (o *options) publish(r score.Result, out io.Writer) error {
	for _, w := range scenario.Witnesses {
		t := r.Totals[w]
		fmt.Fprintf(out, "%-6s right %d of %d, strict %d, unknown %d, silent %d, wrong %d, false blame %d, failures called graceful %d, false endings %d, not run %d\n",
			w, t.Right, t.Of, t.Strict, t.Unknown, t.Silent, t.Wrong, t.Blames, t.Graceful, t.Alarms, t.Unrun)
	}
	fmt.Fprintf(out, "sessions: %d of %d that had to go on did, %d of %d that had to end\n", r.Fates.Lived, r.Fates.MustLive, r.Fates.Ended, r.Fates.MustEnd)
	if o.json != "" {
		if err := r.Write(o.json); err != nil {
			return err
		}
	}
	var former *score.Result
	if o.compare != "" {
		read, err := score.Read(o.compare)
		if err != nil {
			return err
		}
		read = read.Again()
		former = &read
		for _, difference := range score.Compare(read, r) {
			fmt.Fprintln(out, "differs:", difference)
		}
	}
	if o.page != "" {
		if err := writePage(o.page, score.Page{Ours: r, Former: former}); err != nil {
			return err
		}
	}
	return errors.Join(o.hold(r, out), o.holdWhy(r, out))
}

// hold compares r with what is expected.
func (o *options) hold(r score.Result, out io.Writer) error {
	if o.expect == "" {
		return nil
	}
	if o.update {
		return r.Expect().Write(o.expect)
	}
	expected, err := score.ReadExpectation(o.expect)
	if err != nil {
		return err
	}
	worse, better := r.Against(expected)
	for _, b := range better {
		fmt.Fprintf(out, "better: %s; update %s\n", b, o.expect)
	}
	for _, w := range worse {
		fmt.Fprintln(out, "worse:", w)
	}
	if len(worse) > 0 {
		return fmt.Errorf("%d marks are worse than %s says", len(worse), o.expect)
	}
	return nil
}

// Where the lab's own files are, from the root of the module.
const (
	peersFiles = "tests/faults/peers/*.json"
	flakyFile  = "tests/faults/flaky.json"
)

// writePage makes docs/faults.md, with the peers' results beside ours.
func writePage(path string, page score.Page) error {
	peers, err := filepath.Glob(peersFiles)
	if err != nil {
		return err
	}
	for _, file := range peers {
		peer, err := score.Read(file)
		if err != nil {
			return err
		}
		page.Peers = append(page.Peers, peer)
	}
	if data, err := os.ReadFile(flakyFile); err == nil {
		if err := json.Unmarshal(data, &page.Flaky); err != nil {
			return fmt.Errorf("%s: %w", flakyFile, err)
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return page.Markdown(file)
}
