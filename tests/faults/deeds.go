package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/tests/faults/inject"
	"fairlead.dev/fairlead/tests/faults/linkem"
	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/faults/scenario"
)

// injects makes a deed of an injection, which heal can undo.
func injects(f func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error)) func(*stage, scenario.Act) error {
	return func(s *stage, a scenario.Act) error {
		i, err := f(s.ctx, s, a)
		if err != nil {
			return err
		}
		s.undo = append(s.undo, func() error { return i.Undo(s.ctx) })
		return nil
	}
}

// networkDeeds are what is done to hosts and what is between them.
var networkDeeds = map[scenario.Verb]func(context.Context, *stage, scenario.Act) (*inject.Injection, error){
	scenario.Downs: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.LinkDown(ctx, s.host(a.On))
	},
	scenario.Unplugs: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.CableOut(ctx, s.host(a.On))
	},
	scenario.Isolates: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.Unplug(ctx, s.host(a.On))
	},
	scenario.Drops: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.Drop(ctx, s.lab, s.flows(a)...)
	},
	scenario.DropsTo: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.Drop(ctx, s.lab, s.flows(a)[:1]...)
	},
	scenario.Resets: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.Reset(ctx, s.lab, s.flows(a)...)
	},
	scenario.Refuses: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.Unreachable(ctx, s.lab, a.Arg, inject.Both(s.host(a.On), s.host(a.With))...)
	},
	scenario.Rebinds: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		switch a.Arg {
		case "renumber":
			return inject.Renumber(ctx, s.lab)
		case "flush":
			return inject.ForgetFlows(ctx, s.lab)
		}
		return inject.Rebind(ctx, s.lab)
	},
	scenario.Impairs: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		how, err := linkem.Parse(a.Arg)
		if err != nil {
			return nil, err
		}
		return s.impair(ctx, a.On, how, how)
	},
	scenario.Corrupts: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return s.impair(ctx, a.On, linkem.Impairment{}, linkem.Impairment{Mangle: 100})
	},
	scenario.Blackhole: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		size, err := strconv.Atoi(a.Arg)
		if err != nil {
			return nil, err
		}
		h := s.host(a.On)
		return inject.BlackholeMTU(ctx, s.lab, size, inject.Flow{From: h}, inject.Flow{To: h})
	},
	scenario.Severs: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.KillSockets(ctx, s.host(a.On), "state", "established", "dst", s.host(a.With).Addr.String())
	},
	scenario.Freezes: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.Freeze(ctx, s.host(a.On))
	},
	scenario.Suspends: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		asleep, err := time.ParseDuration(a.Arg)
		if err != nil {
			return nil, err
		}
		return inject.Suspend(ctx, s.host(a.On), s.clocks[a.On], asleep)
	},
	scenario.Skews: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		by, err := time.ParseDuration(a.Arg)
		if err != nil {
			return nil, err
		}
		return inject.SkewWall(ctx, s.host(a.On), s.clocks[a.On], by)
	},
	scenario.Starves: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		pid, err := s.pid(a.On)
		if err != nil {
			return nil, err
		}
		if a.On == scenario.TheShell {
			return inject.OutOfMemory(ctx, s.lab.Agent, pid)
		}
		return inject.OutOfMemory(ctx, s.host(a.On), pid)
	},
	scenario.Fills: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		return inject.FillDisk(ctx, s.host(a.On), s.homeOf(a.On).Path("state"))
	},
	scenario.Limits: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		pid, err := s.pid(a.On)
		if err != nil {
			return nil, err
		}
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil, err
		}
		return inject.LimitFiles(ctx, string(a.On), pid, uint64(len(open)))
	},
	scenario.Expires: func(ctx context.Context, s *stage, _ scenario.Act) (*inject.Injection, error) {
		return s.certificate.Expire(ctx)
	},
	scenario.Unnames: func(ctx context.Context, s *stage, _ scenario.Act) (*inject.Injection, error) {
		return inject.BreakDNS(ctx, s.lab, netlab.DNSServFail)
	},
	scenario.Bans: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		i, err := s.proxy.BadGateway(ctx, true)
		if err == nil && a.Arg == "cut" {
			return i, i.Undo(ctx)
		}
		return i, err
	},
	scenario.Babbles: func(ctx context.Context, s *stage, a scenario.Act) (*inject.Injection, error) {
		bytes := "\x00\xff\x1b[31m\r\n\x07garbage\r\n\r\n"
		if a.Arg == "slow" {
			bytes = "GET /api/v1/control HTTP/1.1\r\nHost: server\r\n"
		}
		g, err := inject.SendGarbage(ctx, s.lab.Client, s.lab.Server.Addr.String()+":"+port, []byte(bytes))
		if err != nil {
			return nil, err
		}
		return g.Injection, nil
	},
}

// host is a party's machine.
func (s *stage) host(p scenario.Party) *netlab.Host { return s.lab.Host(string(p)) }

// flows are the packets between the two parties of an act, as far as it says; to and
// from the network are all that the one has.
func (s *stage) flows(a scenario.Act) []inject.Flow {
	flows := inject.Both(s.host(a.On), s.host(a.With)) // no host is any host
	if a.Arg != "" {
		flows = inject.With(flows, a.Arg, 0)
	}
	return flows
}

func (s *stage) impair(ctx context.Context, p scenario.Party, to, from linkem.Impairment) (*inject.Injection, error) {
	i, err := inject.Impair(ctx, s.host(p), to, from)
	if err != nil {
		return nil, err
	}
	return i.Injection, nil
}

// powerOff cuts a host off and kills what runs there. What heals does not bring back what
// ran, and the cable is in again when something is started.
func (s *stage) powerOff(a scenario.Act) error {
	i, err := inject.PowerOff(s.ctx, s.host(a.On))
	if err != nil {
		return err
	}
	s.boot[a.On] = func() error { return i.Undo(s.ctx) }
	return nil
}

// spoil overwrites the server's database with what is none.
func (s *stage) spoil(scenario.Act) error {
	files, err := filepath.Glob(s.admin.Path("state/*.db*"))
	if err == nil && len(files) == 0 {
		err = errors.New("the server has no database")
	}
	for _, file := range files {
		err = errors.Join(err, os.WriteFile(file, []byte(strings.Repeat("this is no database. ", 4096)), 0o600))
	}
	return err
}

// gone reports whether a process is no more, or waits only to be noticed.
func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }
