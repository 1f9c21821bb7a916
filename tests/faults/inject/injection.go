package inject

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNeedsRoot is for what a user namespace cannot do.
var ErrNeedsRoot = errors.New("needs the machine's root")

// Truth says what was done. Times are on CLOCK_MONOTONIC, which all processes of the
// machine share.
type Truth struct {
	Fault     string        `json:"fault"`               // "link down", "silent drop"
	Whom      string        `json:"whom"`                // hosts, flows or processes
	Detail    string        `json:"detail,omitempty"`    // what else there is to know
	Simulated bool          `json:"simulated,omitempty"` // only like the real thing
	Begin     time.Duration `json:"begin"`               // when the work began,
	Done      time.Duration `json:"done"`                // and when it was done: the fault began between
	Undone    time.Duration `json:"undone,omitempty"`    // when it was over; 0 while it lasts
}

// Injection is a fault at work.
type Injection struct {
	undo func(context.Context) error // nil when nothing can be taken back

	mu    sync.Mutex // guards truth
	truth Truth
	once  sync.Once
	err   error // of the undo, which once guards
}

// Now reads CLOCK_MONOTONIC.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the kernel has had it for twenty years
	}
	return time.Duration(ts.Nano())
}

// inject does a fault and keeps the way back. If do fails, undo takes back what it did.
func inject(ctx context.Context, t Truth, do, undo func(context.Context) error) (*Injection, error) {
	t.Begin = Now()
	if err := do(ctx); err != nil {
		if undo != nil {
			// What was never done cannot always be undone; the first error is the one to tell.
			_ = undo(context.WithoutCancel(ctx))
		}
		return nil, fmt.Errorf("%s: %s: %w", t.Fault, t.Whom, err)
	}
	t.Done = Now()
	return &Injection{undo: undo, truth: t}, nil
}

// Truth returns what was done, and when it was undone if it was.
func (i *Injection) Truth() Truth {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.truth
}

// Undo ends the fault, once; later calls return what the first one did. What has no way
// back, as a kill, stays.
func (i *Injection) Undo(ctx context.Context) error {
	i.once.Do(func() {
		if i.undo == nil {
			return
		}
		if err := i.undo(ctx); err != nil {
			i.err = fmt.Errorf("undo %s: %w", i.Truth().Fault, err)
			return
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.truth.Undone = Now()
	})
	return i.err
}
