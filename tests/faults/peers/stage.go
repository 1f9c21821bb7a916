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

	"fairlead.dev/fairlead/pty"
	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

// stage is one scenario's hosts, service and session.
type stage struct {
	scenario.Scenario
	product
	ctx  context.Context
	lab  *netlab.Lab
	dir  string
	log  *log      // of the host's service
	zero time.Time // when the fault began

	tty    pty.PTY
	screen *log
	cmd    *exec.Cmd
	done   chan struct{} // closed when the client has ended
	ended  time.Time     // when it did; written before done is closed
	shell  int           // the process of the remote shell

	undo     []func() error // what heal undoes, the last one first
	cleanups []func()       // the last one first
}

func (s *stage) cleanup(f func())        { s.cleanups = append(s.cleanups, f) }
func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// perform plays a scenario once.
func perform(ctx context.Context, p product, sc scenario.Scenario, keep string) (o score.Outcome) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &stage{Scenario: sc, product: p, ctx: ctx, log: &log{}, screen: &log{}, done: make(chan struct{})}
	defer func() {
		for i := len(s.cleanups); i > 0; i-- {
			s.cleanups[i-1]()
		}
	}()
	if err := s.build(); err != nil {
		return score.Outcome{Error: err.Error()}
	}
	if err := s.play(); err != nil {
		return score.Outcome{Error: err.Error()}
	}
	o = s.listen()
	if keep != "" {
		if err := s.keep(filepath.Join(keep, p.name, sc.Name)); err != nil {
			o.Error = err.Error()
		}
	}
	return o
}

// build makes the hosts, starts the service, and begins the session.
func (s *stage) build() (err error) {
	if s.dir, err = os.MkdirTemp("", "fairlead-peers-"); err != nil {
		return err
	}
	s.cleanup(func() { _ = os.RemoveAll(s.dir) })
	if s.lab, err = netlab.Build(s.ctx, strings.ToLower(s.product.name)+"-"+s.Scenario.Name); err != nil {
		return err
	}
	s.cleanup(func() { _ = s.lab.Close() })
	if err := s.makeKeys(); err != nil {
		return err
	}
	if err := s.startSSHD(); err != nil {
		return err
	}
	return s.open()
}

// open begins the session on a terminal and waits for the remote shell. What the client
// complains about goes to a file, apart from what the remote shell shows.
func (s *stage) open() (err error) {
	if s.tty, err = pty.Open(); err != nil {
		return err
	}
	if err := s.tty.Resize(pty.Size{Cols: 80, Rows: 24}); err != nil {
		return err
	}
	name, args := s.client(s)
	s.cmd = s.lab.Client.Command(s.ctx, "sh", append([]string{"-c", `exec "$@" 2>"$0"`, s.path("complaints"), name}, args...)...)
	s.cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "HOME="+s.dir, "MOSH_ESCAPE_KEY=~")
	s.cmd.Dir = s.dir
	if err := s.tty.Start(s.cmd); err != nil {
		return err
	}
	go s.show()
	s.cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.tty.Close()
		<-s.done
	})
	tries := 0
	found := poll(s.ctx, 60*time.Second, func() bool {
		if tries++; tries%20 == 5 { // again and again: what comes too early is lost in mosh's start
			_ = s.typed(`printf '<%s>\n' "pid-$$"` + "\r")
		}
		shown, _ := s.screen.since(time.Time{})
		_, rest, _ := strings.Cut(shown, "<pid-")
		_, err := fmt.Sscanf(rest, "%d>", &s.shell)
		return err == nil
	})
	if !found {
		shown, _ := s.screen.since(time.Time{})
		return fmt.Errorf("there is no session: %q %q", shown, s.complaints())
	}
	return nil
}

// show reads the terminal until the client has gone.
func (s *stage) show() {
	defer close(s.done)
	_, _ = io.Copy(s.screen, s.tty) // ends with the client
	_ = s.cmd.Wait()                // the code is read from ProcessState
	s.ended = time.Now()
}

func (s *stage) typed(keys string) error {
	_, err := io.WriteString(s.tty, keys)
	return err
}

func (s *stage) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// complaints are what the client wrote on standard error.
func (s *stage) complaints() string {
	text, err := os.ReadFile(s.path("complaints"))
	if err != nil {
		return ""
	}
	return string(text)
}

// play does the steps at their times.
func (s *stage) play() error {
	before := s.complaints()
	if err := os.WriteFile(s.path("before"), []byte(before), 0o600); err != nil {
		return err
	}
	s.zero = time.Now()
	for _, step := range s.Steps {
		select {
		case <-time.After(time.Until(s.zero.Add(step.At))):
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		if err := deeds[step.Verb](s, step.Act); err != nil {
			return fmt.Errorf("%s: %w", step.Act, err)
		}
	}
	return nil
}

// heal undoes what can be undone.
func (s *stage) heal() error {
	var errs []error
	for i := len(s.undo); i > 0; i-- {
		errs = append(errs, s.undo[i-1]())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// keep leaves the records for people.
func (s *stage) keep(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hosts, _ := s.log.since(s.zero)
	shown, _ := s.screen.since(time.Time{})
	code := "it runs"
	if s.over() {
		code = fmt.Sprint("exit code ", s.cmd.ProcessState.ExitCode())
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "host"), []byte(hosts), 0o644),
		os.WriteFile(filepath.Join(dir, "client"), []byte(s.complaints()+code+"\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "terminal"), []byte(shown), 0o644))
}
