package inject

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// roomToDie is how much memory there is when it runs out.
const roomToDie = 64 << 20

// Memory is a cgroup that can run out of memory. What a process in it starts is in it too.
type Memory struct {
	group         *group
	limit, events string // files of the cgroup
	unlimited     string
}

// NewMemory makes one without a limit. The caller closes it.
func NewMemory() (*Memory, error) {
	for _, m := range []Memory{
		{limit: "memory.limit_in_bytes", events: "memory.oom_control", unlimited: "-1"}, // cgroup v1
		{limit: "memory.max", events: "memory.events", unlimited: "max"},
	} {
		g, err := newGroup(m.limit)
		if err == nil {
			m.group = g
			return &m, nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no cgroup here limits memory: %w", errors.ErrUnsupported)
}

// Add moves a process in.
func (m *Memory) Add(pid int) error { return m.group.add(pid) }

// Close lets what still lives go home, and removes the cgroup.
func (m *Memory) Close() error {
	// The memory of the dead may be given back a little later.
	return await(context.Background(), "the cgroup to be empty", func() bool { return m.group.remove() == nil })
}

// RunOut has the kernel kill a process in the cgroup for want of memory: another process
// takes all that there is, and the kernel's choice is the victim. It returns when the victim
// is dead. There is no way back but that the limit is gone.
func (m *Memory) RunOut(ctx context.Context, h *netlab.Host, pid int) (*Injection, error) {
	return inject(ctx, Truth{Fault: "killed for want of memory", Whom: fmt.Sprintf("%s (%d)", h.Name, pid)},
		func(ctx context.Context) error {
			err := m.runOut(ctx, h, pid)
			return errors.Join(err, m.group.write(m.limit, m.unlimited))
		}, nil)
}

func (m *Memory) runOut(ctx context.Context, h *netlab.Host, pid int) error {
	if err := m.group.write(m.limit, strconv.Itoa(roomToDie)); err != nil {
		return err
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0); err != nil {
		return err
	}
	killed := m.group.number(m.events, "oom_kill")
	// It eats by a file in memory and stays small itself, and the scores make the victim look
	// largest, and it second. The file goes with the last process in its mount namespace.
	eater := h.Command(ctx, "sh", "-c", `echo 900 >/proc/self/oom_score_adj
echo $$ >"$1"
exec unshare --mount sh -c 'mount -t tmpfs -o size=1g eaten /tmp && exec cat /dev/zero >/tmp/file'`, "sh", m.group.dir+"/cgroup.procs")
	if err := eater.Start(); err != nil {
		return err
	}
	defer func() {
		_ = syscall.Kill(eater.Process.Pid, syscall.SIGKILL)
		_ = eater.Wait() // it was killed
	}()
	return await(ctx, "the victim to be killed", func() bool {
		return m.group.number(m.events, "oom_kill") > killed && threadsAre(pid, "ZX")
	})
}

// OutOfMemory is RunOut of a cgroup made for it.
func OutOfMemory(ctx context.Context, h *netlab.Host, pid int) (*Injection, error) {
	m, err := NewMemory()
	if err != nil {
		return nil, err
	}
	if err := m.Add(pid); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	i, err := m.RunOut(ctx, h, pid)
	return i, errors.Join(err, m.Close())
}
