package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/fairlead/tests/faults/inject"
	"fairlead.dev/fairlead/tests/faults/linkem"
	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/faults/scenario"
)

// deeds are what each verb means here; a scenario with any other is not for these products.
var deeds map[scenario.Verb]func(*stage, scenario.Act) error

func init() { // not a literal, for what a deed calls asks which deeds there are
	deeds = map[scenario.Verb]func(*stage, scenario.Act) error{
		scenario.Types:     func(s *stage, a scenario.Act) error { return s.typed(a.Arg + "\r") },
		scenario.Closes:    func(s *stage, _ scenario.Act) error { return s.tty.Close() },
		scenario.Signals:   (*stage).signal,
		scenario.Starts:    (*stage).start,
		scenario.Returns:   func(*stage, scenario.Act) error { return nil }, // it remembers nothing to tell
		scenario.Heals:     func(s *stage, _ scenario.Act) error { return s.heal() },
		scenario.PowersOff: (*stage).powerOff,
		scenario.Starves:   (*stage).starve,
		scenario.Downs:     injects(func(s *stage, a scenario.Act) (*inject.Injection, error) { return inject.LinkDown(s.ctx, s.host(a.On)) }),
		scenario.Unplugs:   injects(func(s *stage, a scenario.Act) (*inject.Injection, error) { return inject.CableOut(s.ctx, s.host(a.On)) }),
		scenario.Isolates:  injects(func(s *stage, a scenario.Act) (*inject.Injection, error) { return inject.Unplug(s.ctx, s.host(a.On)) }),
		scenario.Freezes:   injects(func(s *stage, a scenario.Act) (*inject.Injection, error) { return inject.Freeze(s.ctx, s.host(a.On)) }),
		scenario.Suspends:  injects(suspend),
		scenario.Rebinds:   injects(rebind),
		scenario.Impairs:   injects(impair),
		scenario.Drops: injects(func(s *stage, a scenario.Act) (*inject.Injection, error) {
			return inject.Drop(s.ctx, s.lab, s.between(a)...)
		}),
		scenario.DropsTo: injects(func(s *stage, a scenario.Act) (*inject.Injection, error) {
			return inject.Drop(s.ctx, s.lab, s.between(a)[0])
		}),
		scenario.Resets: injects(func(s *stage, a scenario.Act) (*inject.Injection, error) {
			return inject.Reset(s.ctx, s.lab, s.between(a)...)
		}),
		scenario.Refuses: injects(func(s *stage, a scenario.Act) (*inject.Injection, error) {
			return inject.Unreachable(s.ctx, s.lab, a.Arg, s.between(a)...)
		}),
		scenario.Blackhole: injects(func(s *stage, a scenario.Act) (*inject.Injection, error) {
			size, err := strconv.Atoi(a.Arg)
			if err != nil {
				return nil, err
			}
			return inject.BlackholeMTU(s.ctx, s.lab, size, s.between(a)...)
		}),
	}
}

// injects makes a deed of an injection, which heal can undo.
func injects(f func(*stage, scenario.Act) (*inject.Injection, error)) func(*stage, scenario.Act) error {
	return func(s *stage, a scenario.Act) error {
		i, err := f(s, a)
		if err == nil {
			s.undo = append(s.undo, func() error { return i.Undo(s.ctx) })
		}
		return err
	}
}

// host is a party's machine; nil for the network.
func (s *stage) host(p scenario.Party) *netlab.Host { return s.lab.Host(string(p)) }

// between are the flows of an act, both ways.
func (s *stage) between(a scenario.Act) []inject.Flow {
	return inject.Both(s.host(a.On), s.host(a.With))
}

func rebind(s *stage, a scenario.Act) (*inject.Injection, error) {
	switch a.Arg {
	case "renumber":
		return inject.Renumber(s.ctx, s.lab)
	case "flush":
		return inject.ForgetFlows(s.ctx, s.lab)
	}
	return inject.Rebind(s.ctx, s.lab)
}

func impair(s *stage, a scenario.Act) (*inject.Injection, error) {
	how, err := linkem.Parse(a.Arg)
	if err != nil {
		return nil, err
	}
	i, err := inject.Impair(s.ctx, s.host(a.On), how, how)
	if err != nil {
		return nil, err
	}
	return i.Injection, nil
}

func suspend(s *stage, a scenario.Act) (*inject.Injection, error) {
	asleep, err := time.ParseDuration(a.Arg)
	if err != nil {
		return nil, err
	}
	clock, err := inject.NewClock(s.dir) // which nobody here believes
	if err != nil {
		return nil, err
	}
	return inject.Suspend(s.ctx, s.host(a.On), clock, asleep)
}

// processes are those of a party. The agent is the service: all processes on the host that
// have its name.
func (s *stage) processes(p scenario.Party) ([]int, error) {
	switch p {
	case scenario.Client:
		return []int{s.cmd.Process.Pid}, nil
	case scenario.TheShell:
		return []int{s.shell}, nil
	case scenario.Agent:
		pids, err := inject.Find(s.lab.Agent, s.service)
		if err == nil && len(pids) == 0 {
			err = fmt.Errorf("no %s runs", s.service)
		}
		return pids, err
	}
	return nil, fmt.Errorf("%s is no process", p)
}

// signal reaches all processes of a party that are still there.
func (s *stage) signal(a scenario.Act) error {
	number := unix.SignalNum("SIG" + a.Arg)
	if number == 0 {
		return fmt.Errorf("there is no signal %s", a.Arg)
	}
	pids, err := s.processes(a.On)
	for _, pid := range pids {
		if failed := syscall.Kill(pid, number); !errors.Is(failed, syscall.ESRCH) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// start brings the host's service back, as its service manager would.
func (s *stage) start(a scenario.Act) error {
	if a.On != scenario.Agent {
		return fmt.Errorf("%s is not started again", a.On)
	}
	if err := s.heal(); err != nil { // a host that has no network yet does not listen
		return err
	}
	if pids, err := inject.Find(s.lab.Agent, "sshd"); err != nil || len(pids) > 0 {
		return err // only the session's own process was killed
	}
	return s.startSSHD()
}

func (s *stage) powerOff(a scenario.Act) error {
	i, err := inject.PowerOff(s.ctx, s.host(a.On))
	if err == nil {
		s.undo = append(s.undo, func() error { return i.Undo(s.ctx) })
	}
	return err
}

// starve has the kernel kill the shell, or the process that serves the session.
func (s *stage) starve(a scenario.Act) error {
	pids, err := s.processes(a.On)
	if err != nil {
		return err
	}
	victim := pids[0]
	for _, pid := range pids { // the latest is the session's
		if started(pid) > started(victim) {
			victim = pid
		}
	}
	_, err = inject.OutOfMemory(s.ctx, s.lab.Agent, victim)
	return err
}

// started is when a process began, in ticks since the machine did; 0 when it is gone.
func started(pid int) int64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks, _ := strconv.ParseInt(fields[19], 10, 64)
	return ticks
}
