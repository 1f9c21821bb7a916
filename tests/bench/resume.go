package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/tests/faults/inject"
	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/site"
)

// resumeCommand measures how soon typing works again after an outage. It needs network
// namespaces, and takes minutes because outages do.
const resumeCommand = "resume"

const (
	keyEvery = 100 * time.Millisecond
	// giveUp is how long after an outage nobody waits any more.
	giveUp = 60 * time.Second
	// settleTime lies between two outages, so that paths are what they were.
	settleTime = 8 * time.Second
)

// outage is one fault of the lab, and how often it is tried.
type outage struct {
	name   string
	rounds int
	lasts  time.Duration
	fault  func(context.Context, *netlab.Lab) (*inject.Injection, error)
}

func drop(ctx context.Context, l *netlab.Lab) (*inject.Injection, error) {
	return inject.Drop(ctx, l, append(inject.Both(l.Client, l.Agent), inject.Both(l.Client, l.Server)...)...)
}

func outages() []outage {
	link := func(who func(*netlab.Lab) *netlab.Host) func(context.Context, *netlab.Lab) (*inject.Injection, error) {
		return func(ctx context.Context, l *netlab.Lab) (*inject.Injection, error) {
			return inject.LinkDown(ctx, who(l))
		}
	}
	return []outage{
		{"silent drop of 3 s", 5, 3 * time.Second, drop},
		{"silent drop of 12 s", 5, 12 * time.Second, drop},
		{"silent drop of 60 s", 3, 60 * time.Second, drop},
		{"silent drop of 200 s", 2, 200 * time.Second, drop},
		{"client's link down for 5 s", 4, 5 * time.Second, link(func(l *netlab.Lab) *netlab.Host { return l.Client })},
		{"client's link down for 20 s", 3, 20 * time.Second, link(func(l *netlab.Lab) *netlab.Host { return l.Client })},
		{"agent's link down for 5 s", 4, 5 * time.Second, link(func(l *netlab.Lab) *netlab.Host { return l.Agent })},
		{"agent's link down for 20 s", 3, 20 * time.Second, link(func(l *netlab.Lab) *netlab.Host { return l.Agent })},
	}
}

// runResume is the command's main.
func runResume(args []string) error {
	flags := flag.NewFlagSet(resumeCommand, flag.ContinueOnError)
	binary := flags.String("binary", "bin/fairlead", "release binary to measure")
	only := flags.String("only", "", "outages whose name contains this; empty: all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := netlab.Unshare(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return measure(ctx, func(t *run) (err error) {
		if site.Binary, err = filepath.Abs(*binary); err != nil {
			return err
		}
		r, err := newResume(t)
		if err != nil {
			return err
		}
		fmt.Printf("One run of `bench resume`, %s. Both terminals have each outage at the same time.\n\n", machine())
		result := newTable("from the end of the outage to the next echo", "s")
		for _, o := range outages() {
			if strings.Contains(o.name, *only) {
				err = errors.Join(err, r.try(o, result))
			}
		}
		result.print()
		return err
	})
}

// resume is a lab with a server, an agent and two terminals in which somebody types.
type resume struct {
	t     *run
	lab   *netlab.Lab
	typed []*typist
}

// typist is one terminal of the client's machine.
type typist struct {
	name string
	*site.Terminal
}

func (p *typist) echoed() int { return strings.Count(p.Out.String(), "Q") }

func newResume(t *run) (*resume, error) {
	n, err := startNetSite(t, resumeCommand)
	if err != nil {
		return nil, err
	}
	r := &resume{t: t, lab: n.lab}
	r.open(n.user, "direct")
	r.open(n.user, "relayed", "--force-relay")
	return r, nil
}

// open starts a terminal in which a key is pressed all the time, and echoed from afar.
func (r *resume) open(user *site.Home, name string, args ...string) {
	p := &typist{name, user.OpenShell("admin/dev", args...)}
	p.Type("stty raw -echo; exec cat\r")
	r.typed = append(r.typed, p)
	ctx, cancel := context.WithCancel(r.t.ctx)
	done := make(chan struct{})
	r.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for tick := time.NewTicker(keyEvery); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				p.Type("Q")
			}
		}
	}()
}

// wait lets time pass.
func (r *resume) wait(d time.Duration) error {
	select {
	case <-r.t.ctx.Done():
		return context.Cause(r.t.ctx)
	case <-time.After(d):
		return nil
	}
}

// try has the outage several times, and takes the time of each terminal.
func (r *resume) try(o outage, result *table) error {
	for round := range o.rounds {
		if err := r.wait(settleTime); err != nil {
			return err
		}
		fault, err := o.fault(r.t.ctx, r.lab)
		if err != nil {
			return err
		}
		err = r.wait(o.lasts)
		if err := errors.Join(err, fault.Undo(context.WithoutCancel(r.t.ctx))); err != nil {
			return err
		}
		over := time.Now()
		took, err := r.await(over)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		for i, p := range r.typed {
			result.add(o.name+", "+p.name, []float64{took[i].Seconds()})
		}
		progress("%s, round %d: %v", o.name, round+1, took)
	}
	return nil
}

// await returns how long each terminal took until it echoed again.
func (r *resume) await(over time.Time) ([]time.Duration, error) {
	before, took := make([]int, len(r.typed)), make([]time.Duration, len(r.typed))
	for i, p := range r.typed {
		before[i] = p.echoed()
	}
	for missing := len(took); missing > 0; {
		if time.Since(over) > giveUp {
			return nil, fmt.Errorf("no echo %v after the outage: %v", giveUp, took)
		}
		if err := r.wait(5 * time.Millisecond); err != nil {
			return nil, err
		}
		for i, p := range r.typed {
			if took[i] == 0 && p.echoed() > before[i] {
				took[i], missing = time.Since(over), missing-1
			}
		}
	}
	return took, nil
}
