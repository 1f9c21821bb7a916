package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/pty"
	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/site"
)

// session is a client on a terminal.
type session struct {
	tty   pty.PTY
	cmd   *exec.Cmd
	out   *site.Output  // all that the terminal shows
	ears  chan struct{} // holds one value unless nobody reads the terminal
	done  chan struct{} // closed when the client has ended
	shell int           // the process of the remote shell
	log   string        // the client's log file
	words int           // how many were asked for
}

// startSession begins what the scenario wants and waits until a remote shell answers.
func (s *stage) startSession() *session {
	log := s.user.Path("client.log")
	name, args := s.sessionCommand(log)
	c := s.onTerminal(name, args...)
	c.log = log
	s.must("type", c.typed(`printf '<%s>\n' "pid-$$"`+"\r"))
	c.out.Await(s, "a remote shell", func(shown string) bool {
		_, err := fmt.Sscanf(after(shown, "<pid-"), "%d>", &c.shell)
		return err == nil
	})
	return c
}

// onTerminal starts a program on a terminal of the client's host.
func (s *stage) onTerminal(name string, args ...string) *session {
	c := &session{out: site.NewOutput(), ears: make(chan struct{}, 1), done: make(chan struct{})}
	c.ears <- struct{}{}
	var err error
	c.tty, err = pty.Open()
	s.must("open a terminal", err)
	s.must("resize the terminal", c.tty.Resize(pty.Size{Cols: 80, Rows: 24}))
	c.cmd = s.lab.Client.Command(s.ctx, name, args...)
	c.cmd.Env, c.cmd.Dir = append(s.user.Env[:len(s.user.Env):len(s.user.Env)], "TERM=xterm-256color", "PS1=$ "), s.user.Dir
	s.must("start the client", c.tty.Start(c.cmd))
	go c.read()
	s.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		c.hear()
		_ = c.tty.Close()
		<-c.done
	})
	return c
}

// sessionCommand is the client that the scenario wants.
func (s *stage) sessionCommand(log string) (name string, args []string) {
	args = append([]string{"--outage-limit", s.Limit.String(), "--log-file", log, "--log-format", "json", "--log-level", "info"}, s.Args[scenario.Client]...)
	if s.Path == scenario.Relayed {
		args = append(args, "--force-relay")
	}
	switch s.Session {
	case scenario.Attached:
		return site.Binary, append([]string{"attach", "admin/dev"}, args...)
	case scenario.Named:
		return site.Binary, append([]string{"ssh", "admin/dev", "--name", "build"}, args...)
	case scenario.Stock:
		proxy := append([]string{site.Binary, "ssh", "--stdio", "admin/dev"}, args...)
		return "ssh", []string{"-F", "none", "-tt", "-o", "ProxyCommand=" + strings.Join(proxy, " "),
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "dev"}
	}
	return site.Binary, append([]string{"ssh", "admin/dev"}, args...)
}

// read shows what the terminal is sent, until the client has gone.
func (c *session) read() {
	defer close(c.done)
	buf := make([]byte, 4096)
	for {
		n, err := c.tty.Read(buf)
		_, _ = c.out.Write(buf[:n])
		if err != nil {
			break
		}
		c.ears <- <-c.ears
	}
	_ = c.cmd.Wait() // the code is read from ProcessState
}

// deafen has nobody read the terminal any more, and hear somebody again.
func (c *session) deafen() { <-c.ears }

func (c *session) hear() {
	select {
	case c.ears <- struct{}{}:
	default:
	}
}

func (c *session) typed(keys string) error {
	_, err := io.WriteString(c.tty, keys)
	return err
}

// answers reports whether the remote shell still computes what it is asked.
func (c *session) answers(within time.Duration) bool {
	c.words++
	word := "alive-" + strconv.Itoa(c.words)
	if c.typed(fmt.Sprintf("\rprintf '<%%s>\\n' %s\r", word)) != nil {
		return false
	}
	return poll(within, func() bool { return c.over() || strings.Contains(c.out.String(), "<"+word+">") }) && !c.over()
}

// over reports whether the client has ended.
func (c *session) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// exitCode is the client's; nil while it runs, -1 when a signal ended it.
func (c *session) exitCode() *int {
	if !c.over() {
		return nil
	}
	code := c.cmd.ProcessState.ExitCode()
	return &code
}

// signalTo sends sig to a process that may be gone.
func signalTo(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %d to process %d: %w", sig, pid, err)
	}
	return nil
}

// poll asks again until ok says yes, or the time is over.
func poll(within time.Duration, ok func() bool) bool {
	deadline := time.After(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			return ok()
		case <-tick.C:
		}
	}
	return true
}

// after is what follows the first mark in text, or "".
func after(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	return rest
}
