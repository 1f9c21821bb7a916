package inject

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Clock is the file by which programs built with the tag faultclock are told another time
// (see the package clock). One process each, or all of a host.
type Clock struct {
	path string
	boot time.Duration // how far the boot clock has jumped
	wall time.Duration // how far the wall clock is off
}

// NewClock makes such a file in a directory; the time in it is the right one.
func NewClock(dir string) (*Clock, error) {
	c := &Clock{path: filepath.Join(dir, "clock")}
	return c, c.write()
}

// Env is the variable to start the programs with, as NAME=value.
func (c *Clock) Env() string { return "FAIRLEAD_FAULT_CLOCK=" + c.path }

// Jump lets the boot clock jump forward, on top of what it has jumped.
func (c *Clock) Jump(by time.Duration) error {
	c.boot += by
	return c.write()
}

// write replaces the file at once, so that nobody reads half of it.
func (c *Clock) write() error {
	fresh := c.path + ".new"
	if err := os.WriteFile(fresh, fmt.Appendf(nil, "boot %d\nwall %d\n", c.boot, c.wall), 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, c.path)
}

// SkewWall puts the wall clock of the programs on a host off by so much. The undo puts it right.
func SkewWall(ctx context.Context, h *netlab.Host, c *Clock, by time.Duration) (*Injection, error) {
	set := func(wall time.Duration) func(context.Context) error {
		return func(context.Context) error {
			c.wall = wall
			return c.write()
		}
	}
	return inject(ctx, Truth{Fault: "wall clock off", Whom: h.Name, Detail: by.String(), Simulated: true}, set(by), set(0))
}

// Suspend is the sleep of a machine, as near as it can be had without one: everything on
// the host is frozen, and at the undo, before it goes on, the product's boot clock jumps by
// that long, on top of what the freezing took on every clock. It works on programs built
// with the tag faultclock that were started with the clock's Env.
func Suspend(ctx context.Context, h *netlab.Host, clock *Clock, asleep time.Duration) (*Injection, error) {
	f := &freezer{}
	truth := Truth{Fault: "suspended", Whom: h.Name, Detail: fmt.Sprintf("for %s by its boot clock", asleep), Simulated: true}
	return inject(ctx, truth,
		func(ctx context.Context) error { return f.freeze(ctx, h.Processes) },
		func(ctx context.Context) error {
			if f.group == nil {
				return nil
			}
			return errors.Join(clock.Jump(asleep), f.thaw(ctx))
		})
}
