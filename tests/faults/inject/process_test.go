package inject

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSignal(t *testing.T) {
	t.Parallel()
	lab := build(t, "signal")
	p := run(t, lab.Agent, "cat")
	require.True(t, p.answers(patience))
	found, err := Find(lab.Agent, "cat")
	require.NoError(t, err)
	require.Equal(t, []int{p.pid()}, found)

	stopped := done[*Injection](t)(Signal(t.Context(), "agent", p.pid(), syscall.SIGSTOP))
	require.Contains(t, stopped.Truth().Fault, "SIGSTOP")
	require.False(t, p.answers(300*time.Millisecond))
	undo(t, stopped)
	require.True(t, p.answers(patience))

	done[*Injection](t)(Signal(t.Context(), "agent", p.pid(), syscall.SIGKILL))
	require.Equal(t, -1, p.code())
	_, err = Signal(t.Context(), "agent", p.pid(), syscall.SIGKILL)
	require.ErrorIs(t, err, syscall.ESRCH)
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	lab := build(t, "freeze")
	a, b, other := run(t, lab.Agent, "cat"), run(t, lab.Agent, "cat"), run(t, lab.Server, "cat")
	e := serveEcho(t, lab.Agent) // its kernel's, as it were
	frozen := done[*Injection](t)(Freeze(t.Context(), lab.Agent))
	require.False(t, a.answers(300*time.Millisecond))
	require.False(t, b.answers(100*time.Millisecond))
	require.True(t, other.answers(patience))
	dial(t, lab.Server, e)
	undo(t, frozen)
	require.True(t, a.answers(patience))
	require.True(t, b.answers(patience))

	one := done[*Injection](t)(FreezeProcess(t.Context(), "agent", a.pid()))
	require.False(t, a.answers(300*time.Millisecond))
	require.True(t, b.answers(patience))
	require.NoError(t, syscall.Kill(a.pid(), syscall.SIGKILL)) // while it is frozen
	undo(t, one)
	require.Equal(t, -1, a.code())

	_, err := Freeze(t.Context(), lab.Relay)
	require.ErrorContains(t, err, "nothing runs there")
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	lab := build(t, "memory")
	victim, other := run(t, lab.Agent, "cat"), run(t, lab.Agent, "cat")
	done[*Injection](t)(OutOfMemory(t.Context(), lab.Agent, victim.pid()))
	require.Equal(t, -1, victim.code())
	require.True(t, other.answers(patience))
	pids, err := lab.Agent.Processes()
	require.NoError(t, err)
	require.Equal(t, []int{other.pid()}, pids, "what ate the memory has gone too")

	m, err := NewMemory()
	require.NoError(t, err)
	require.NoError(t, m.Add(other.pid()))
	require.True(t, other.answers(patience))
	done[*Injection](t)(m.RunOut(t.Context(), lab.Agent, other.pid()))
	require.Positive(t, m.group.number(m.events, "oom_kill"))
	require.NoError(t, m.Close())
}

func TestLimitFiles(t *testing.T) {
	t.Parallel()
	lab := build(t, "files")
	p := run(t, lab.Agent, "sh", "-c", `while read line; do { : </dev/null; } 2>/dev/null && echo "$line"; done`)
	require.True(t, p.answers(patience))
	limited := done[*Injection](t)(LimitFiles(t.Context(), "agent", p.pid(), 3))
	require.False(t, p.answers(300*time.Millisecond), "it can open no more")
	undo(t, limited)
	require.True(t, p.answers(patience))
}

func TestFillDisk(t *testing.T) {
	t.Parallel()
	lab := build(t, "disk")
	dir := t.TempDir()
	write := func() error {
		_, err := lab.Agent.Run(t.Context(), "sh", "-c", `cat /etc/passwd >"$1/$$"`, "sh", dir)
		return err
	}
	_, err := FillDisk(t.Context(), lab.Agent, dir)
	require.ErrorContains(t, err, "no disk that MountDisk made", "the machine's own is left alone")
	require.NoError(t, MountDisk(t.Context(), lab.Agent, dir, 1<<20))
	require.NoError(t, write())
	full := done[*Injection](t)(FillDisk(t.Context(), lab.Agent, dir))
	require.ErrorContains(t, write(), "No space left on device")
	undo(t, full)
	require.NoError(t, write())
}

// TestPowerOff: nobody hears a goodbye, not even from the host's kernel.
func TestPowerOff(t *testing.T) {
	t.Parallel()
	lab := build(t, "power")
	l, err := lab.Agent.Listen(lab.Agent.Addr.String() + ":9000")
	require.NoError(t, err)
	defer l.Close()
	connect := func() (*program, net.Conn) {
		p := run(t, lab.Server, "bash", "-c", `exec 3<>/dev/tcp/10.77.2.2/9000; exec cat`)
		c, err := l.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		require.True(t, p.answers(patience))
		return p, c
	}
	hears := func(c net.Conn) error {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
		_, err := c.Read(make([]byte, 1))
		return err
	}
	killed, c := connect()
	done[*Injection](t)(Signal(t.Context(), "server", killed.pid(), syscall.SIGKILL))
	require.ErrorIs(t, hears(c), io.EOF, "of one that is killed, its kernel tells")

	first, c := connect()
	second, d := connect()
	off := done[*Injection](t)(PowerOff(t.Context(), lab.Server))
	require.Equal(t, -1, first.code())
	require.Equal(t, -1, second.code())
	require.ErrorIs(t, hears(c), os.ErrDeadlineExceeded)
	require.ErrorIs(t, hears(d), os.ErrDeadlineExceeded)
	undo(t, off)
	connect()
}

// TestSweepGroups: what a killed test left frozen lives again, dies, and is gone.
func TestSweepGroups(t *testing.T) {
	t.Parallel()
	lab := build(t, "sweep")
	left := run(t, lab.Agent, "cat")
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	f, err := newFreezer()
	if err != nil {
		t.Skip(err)
	}
	require.NoError(t, f.group.remove())
	f.group.dir = filepath.Join(filepath.Dir(f.group.dir), fmt.Sprintf("fl-%d-1", dead.Process.Pid))
	require.NoError(t, os.Mkdir(f.group.dir, 0o755))
	require.NoError(t, f.group.add(left.pid()))
	require.NoError(t, f.set(t.Context(), true))
	eventually(t, "all to be frozen", f.frozen)
	sweepGroups()
	require.Equal(t, -1, left.code())
	eventually(t, "the group to be gone", func() bool {
		sweepGroups()
		_, err := os.Stat(f.group.dir)
		return errors.Is(err, os.ErrNotExist)
	})
}
