package soak

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead.dev/fairlead/tests/site"
)

// longest bounds a client's life: its own longest session, and what it waits for when
// everything is gone.
const longest = 45 * time.Second

// plan is what a client is to do.
type plan struct {
	command string
	leave   syscall.Signal // sent to the client some time after its session began; 0: none
	after   time.Duration
	// What the log is to say when nothing but the plan happens.
	reason, initiator string
	exit              int // -1: no process' own
}

// draw picks one of the ways in which sessions end.
func draw(r *rand.Rand) plan {
	short := fmt.Sprintf("sleep %.2f; ", 3*r.Float64())
	switch r.IntN(8) {
	case 0:
		return plan{command: "exit 0", reason: "graceful", initiator: "agent"}
	case 1:
		return plan{command: "exit 3", reason: "process_exited", initiator: "agent", exit: 3}
	case 2:
		return plan{command: "kill -9 $$", reason: "process_signaled", initiator: "agent", exit: 137}
	case 3:
		return plan{command: short + "exit 0", reason: "graceful", initiator: "agent"}
	case 4:
		return plan{command: short + "exit 7", reason: "process_exited", initiator: "agent", exit: 7}
	case 5:
		return plan{command: "exec sleep 20", leave: syscall.SIGTERM, after: rand.N(3 * time.Second), reason: "client_closed", initiator: "client", exit: -1}
	case 6:
		return plan{command: "exec sleep 20", leave: syscall.SIGKILL, after: rand.N(3 * time.Second), reason: "network_timeout", initiator: "network", exit: -1}
	}
	return plan{command: fmt.Sprintf("sleep %d; exit 0", 5+r.IntN(8)), reason: "graceful", initiator: "agent"}
}

// seen is what the harness knows of one client: the truth that the log is held against.
type seen struct {
	app  string // the session's own in the log
	plan plan
	p    *site.Process

	started time.Time
	begun   time.Time // when its output was read; zero: it never was
	left    time.Time // when the harness ended the client
	over    time.Time
	id      string // the agent's name for the connection; "": the client never heard of it
	code    int
	end     map[string]any // the client's own account; nil: it gave none
}

// quiet is a test that is not told what each of many clients said.
type quiet struct{ *testing.T }

// Logf implements site.T.
func (quiet) Logf(string, ...any) {}

// clients runs clients, one after another in each of some workers, until told to stop.
type clients struct {
	s    *site.Home
	stop chan struct{}
	work sync.WaitGroup

	mu  sync.Mutex // guards all
	all []*seen
}

func (c *clients) start(n int, seed uint64) {
	for worker := range n {
		r := rand.New(rand.NewPCG(seed, uint64(worker)))
		c.work.Go(func() {
			for {
				select {
				case <-c.stop:
					return
				default:
					c.one(draw(r))
				}
			}
		})
	}
}

// one sees one client through its life.
func (c *clients) one(p plan) {
	v := &seen{plan: p, started: time.Now(), code: -1}
	c.mu.Lock()
	v.app = fmt.Sprintf("soak-%05d", len(c.all))
	c.all = append(c.all, v)
	c.mu.Unlock()
	v.p = c.s.Start("ssh", "dev", "--env", "FAIRLEAD_APP="+v.app, "--outage-limit", outageLimit,
		"--log-format", "json", "--log-level", "info", "--", "echo begun; "+p.command)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for v.over.IsZero() {
		select {
		case <-v.p.Done:
			v.over = time.Now()
		case <-tick.C:
		}
		now := time.Now()
		if v.begun.IsZero() && strings.Contains(v.p.Stdout.String(), "begun") {
			v.begun = now
		}
		switch {
		case !v.over.IsZero():
		case p.leave != 0 && v.left.IsZero() && !v.begun.IsZero() && now.Sub(v.begun) >= p.after:
			v.left = now
			v.p.Signal(p.leave)
		case now.Sub(v.started) > longest:
			v.p.Signal(syscall.SIGABRT) // it shows what its goroutines do
			<-v.p.Done
			v.over = now
			c.s.T.Errorf("%s: the client does not end: %q\n%s", v.app, p.command, v.p.Stderr)
		}
	}
	v.code = v.p.Cmd.ProcessState.ExitCode()
	for _, record := range v.p.Stderr.Records(c.s.T) {
		switch record["msg"] {
		case "the agent named a connection":
			v.id = fmt.Sprint(record["connection_id"])
		case "session ended":
			v.end = record
		}
	}
}
