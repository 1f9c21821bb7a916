package inject

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Freeze stops everything that runs on a host, by cgroup: the processes see no signal. The
// host's kernel goes on, and acknowledges TCP. The undo lets all go on.
func Freeze(ctx context.Context, h *netlab.Host) (*Injection, error) {
	f := &freezer{}
	return inject(ctx, Truth{Fault: "host frozen", Whom: h.Name},
		func(ctx context.Context) error { return f.freeze(ctx, h.Processes) }, f.thaw)
}

// FreezeProcess is Freeze for one process; those that it has started go on.
func FreezeProcess(ctx context.Context, who string, pid int) (*Injection, error) {
	f := &freezer{}
	return inject(ctx, Truth{Fault: "process frozen", Whom: fmt.Sprintf("%s (%d)", who, pid)},
		func(ctx context.Context) error {
			return f.freeze(ctx, func() ([]int, error) { return []int{pid}, nil })
		}, f.thaw)
}

// freezer is a cgroup that stops what is in it.
type freezer struct {
	group *group
	v1    bool
}

func newFreezer() (*freezer, error) {
	if g, err := newGroup("cgroup.freeze"); err == nil {
		return &freezer{group: g}, nil
	}
	g, err := newGroup("freezer.state")
	return &freezer{group: g, v1: true}, err
}

// freeze catches also what is forked while it works.
func (f *freezer) freeze(ctx context.Context, processes func() ([]int, error)) error {
	made, err := newFreezer()
	if err != nil {
		return err
	}
	*f = *made
	if err := f.set(ctx, true); err != nil {
		return err
	}
	for {
		pids, err := processes()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return errors.New("nothing runs there")
		}
		fresh := false
		for _, pid := range pids {
			if _, ok := f.group.home[pid]; !ok && !threadsAre(pid, "ZX") {
				fresh = true
				if err := f.group.add(pid); err != nil && !threadsAre(pid, "ZX") {
					return err
				}
			}
		}
		if !fresh {
			break
		}
	}
	return await(ctx, "all to be frozen", f.frozen)
}

func (f *freezer) frozen() bool {
	if f.v1 {
		return strings.TrimSpace(f.group.read("freezer.state")) == "FROZEN"
	}
	return f.group.number("cgroup.events", "frozen") == 1
}

func (f *freezer) set(ctx context.Context, frozen bool) error {
	file, word := "cgroup.freeze", map[bool]string{true: "1", false: "0"}[frozen]
	if f.v1 {
		file, word = "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	}
	if err := f.group.write(file, word); err != nil || frozen {
		return err
	}
	return await(ctx, "all to go on", func() bool { return !f.frozen() })
}

func (f *freezer) thaw(ctx context.Context) error {
	if f.group == nil {
		return nil
	}
	return errors.Join(f.set(ctx, false), f.group.remove())
}
