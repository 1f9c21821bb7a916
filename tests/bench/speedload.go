package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead.dev/fairlead/tests/faults/inject"
	"fairlead.dev/fairlead/tests/faults/linkem"
)

// reportFile copies one large file to the agent's host, by sftp and by fairlead cp.
func (s *speed) reportFile() error {
	source := s.net.user.Path("large")
	file, err := os.Create(source)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(s.file), file.Close()); err != nil {
		return err
	}
	defer os.Remove(source)
	return s.copies(fmt.Sprintf("a file of %d MB, to the workspace", s.file>>20), "MB/s", min(s.rounds, 3), source, func(took time.Duration) float64 {
		return float64(s.file) / 1e6 / took.Seconds()
	})
}

// reportFiles copies a tree of many small files.
func (s *speed) reportFiles() error {
	source := s.net.user.Path("tree")
	defer os.RemoveAll(source)
	const perDirectory = 100
	for i := range s.files {
		dir := filepath.Join(source, fmt.Sprint(i/perDirectory))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(strings.Repeat("line\n", i%1000)), 0o600); err != nil {
			return err
		}
	}
	return s.copies(fmt.Sprintf("a tree of %d files of up to 5 KB, to the workspace", s.files), "s", 1, source, time.Duration.Seconds)
}

// copies copies source to the agent's host. The sftp of OpenSSH is the client where the ssh
// of OpenSSH is, else fairlead cp.
func (s *speed) copies(title, unit string, rounds int, source string, figure func(time.Duration) float64) error {
	target := s.net.host.Path("copy")
	direct := func(w *way) bool { return !w.relayed }
	return s.inTurns(title, []string{unit}, rounds, direct, func(w *way) ([]float64, error) {
		if err := os.RemoveAll(target); err != nil {
			return nil, err
		}
		cmd := s.net.user.Command(s.t.ctx, "cp", "--quiet", source, workspace+":"+target)
		if w.stock != nil {
			cmd = s.client("sftp", slices.Concat(w.stock, []string{"-q", "-b", "-", w.host})...)
			cmd.Stdin = strings.NewReader("put -R " + source + " " + target + "\n")
		}
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		took := time.Since(begin)
		if _, err := os.Stat(target); err != nil {
			return nil, err
		}
		return []float64{figure(took)}, os.RemoveAll(target)
	})
}

// reportSessions opens many sessions on one connection of the stock client, and takes the
// time until each has echoed a byte.
func (s *speed) reportSessions() (err error) {
	stock := func(w *way) bool { return w.stock != nil }
	for _, n := range []int{50, 200} {
		title := fmt.Sprintf("%d sessions on one connection, until each has echoed", n)
		err = errors.Join(err, s.inTurns(title, []string{"s"}, 1, stock, func(w *way) ([]float64, error) {
			took, err := s.sessions(w, n)
			return []float64{took.Seconds()}, err
		}))
	}
	return err
}

func (s *speed) sessions(w *way, n int) (took time.Duration, err error) {
	ctx, cancel := context.WithCancel(s.t.ctx)
	defer cancel()
	socket := s.net.user.Path("mux")
	command := func(args ...string) *exec.Cmd {
		cmd := s.net.lab.Client.Command(ctx, "ssh", slices.Concat([]string{"-S", socket}, w.stock, args)...)
		cmd.Env, cmd.Dir = s.net.user.Env, s.net.user.Dir
		return cmd
	}
	master := command("-M", w.host, "echo; exec cat")
	in, err := master.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := master.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := master.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = in.Close()
		cancel()
		_ = master.Wait() // killed, most likely
	}()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		return 0, err
	}
	echoed := make(chan error)
	over, gone := make(chan struct{}), new(sync.WaitGroup)
	begin := time.Now()
	for range n {
		gone.Go(func() { hold(command(w.host, "cat"), echoed, over) })
	}
	for range n {
		err = errors.Join(err, <-echoed)
	}
	took = time.Since(begin)
	close(over)
	gone.Wait()
	return took, err
}

// hold runs a session, reports the echo of one byte, and keeps it open until over is closed.
func hold(cmd *exec.Cmd, echoed chan<- error, over <-chan struct{}) {
	in, err := cmd.StdinPipe()
	if err != nil {
		echoed <- err
		return
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		echoed <- err
		return
	}
	if err := cmd.Start(); err != nil {
		echoed <- err
		return
	}
	_, err = in.Write([]byte("x"))
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, 1))
	}
	echoed <- err
	<-over
	_ = in.Close()
	_ = cmd.Wait() // how it ends is no concern here
}

// reportMemory reads what the agent occupies after all that, and at its most.
func (s *speed) reportMemory() error {
	fmt.Printf("| memory of the agent under the load of this run | |\n|---|---|\n")
	for _, key := range []string{"RssAnon", "VmRSS", "VmHWM"} {
		size, err := occupied(s.net.agent.Cmd.Process.Pid, key)
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.1f MB |\n", key, size/1e6)
	}
	fmt.Println()
	return nil
}

// reportLossy measures over a bad link: 20 ms and 1 % loss each way.
func (s *speed) reportLossy() error {
	bad := linkem.Impairment{Delay: 10 * time.Millisecond, Loss: 1}
	fault, err := inject.Impair(s.t.ctx, s.net.lab.Client, bad, bad)
	if err != nil {
		return err
	}
	defer func() {
		if err := fault.Undo(context.WithoutCancel(s.t.ctx)); err != nil {
			s.t.Errorf("%w", err)
		}
	}()
	title := fmt.Sprintf("one stream of %d MB down, round trip of 20 ms, 1 %% loss each way", s.lossy>>20)
	err = s.inTurns(title, []string{"MB/s"}, s.rounds, every, func(w *way) ([]float64, error) {
		speed, err := s.down(w, s.lossy, func() {})
		return []float64{speed}, err
	})
	typing := newTable("keystroke echo, round trip of 20 ms, 1 % loss each way", "ms")
	for _, w := range s.ways {
		samples, e := echo(w.run("cat"), s.keys/3)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("echo by %s: %w", w.name, e))
			continue
		}
		typing.add(w.name, samples)
	}
	typing.print()
	return err
}
