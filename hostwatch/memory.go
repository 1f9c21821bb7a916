package hostwatch

import (
	"context"
	"slices"
	"sync"
	"time"
)

// rememberKill is for how long a kill explains a process that has died of one: the kernel
// counts first, and a large process takes a while to die.
const rememberKill = 5 * time.Second

// Kills are how many processes the kernel has killed for want of memory, since it started
// or the group was made. Below zero: not known.
type Kills struct {
	Group   int64  `json:"group"` // in the memory cgroup of this process
	In      string `json:"in"`    // that cgroup
	Machine int64  `json:"machine"`
}

// ReadKills reads the kernel's counts.
func ReadKills() Kills { return readKills() }

// kill is a process that was killed, whichever.
type kill struct {
	at    time.Time
	group bool // in our cgroup
}

// Memory observes when the kernel kills processes for want of memory. Its methods are safe
// for concurrent use; a nil Memory sees nothing.
type Memory struct {
	read  func() Kills
	risen func(Kills)
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu    sync.Mutex // guards kills, last
	kills []kill
	last  Kills
}

// WatchMemory starts to observe; risen, if it is not nil, is called with the counts at once
// and whenever they have risen, and must not call back.
func WatchMemory(risen func(Kills)) *Memory { return watchMemory(readKills, risen) }

func watchMemory(read func() Kills, risen func(Kills)) *Memory {
	if risen == nil {
		risen = func(Kills) {}
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Memory{read: read, risen: risen, last: read(), stop: stop}
	risen(m.last)
	if m.last.Group < 0 && m.last.Machine < 0 {
		return m // nothing to be seen here
	}
	m.done.Go(func() {
		for pause(ctx, tick) {
			m.look()
		}
	})
	return m
}

// Close ends the observation.
func (m *Memory) Close() {
	if m == nil {
		return
	}
	m.stop()
	m.done.Wait()
}

func (m *Memory) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookLocked()
}

func (m *Memory) lookLocked() {
	now, is := time.Now(), m.read()
	group, machine := rise(m.last.Group, is.Group), rise(m.last.Machine, is.Machine)
	if is.In != m.last.In {
		group = 0 // we were moved
	}
	for i := range min(max(group, machine), 100) {
		m.kills = append(m.kills, kill{now, i < group})
	}
	m.kills = slices.DeleteFunc(m.kills, func(k kill) bool { return now.Sub(k.at) > rememberKill })
	if is != m.last {
		m.last = is
		m.risen(is)
	}
}

func rise(from, to int64) int64 {
	if from < 0 || to < from {
		return 0
	}
	return to - from
}

// Killed reports whether a process that has just died of SIGKILL was killed for want of
// memory; each kill explains one death. Every kill on the machine counts unless sure is
// set: then only those in our own cgroup, where our children are if nobody moved them.
func (m *Memory) Killed(sure bool) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookLocked()
	i := slices.IndexFunc(m.kills, func(k kill) bool { return k.group })
	if i < 0 && !sure {
		i = len(m.kills) - 1
	}
	if i < 0 {
		return false
	}
	m.kills = slices.Delete(m.kills, i, i+1)
	return true
}

// soonAfter is how soon the next life must begin for a kill of which only the whole
// machine's count tells to have been the former life's.
const soonAfter = 2 * time.Minute

// Since reports whether a process that last saw the counts former, and died without a word
// so long ago, was killed for want of memory. Both are of one boot.
func (former Kills) Since(now Kills, ago time.Duration) bool {
	if former.In != "" && former.In == now.In && rise(former.Group, now.Group) > 0 {
		return true
	}
	return ago <= soonAfter && rise(former.Machine, now.Machine) > 0
}
