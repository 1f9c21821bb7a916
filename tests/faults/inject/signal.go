package inject

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Signal sends a signal to a process: the client, agent, server, relay, a shell, or stock
// ssh. After SIGSTOP it waits until the process stands still, and the undo lets it go on;
// after SIGKILL it waits until it is dead. Others have no way back. A negative pid is a
// process group, which is not waited for.
func Signal(ctx context.Context, who string, pid int, signal syscall.Signal) (*Injection, error) {
	var undo func(context.Context) error
	if signal == syscall.SIGSTOP {
		undo = func(context.Context) error {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != syscall.ESRCH {
				return err
			}
			return nil // it was killed meanwhile
		}
	}
	truth := Truth{Fault: "signal " + unix.SignalName(signal), Whom: fmt.Sprintf("%s (%d)", who, pid)}
	return inject(ctx, truth, func(ctx context.Context) error {
		if err := syscall.Kill(pid, signal); err != nil || pid < 0 {
			return err
		}
		switch signal {
		case syscall.SIGSTOP:
			return await(ctx, "the process to stand still", func() bool { return threadsAre(pid, "TZ") })
		case syscall.SIGKILL:
			return await(ctx, "the process to die", func() bool { return threadsAre(pid, "ZX") })
		}
		return nil
	}, undo)
}

// threadsAre reports whether the state of every thread of a process is one of those; a
// process that is no more has no threads.
func threadsAre(pid int, states string) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is right
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		_, rest, found := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
		if !found || rest == "" || !strings.ContainsRune(states, rune(rest[0])) {
			return false
		}
	}
	return true
}

// Find returns the processes on a host whose program has that name, as ps(1) shows it.
func Find(h *netlab.Host, program string) ([]int, error) {
	pids, err := h.Processes()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range pids {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(name)) == program {
			found = append(found, pid)
		}
	}
	return found, nil
}

const patience = 30 * time.Second // for what the kernel does soon

// await returns once ok is true.
func await(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}
