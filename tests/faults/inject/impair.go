package inject

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"fairlead.dev/fairlead/tests/faults/linkem"
	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Impaired is a bad cable of one host, which may become better or worse.
type Impaired struct {
	*Injection
	engine engine
}

// engine is what makes a cable bad.
type engine interface {
	// start puts it into the cable, good at first.
	start(ctx context.Context) error
	set(ctx context.Context, toHost, fromHost linkem.Impairment) error
	stop(ctx context.Context) error
}

// Impair makes a host's cable bad, each way for itself, with the link emulator where there
// are TAP devices and with the kernel's netem otherwise. The undo gives the good cable back.
func Impair(ctx context.Context, h *netlab.Host, toHost, fromHost linkem.Impairment) (*Impaired, error) {
	switch {
	case netlab.HasTAP():
		return ImpairByEmulator(ctx, h, toHost, fromHost)
	case hasNetem(ctx):
		return ImpairByNetem(ctx, h, toHost, fromHost)
	default:
		return nil, fmt.Errorf("bad link: %s: without netem in the kernel it %w", h.Name, ErrNeedsRoot)
	}
}

// ImpairByEmulator is Impair with the link emulator, which needs the machine's root.
func ImpairByEmulator(ctx context.Context, h *netlab.Host, toHost, fromHost linkem.Impairment) (*Impaired, error) {
	if !netlab.HasTAP() {
		return nil, fmt.Errorf("bad link: %s: a TAP device %w", h.Name, ErrNeedsRoot)
	}
	return impair(ctx, h, &spliced{host: h}, toHost, fromHost)
}

// ImpairByNetem is Impair with the kernel's netem. It cannot mangle.
func ImpairByNetem(ctx context.Context, h *netlab.Host, toHost, fromHost linkem.Impairment) (*Impaired, error) {
	return impair(ctx, h, netem{h}, toHost, fromHost)
}

func impair(ctx context.Context, h *netlab.Host, e engine, toHost, fromHost linkem.Impairment) (*Impaired, error) {
	i, err := inject(ctx, Truth{Fault: "bad link", Whom: h.Name, Detail: describe(toHost, fromHost)},
		func(ctx context.Context) error {
			if err := e.start(ctx); err != nil {
				return err
			}
			return e.set(ctx, toHost, fromHost)
		}, e.stop)
	if err != nil {
		return nil, err
	}
	return &Impaired{i, e}, nil
}

// Set changes the cable while it is in use. It is a new truth of its own, which undoes
// nothing.
func (i *Impaired) Set(ctx context.Context, toHost, fromHost linkem.Impairment) (*Injection, error) {
	return inject(ctx, Truth{Fault: "bad link changed", Whom: i.Truth().Whom, Detail: describe(toHost, fromHost)},
		func(ctx context.Context) error { return i.engine.set(ctx, toHost, fromHost) }, nil)
}

func describe(toHost, fromHost linkem.Impairment) string {
	return fmt.Sprintf("to it %+v, from it %+v", toHost, fromHost)
}

// spliced is the emulator in the middle of a cable, before the switch:
//
//	host ── port ┤bridge├ TAP ── emulator ── TAP ┤switch
type spliced struct {
	host *netlab.Host
	link *linkem.Link
	taps [2]*os.File // toward the host, and toward the switch
}

func (s *spliced) start(ctx context.Context) error {
	p := s.host.Port()
	err := p.Of.Do(func() (err error) {
		for i, name := range []string{"in-", "out-"} {
			if s.taps[i], err = linkem.TAP(name + s.host.Name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.link = linkem.Join(s.taps[0], s.taps[1], 1)
	bridge := "em-" + s.host.Name
	err = p.Of.IP(ctx,
		"link add "+bridge+" type bridge", "link set "+bridge+" up",
		"link set in-"+s.host.Name+" master "+bridge+" up",
		"link set out-"+s.host.Name+" master "+p.Bridge+" up")
	if err != nil {
		return err
	}
	// A bridge takes a moment to believe in a new device; the cable is in use meanwhile.
	err = await(ctx, "the bridges to use the TAPs", func() bool {
		out, err := p.Of.Run(ctx, "bridge", "link", "show")
		return err == nil && forwards(out, "in-"+s.host.Name) && forwards(out, "out-"+s.host.Name)
	})
	if err != nil {
		return err
	}
	return p.Of.IP(ctx, "link set "+p.Device+" master "+bridge)
}

// forwards reports whether bridge(8) shows a port that passes frames on.
func forwards(shown, port string) bool {
	for line := range strings.Lines(shown) {
		if strings.Contains(line, " "+port+": ") {
			return strings.Contains(line, "state forwarding")
		}
	}
	return false
}

func (s *spliced) set(_ context.Context, toHost, fromHost linkem.Impairment) error {
	s.link.Set(fromHost, toHost)
	return nil
}

func (s *spliced) stop(ctx context.Context) error {
	errs := []error{plug(ctx, s.host)}
	if s.link == nil {
		for _, tap := range s.taps {
			if tap != nil {
				errs = append(errs, tap.Close())
			}
		}
		return errors.Join(errs...)
	}
	errs = append(errs, s.link.Close(), s.host.Port().Of.IP(ctx, "link del em-"+s.host.Name))
	return errors.Join(errs...)
}

// netem is the kernel's own, at both ends of the cable.
type netem struct{ host *netlab.Host }

// hasNetem reports whether this kernel knows netem, which may mean to load it.
func hasNetem(ctx context.Context) bool {
	return exec.CommandContext(ctx, "unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem").Run() == nil
}

func (n netem) start(context.Context) error { return nil }

func (n netem) set(ctx context.Context, toHost, fromHost linkem.Impairment) error {
	for _, way := range n.ways() {
		m := toHost
		if way.host == n.host {
			m = fromHost
		}
		args, err := netemArgs(m)
		if err != nil {
			return err
		}
		if _, err := way.host.Run(ctx, "tc", append([]string{"qdisc", "replace", "dev", way.device, "root", "netem"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

func (n netem) stop(ctx context.Context) error {
	var errs []error
	for _, way := range n.ways() {
		_, err := way.host.Run(ctx, "tc", "qdisc", "del", "dev", way.device, "root")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

type cableEnd struct {
	host   *netlab.Host
	device string
}

// ways are the ends of the cable, each with what it sends.
func (n netem) ways() []cableEnd {
	p := n.host.Port()
	return []cableEnd{{n.host, n.host.Device()}, {p.Of, p.Device}}
}

// netemArgs says an impairment in words of netem, whose reordering needs a delay: all but
// some wait, where the emulator holds some back.
func netemArgs(m linkem.Impairment) ([]string, error) {
	if m.Mangle > 0 {
		return nil, errors.New("netem cannot damage a payload and keep its checksum right")
	}
	if m.Reorder > 0 && m.Delay == 0 {
		return nil, errors.New("netem reorders only what it delays")
	}
	var args []string
	add := func(format string, a ...any) { args = append(args, strings.Fields(fmt.Sprintf(format, a...))...) }
	if m.Delay > 0 || m.Jitter > 0 {
		add("delay %dus %dus", m.Delay.Microseconds(), m.Jitter.Microseconds())
	}
	for _, share := range []struct {
		word    string
		percent float64
	}{{"loss", m.Loss}, {"duplicate", m.Duplicate}, {"reorder", m.Reorder}, {"corrupt", m.Corrupt}} {
		if share.percent > 0 {
			add("%s %g%%", share.word, share.percent)
		}
	}
	if m.Rate > 0 {
		add("rate %dbit", m.Rate)
	}
	return args, nil
}
