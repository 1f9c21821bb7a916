package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Lab is one topology. Its hosts may be used concurrently until Close.
type Lab struct {
	Name string // as given to Build

	Client, NAT, Router, Switch, Agent, Server, Relay *Host

	dir   string // files of the hosts, removed by Close
	names *names

	closing sync.Once
	closed  error // of the first Close, which closing guards
}

// Hosts returns all hosts, those that forward included.
func (l *Lab) Hosts() []*Host {
	var all []*Host
	for _, h := range []*Host{l.Client, l.NAT, l.Router, l.Switch, l.Agent, l.Server, l.Relay} {
		if h != nil {
			all = append(all, h)
		}
	}
	return all
}

// Host returns the host of that name, or nil.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.Hosts() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Build sweeps what dead processes have left and makes a lab. The name, of letters,
// digits and dashes, must differ from those of the other open labs of this process. When
// ctx ends, so does the building, not the lab. The caller closes it.
func Build(ctx context.Context, name string) (*Lab, error) {
	if strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name == "" || len(name) > 60 {
		return nil, fmt.Errorf("build lab: %q is no name of 1 to 60 letters, digits and dashes", name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("build lab: network namespaces need root or a user namespace (see netlab.Unshare)")
	}
	if err := Sweep(); err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	l := &Lab{Name: name}
	if err := l.build(ctx); err != nil {
		return nil, fmt.Errorf("build lab %s: %w", name, errors.Join(err, l.Close()))
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) error {
	var err error
	if l.dir, err = os.MkdirTemp("", "fairlead-lab-"); err != nil {
		return err
	}
	for _, slot := range []struct {
		host **Host
		name string
		addr netip.Addr
	}{
		{&l.Client, "client", clientAddr},
		{&l.NAT, "nat", natAddr},
		{&l.Router, "router", routerAddr},
		{&l.Switch, "switch", netip.Addr{}},
		{&l.Agent, "agent", agentAddr},
		{&l.Server, "server", serverAddr},
		{&l.Relay, "relay", relayAddr},
	} {
		h := &Host{Name: slot.name, NS: namespaceName(os.Getpid(), l.Name, slot.name), Addr: slot.addr, lab: l}
		*slot.host = h // before it is whole, so that Close finds it
		if err := h.hold(ctx); err != nil {
			return fmt.Errorf("%s: %w", slot.name, err)
		}
	}
	if err := l.wire(ctx); err != nil {
		return err
	}
	l.names, err = serveNames(l.Router)
	return err
}

// Close kills what still runs inside, and removes everything that Build made, also when
// some of it fails. Later calls return what the first one did.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.closed = l.remove() })
	return l.closed
}

func (l *Lab) remove() error {
	var errs []error
	if l.names != nil {
		errs = append(errs, l.names.close())
	}
	var inside []uint64
	for _, h := range l.Hosts() {
		if h.netns != nil {
			inside = append(inside, h.inode)
		}
	}
	errs = append(errs, killInside(inside))
	for _, h := range l.Hosts() {
		errs = append(errs, h.release())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// path returns where a file of the lab is.
func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }

// run executes a program of the machine to its end; its complaint is the error.
func run(ctx context.Context, stdin string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
