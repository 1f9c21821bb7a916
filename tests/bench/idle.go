package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/site"
)

// idleCommand measures what open sessions cost in which nobody types: bytes on the wire,
// and the agent's processor time. It needs network namespaces.
const idleCommand = "idle"

// counting is what nftables counts at a machine, in bytes of IP packets: what goes to and
// comes from one other by UDP, which is the tailnet's direct path, and by TCP.
const counting = `table inet bench {
	counter udp_in {}
	counter udp_out {}
	counter tcp_in {}
	counter tcp_out {}
	chain in {
		type filter hook input priority 0;
		ip saddr %[1]s meta l4proto udp counter name udp_in
		ip saddr %[2]s meta l4proto tcp counter name tcp_in
	}
	chain out {
		type filter hook output priority 0;
		ip daddr %[1]s meta l4proto udp counter name udp_out
		ip daddr %[2]s meta l4proto tcp counter name tcp_out
	}
}
`

// runIdle is the command's main.
func runIdle(args []string) error {
	flags := flag.NewFlagSet(idleCommand, flag.ContinueOnError)
	binary := flags.String("binary", "bin/fairlead", "release binary to measure")
	clients := flags.Int("clients", 100, "clients of one agent, each a process with a session")
	window := flags.Duration("window", time.Minute, "how long each sample is")
	rounds := flags.Int("rounds", 3, "samples of each")
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
		n, err := startNetSite(t, idleCommand)
		if err != nil {
			return err
		}
		i := &idleSite{t: t, site: n, window: *window, rounds: *rounds}
		if err := i.count(); err != nil {
			return err
		}
		fmt.Printf("One run of `bench idle`, %s. A sample is %v long.\n\n", machine(), i.window)
		wire := newTable("bytes of IP packets a second", "B/s")
		cpu := newTable("processor time of the agent", "% of a core")
		err = errors.Join(i.sessions(wire), i.crowd(*clients, wire, cpu))
		wire.print()
		cpu.print()
		return err
	})
}

// idleSite is a site whose traffic is counted.
type idleSite struct {
	t      *run
	site   *netSite
	window time.Duration
	rounds int
}

// count begins to count at the client, and at the agent what it exchanges with the client's
// NAT.
func (i *idleSite) count() error {
	lab := i.site.lab
	_, err := lab.Client.RunWith(i.t.ctx, fmt.Sprintf(counting, lab.Agent.Addr, lab.Server.Addr), "nft", "-f", "-")
	return err
}

// traffic is what was counted, by the counter's name.
func (i *idleSite) traffic() (map[string]float64, error) {
	out, err := i.site.lab.Client.Run(i.t.ctx, "nft", "-j", "list", "counters")
	if err != nil {
		return nil, err
	}
	var listed struct {
		Nftables []struct {
			Counter *struct {
				Name  string
				Bytes float64
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return nil, err
	}
	bytes := map[string]float64{}
	for _, entry := range listed.Nftables {
		if entry.Counter != nil {
			bytes[entry.Counter.Name] = entry.Counter.Bytes
		}
	}
	return bytes, nil
}

// sample calls each with the rates of one window, in bytes a second, and with the share of
// a core that the agent's process used, in percent.
func (i *idleSite) sample(each func(rate map[string]float64, cpu float64)) error {
	for range i.rounds {
		before, err := i.traffic()
		if err != nil {
			return err
		}
		used, err := usedBy(i.site.agent.Cmd.Process.Pid)
		if err != nil {
			return err
		}
		begin := time.Now()
		select {
		case <-time.After(i.window):
		case <-i.t.ctx.Done():
			return context.Cause(i.t.ctx)
		}
		after, err := i.traffic()
		if err != nil {
			return err
		}
		later, err := usedBy(i.site.agent.Cmd.Process.Pid)
		if err != nil {
			return err
		}
		took := time.Since(begin)
		for name := range after {
			after[name] = (after[name] - before[name]) / took.Seconds()
		}
		each(after, 100*(later-used).Seconds()/took.Seconds())
	}
	return nil
}

// usedBy is the processor time of a process so far, by the kernel's ticks of 10 ms.
func usedBy(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err, err2)
}

// settled lets a path become direct and a session quiet.
func (i *idleSite) settled() error {
	select {
	case <-i.t.ctx.Done():
		return context.Cause(i.t.ctx)
	case <-time.After(settleTime):
		return nil
	}
}

// sessions measures single clients, one after the other.
func (i *idleSite) sessions(wire *table) error {
	user := i.site.user
	for _, c := range []struct {
		name, out, in string
		open          func() *site.Process
	}{
		{"one session, direct", "udp_out", "udp_in", func() *site.Process { return user.Start("ssh", "admin/dev", "--", "echo open; cat") }},
		{"one session, relayed, with control link and relay", "tcp_out", "tcp_in", func() *site.Process {
			return user.Start("ssh", "--force-relay", "admin/dev", "--", "echo open; cat")
		}},
		{"control link and relay of a direct session", "tcp_out", "tcp_in", func() *site.Process {
			return user.Start("ssh", "admin/dev", "--", "echo open; cat")
		}},
		{"a port forward that nobody uses, direct", "udp_out", "udp_in", func() *site.Process {
			return user.Start("port-forward", "admin/dev", "18080:9")
		}},
	} {
		p := c.open()
		if strings.Contains(c.name, "session") {
			p.Stdout.AwaitText(i.t, "open")
		}
		if err := i.settled(); err != nil {
			return err
		}
		if err := i.sample(func(rate map[string]float64, _ float64) {
			wire.add(c.name+", sent", []float64{rate[c.out]})
			wire.add(c.name+", received", []float64{rate[c.in]})
			progress("%s: %.0f B/s sent, %.0f B/s received", c.name, rate[c.out], rate[c.in])
		}); err != nil {
			return err
		}
		p.Signal(syscall.SIGTERM)
		p.Wait()
	}
	return nil
}

// crowd measures many clients at once.
func (i *idleSite) crowd(clients int, wire, cpu *table) error {
	if err := i.sample(func(_ map[string]float64, used float64) {
		cpu.add("with no client", []float64{used})
	}); err != nil {
		return err
	}
	for n := range clients {
		i.site.user.Start("ssh", "admin/dev", "--", "echo open; cat").Stdout.AwaitText(i.t, "open")
		if (n+1)%20 == 0 {
			progress("%d sessions are open", n+1)
		}
	}
	if err := i.settled(); err != nil {
		return err
	}
	name := fmt.Sprintf("with %d clients", clients)
	return i.sample(func(rate map[string]float64, used float64) {
		cpu.add(name, []float64{used})
		wire.add(name+", direct, each sent", []float64{rate["udp_out"] / float64(clients)})
		wire.add(name+", direct, each received", []float64{rate["udp_in"] / float64(clients)})
		progress("%s: %.1f %% of a core; each %.0f B/s sent, %.0f B/s received", name, used, rate["udp_out"]/float64(clients), rate["udp_in"]/float64(clients))
	})
}
