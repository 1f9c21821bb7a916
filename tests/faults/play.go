package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/site"
)

// play does the steps at their times.
func (s *stage) play() {
	s.zero = time.Now()
	for _, step := range s.Steps {
		s.pause(time.Until(s.zero.Add(step.At)))
		s.do(step.Act)
	}
}

// pause waits, unless the lab is told to stop.
func (s *stage) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
		s.must("run", context.Cause(s.ctx))
	}
}

// do does one act.
func (s *stage) do(a scenario.Act) {
	s.note(a.String())
	deed, ok := deeds[a.Verb]
	if !ok {
		s.must(a.String(), errors.New("the lab cannot do this"))
	}
	s.must(a.String(), deed(s, a))
}

// deeds are what each verb means.
var deeds map[scenario.Verb]func(*stage, scenario.Act) error

func init() { // not a literal, for heal is among them
	deeds = map[scenario.Verb]func(*stage, scenario.Act) error{
		scenario.Types:    func(s *stage, a scenario.Act) error { return s.client.typed(a.Arg + "\r") },
		scenario.Closes:   func(s *stage, _ scenario.Act) error { return s.client.tty.Close() },
		scenario.Deafens:  func(s *stage, _ scenario.Act) error { s.client.deafen(); return nil },
		scenario.Signals:  (*stage).signal,
		scenario.Starts:   (*stage).start,
		scenario.Returns:  (*stage).comesAgain,
		scenario.Opens:    (*stage).comesAgain,
		scenario.Twin:     (*stage).twin,
		scenario.Commands: (*stage).command,
		scenario.Waits:    (*stage).waits,
		scenario.Heals:    (*stage).heal,

		scenario.PowersOff: (*stage).powerOff,
		scenario.Spoils:    (*stage).spoil,
	}
	for verb, f := range networkDeeds {
		deeds[verb] = injects(f)
	}
}

// heal undoes what can be undone, the last first.
func (s *stage) heal(scenario.Act) error {
	var errs []error
	for i := len(s.undo); i > 0; i-- {
		errs = append(errs, s.undo[i-1]())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// pid is the process of a party.
func (s *stage) pid(p scenario.Party) (int, error) {
	switch p {
	case scenario.Server:
		return last(s.servers).Cmd.Process.Pid, nil
	case scenario.Agent:
		return last(s.agents).Cmd.Process.Pid, nil
	case scenario.Relay:
		return last(s.relays).Cmd.Process.Pid, nil
	case scenario.Client, scenario.TheSSH:
		return s.client.cmd.Process.Pid, nil
	case scenario.TheShell:
		return s.client.shell, nil
	}
	return 0, fmt.Errorf("%s is no process", p)
}

func last[T any](list []T) T { return list[len(list)-1] }

// signal sends a signal to a party's process, which it has to have.
func (s *stage) signal(a scenario.Act) error {
	pid, err := s.pid(a.On)
	if err != nil {
		return err
	}
	number := unix.SignalNum("SIG" + a.Arg)
	if number == 0 {
		return fmt.Errorf("there is no signal %s", a.Arg)
	}
	return signalTo(pid, number)
}

// start starts a party's process once more, when its former life is over.
func (s *stage) start(a scenario.Act) error {
	pid, err := s.pid(a.On)
	if err != nil {
		return err
	}
	if !poll(20*time.Second, func() bool { return gone(pid) }) {
		return fmt.Errorf("process %d of %s does not end", pid, a.On)
	}
	if boot := s.boot[a.On]; boot != nil {
		s.must("boot", boot())
	}
	switch a.On {
	case scenario.Server:
		s.startServer()
	case scenario.Agent:
		s.startAgent()
	case scenario.Relay:
		s.startRelay()
	default:
		return fmt.Errorf("%s is not started again", a.On)
	}
	return nil
}

// comesAgain runs another client of the same user on the same machine.
func (s *stage) comesAgain(a scenario.Act) error {
	log := s.user.Path(fmt.Sprintf("client-%d.log", len(s.others)+1))
	logged := []string{"--log-file", log, "--log-format", "json", "--log-level", "info"}
	switch verb, flags, _ := strings.Cut(a.Arg, " "); verb {
	case "attach":
		args := append([]string{"attach", "admin/dev"}, strings.Fields(flags)...)
		s.others = append(s.others, other{log: log})
		s.onTerminal(site.Binary, append(args, logged...)...)
	default:
		args := append([]string{"ssh", "admin/dev"}, logged...)
		s.others = append(s.others, other{process: s.startVariant(s.user, scenario.Client, append(args, "--", "true")...), log: log})
	}
	return nil
}

// twin starts a second agent with the same token and keys, as of a machine that was
// cloned, on the relay's host.
func (s *stage) twin(scenario.Act) error {
	token, err := os.ReadFile(s.agentToken)
	if err != nil {
		return err
	}
	file, state := s.relayHome.Write("agent-token", string(token)), s.relayHome.Path("twin")
	if err := os.CopyFS(state, os.DirFS(s.agentHome.Path("state"))); err != nil {
		return err
	}
	for _, key := range []string{"ssh_host_ed25519_key", "node_key"} {
		if err := os.Chmod(filepath.Join(state, key), 0o600); err != nil { // the copy has lost its mode
			return err
		}
	}
	s.relayHome.Start("agent", s.url, "--token-file", file, "--state-dir", state,
		"--log-format", "json", "--insecure-http", "--outage-limit", s.Limit.String())
	return nil
}

// command has the admin, or the user at the client, run one.
func (s *stage) command(a scenario.Act) error {
	home := s.admin
	if a.On == scenario.Client {
		home = s.user
	}
	r := home.Run(strings.Fields(strings.ReplaceAll(a.Arg, "$SESSION", s.connection))...)
	if r.Code != 0 {
		return fmt.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	return nil
}

// waits until the client's login is over, which is when the fault begins.
func (s *stage) waits(scenario.Act) error {
	s.pause(time.Until(s.expires))
	s.zero = s.expires
	return nil
}
