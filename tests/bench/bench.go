package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/site"
)

// bench is one run of all measurements.
type bench struct {
	ctx     context.Context
	binary  string
	rounds  int
	firsts  int
	streams int
	bytes   int64

	agents   int
	settle   time.Duration
	profiles string
	sections map[string]bool // nil: all

	t     *run
	lab   *lab
	fleet *fleet // nil: not started
	peers []peer
}

// peer is one way to a shell on this machine.
type peer struct {
	name string
	// command runs a remote command line.
	command func(remote string) *exec.Cmd
	// banner opens a raw stream on which the SSH server speaks first.
	banner func() *exec.Cmd
}

func (b *bench) run(t *run) (err error) {
	if site.Binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	b.t = t
	if b.lab, err = startLab(t); err != nil {
		return err
	}
	b.peers = b.lab.peers()
	fmt.Printf("One run of `make bench`, %s. Ratios are to OpenSSH in the same run.\n\n", machine())
	for _, s := range sections {
		if b.sections != nil && !b.sections[s.name] {
			continue
		}
		begin := time.Now()
		err = errors.Join(err, s.report(b))
		progress("section %s took %v", s.name, time.Since(begin).Round(time.Second))
	}
	return err
}

// sections are what is measured, in this order.
var sections = []struct {
	name   string
	report func(*bench) error
}{
	{"size", (*bench).reportSize}, // while the agent is idle
	{"cold", (*bench).reportCold},
	{"first", (*bench).reportFirstByte},
	{"attach", (*bench).reportAttach},
	{"echo", (*bench).reportEcho},
	{"bulk", (*bench).reportBulk},
	{"raw", (*bench).reportRaw},
	{"relayed", (*bench).reportRelayed},
	{"memory", (*bench).reportMemory},
	{"restart", (*bench).reportRestarts},
	{"connlog", (*bench).reportLog},
}

// progress tells the person who waits.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// reportCold times a whole `ssh HOST true` from process start to exit.
func (b *bench) reportCold() error {
	return b.interleave("cold `ssh … true`", "ms", b.rounds, func(p peer) (float64, error) {
		begin := time.Now()
		err := p.command("true").Run()
		return milliseconds(time.Since(begin)), err
	})
}

// reportFirstByte times from process start to the SSH server's first byte.
func (b *bench) reportFirstByte() error {
	return b.interleave("first byte of a raw stream, from process start", "ms", b.firsts, func(p peer) (float64, error) {
		cmd := p.banner()
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		if _, err := cmd.StdinPipe(); err != nil { // open: its end would be the client's leave
			return 0, err
		}
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		_, err = io.ReadFull(out, make([]byte, 1))
		took := milliseconds(time.Since(begin))
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return took, err
	})
}

// reportEcho times one byte there and back through a remote cat, one at a time.
func (b *bench) reportEcho() error {
	const keys = 500
	table := newTable("keystroke echo", "ms")
	for _, p := range b.peers {
		samples, err := echo(p.command("cat"), keys)
		if err != nil {
			return fmt.Errorf("echo by %s: %w", p.name, err)
		}
		table.add(p.name, samples)
	}
	table.print()
	return nil
}

func echo(cmd *exec.Cmd, keys int) ([]float64, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var samples []float64
	key := []byte{'x'}
	for i := range keys + 20 {
		begin := time.Now()
		if _, err := in.Write(key); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(out, key); err != nil {
			return nil, err
		}
		if i >= 20 { // the first ones find the direct path
			samples = append(samples, milliseconds(time.Since(begin)))
		}
		time.Sleep(2 * time.Millisecond) // a keystroke, not a stream
	}
	_ = in.Close()
	return samples, cmd.Wait()
}

// reportBulk times one stream of a remote file through SSH.
func (b *bench) reportBulk() error {
	remote := fmt.Sprintf("head -c %d /dev/zero", b.bytes)
	return b.interleave(fmt.Sprintf("one stream of %d MB through SSH", b.bytes>>20), "MB/s", b.streams, func(p peer) (float64, error) {
		return throughput(p.command(remote), b.bytes, func() {})
	})
}

// throughput returns the MB/s of what a command writes. It calls began at the first byte.
func throughput(cmd *exec.Cmd, want int64, began func()) (float64, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // set-up is measured elsewhere
		return 0, err
	}
	began()
	begin := time.Now()
	n, err := io.Copy(io.Discard, out)
	took := time.Since(begin)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return 0, err
	}
	if n+1 != want {
		return 0, fmt.Errorf("%d bytes arrived, want %d", n+1, want)
	}
	return float64(n) / 1e6 / took.Seconds(), nil
}

// idle is how long an agent that nobody has used yet settles before it is measured.
const idle = 5 * time.Second

// reportSize reads what an idle agent occupies, and the binary's size.
func (b *bench) reportSize() error {
	time.Sleep(idle)
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	fmt.Printf("| size | |\n|---|---|\n| binary | %.1f MB |\n", float64(info.Size())/1e6)
	for _, key := range []string{"RssAnon", "VmRSS"} {
		size, err := occupied(b.lab.Agent.Cmd.Process.Pid, key)
		if err != nil {
			return err
		}
		fmt.Printf("| idle agent %s | %.1f MB |\n", key, size/1e6)
	}
	fmt.Println()
	return nil
}

// occupied reads a size, in bytes, from what the kernel tells of a process.
func occupied(pid int, key string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			var kilobytes float64
			_, err := fmt.Sscan(strings.TrimSpace(value), &kilobytes)
			return kilobytes * 1024, err
		}
	}
	return 0, fmt.Errorf("the kernel tells no %s of process %d", key, pid)
}

// interleave takes n samples of each peer in turns, and prints them.
func (b *bench) interleave(title, unit string, n int, sample func(peer) (float64, error)) error {
	table := newTable(title, unit)
	for range n {
		for _, p := range b.peers {
			value, err := sample(p)
			if err != nil {
				return fmt.Errorf("%s by %s: %w", title, p.name, err)
			}
			table.add(p.name, []float64{value})
		}
	}
	table.print()
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
