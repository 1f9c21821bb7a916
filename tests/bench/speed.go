package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/site"
)

// speedCommand measures bulk, files, sessions and typing over network namespaces, in turns
// with OpenSSH over the same ones.
const speedCommand = "speed"

// speedOptions say how much is measured.
type speedOptions struct {
	wireguard string // wireguard-go's program; empty: that peer is left out
	rounds    int
	bulk      int64 // bytes of a stream
	lossy     int64 // bytes of a stream on the bad link
	file      int64 // bytes of the one large file
	files     int   // how many small ones
	keys      int
	only      string
	limit     time.Duration
}

// runSpeed is the command's main.
func runSpeed(args []string) error {
	flags := flag.NewFlagSet(speedCommand, flag.ContinueOnError)
	var o speedOptions
	binary := flags.String("binary", "bin/fairlead", "release binary to measure")
	flags.StringVar(&o.wireguard, "wireguard", "", "program of wireguard-go, for OpenSSH over it (go install golang.zx2c4.com/wireguard@latest)")
	flags.IntVar(&o.rounds, "rounds", 5, "transfers of each peer; whole trees of files are copied once")
	bulk := flags.Int64("megabytes", 256, "size of a stream; a quarter of it where it is relayed")
	lossy := flags.Int64("lossy-megabytes", 4, "size of a stream over the bad link")
	file := flags.Int64("file-megabytes", 1024, "size of the large file")
	flags.IntVar(&o.files, "files", 10000, "how many small files")
	flags.IntVar(&o.keys, "keys", 300, "keystrokes of each echo")
	flags.StringVar(&o.only, "only", "", "sections to measure, with commas: "+speedNames()+"; empty: all")
	flags.DurationVar(&o.limit, "limit", 15*time.Minute, "no section begins after this time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.bulk, o.lossy, o.file = *bulk<<20, *lossy<<20, *file<<20
	if err := netlab.Unshare(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return measure(ctx, func(t *run) (err error) {
		if site.Binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
		began := time.Now()
		s, err := newSpeed(t, o)
		if err != nil {
			return err
		}
		fmt.Printf("One run of `make bench-speed`, %s. Each process is in a network namespace; the client's is behind a NAT.\n"+
			"Ratios are to OpenSSH on the plain link in the same run.\n\n", machine())
		return s.all(began)
	})
}

// speedSections are what is measured, in this order.
var speedSections = []struct {
	name   string
	report func(*speed) error
}{
	{"setup", (*speed).reportSetup},
	{"echo", (*speed).reportEcho},
	{"down", (*speed).reportDown},
	{"up", (*speed).reportUp},
	{"file", (*speed).reportFile},
	{"sessions", (*speed).reportSessions},
	{"files", (*speed).reportFiles},
	{"memory", (*speed).reportMemory},
	{"lossy", (*speed).reportLossy}, // last: it leaves the lab as it was, if all goes well
}

func speedNames() string {
	names := make([]string, len(speedSections))
	for i, s := range speedSections {
		names[i] = s.name
	}
	return strings.Join(names, ", ")
}

// all measures every chosen section that begins in time. What fails in one does not keep
// the others from being measured.
func (s *speed) all(began time.Time) (err error) {
	chosen := chosen(s.only)
	for _, section := range speedSections {
		if chosen != nil && !chosen[section.name] || s.t.ctx.Err() != nil {
			continue
		}
		if time.Since(began) > s.limit {
			progress("section %s is left out: the time is over", section.name)
			continue
		}
		begin := time.Now()
		if e := section.report(s); e != nil {
			progress("section %s: %v", section.name, e)
			err = errors.Join(err, fmt.Errorf("%s: %w", section.name, e))
		}
		progress("section %s took %v", section.name, time.Since(begin).Round(time.Second))
	}
	return err
}

// inTurns takes n samples of each way that is chosen, in turns, and prints one table for
// each unit. A way that fails is told of and left out from then on.
func (s *speed) inTurns(title string, units []string, n int, chosen func(*way) bool, sample func(*way) ([]float64, error)) error {
	tables := make([]*table, len(units))
	for i, unit := range units {
		tables[i] = newTable(title, unit)
	}
	var failures error
	var failed []string
	for range n {
		for _, w := range s.ways {
			if !chosen(w) || slices.Contains(failed, w.name) {
				continue
			}
			values, err := sample(w)
			if err != nil {
				failed = append(failed, w.name)
				failures = errors.Join(failures, fmt.Errorf("%s by %s: %w", title, w.name, err))
				continue
			}
			for i := range tables {
				tables[i].add(w.name, values[i:i+1])
			}
		}
	}
	for _, t := range tables {
		t.print()
	}
	return failures
}

func every(*way) bool { return true }

// reportSetup times a whole session that does nothing.
func (s *speed) reportSetup() error {
	return s.inTurns("set-up: a whole `ssh … true`", []string{"ms"}, 2*s.rounds, every, func(w *way) ([]float64, error) {
		begin := time.Now()
		err := w.run("true").Run()
		return []float64{milliseconds(time.Since(begin))}, err
	})
}

// reportDown and reportUp time one stream, and what it costs all processes together.
func (s *speed) reportDown() error { return s.streams("down", s.down) }
func (s *speed) reportUp() error   { return s.streams("up", s.up) }

func (s *speed) streams(direction string, stream func(*way, int64, func()) (float64, error)) error {
	title := fmt.Sprintf("one stream of %d MB through SSH, %s", s.bulk>>20, direction)
	return s.inTurns(title, []string{"MB/s", "CPU-s/GB"}, s.rounds, every, func(w *way) ([]float64, error) {
		size := s.bulk
		if w.relayed {
			size /= 4
		}
		speed, cost, err := costing(size, func(began func()) (float64, error) { return stream(w, size, began) })
		return []float64{speed, cost}, err
	})
}

func (s *speed) down(w *way, size int64, began func()) (float64, error) {
	return throughput(w.run(fmt.Sprintf("head -c %d /dev/zero", size)), size, began)
}

// up streams to a remote program; the set-up is not counted, the program's end is.
func (s *speed) up(w *way, size int64, began func()) (float64, error) {
	cmd := w.run("echo; exec cat >/dev/null")
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		return 0, errors.Join(err, cmd.Wait())
	}
	began()
	begin := time.Now()
	zeros := make([]byte, 256<<10)
	for left := size; left > 0; {
		n, err := in.Write(zeros[:min(left, int64(len(zeros)))])
		if err != nil {
			return 0, errors.Join(err, cmd.Wait())
		}
		left -= int64(n)
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		return 0, err
	}
	return float64(size) / 1e6 / time.Since(begin).Seconds(), nil
}

// reportEcho times keystrokes, alone and beside a stream of another session that goes the
// same way.
func (s *speed) reportEcho() error {
	alone, beside := newTable("keystroke echo, idle", "ms"), newTable("keystroke echo beside a stream down", "ms")
	var failures error
	for _, w := range s.ways {
		samples, err := echo(w.run("cat"), s.keys)
		if err == nil {
			alone.add(w.name, samples)
			samples, err = s.echoBeside(w)
		}
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("echo by %s: %w", w.name, err))
			continue
		}
		beside.add(w.name, samples)
	}
	alone.print()
	beside.print()
	return failures
}

func (s *speed) echoBeside(w *way) ([]float64, error) {
	bulk := w.run("exec cat /dev/zero")
	out, err := bulk.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := bulk.Start(); err != nil {
		return nil, err
	}
	drained := make(chan struct{})
	defer func() {
		_ = bulk.Process.Kill()
		<-drained
		_ = bulk.Wait() // killed
	}()
	if _, err := io.CopyN(io.Discard, out, 4<<20); err != nil { // it has gathered way
		close(drained)
		return nil, err
	}
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, out)
	}()
	return echo(w.run("cat"), s.keys)
}
