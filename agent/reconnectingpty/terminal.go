package reconnectingpty

import (
	"cmp"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
)

const (
	// quiet is how long a terminal may be silent, after its program ended and while
	// something else still holds it open, before its output counts as done.
	quiet = 500 * time.Millisecond
	// nudgeTime is how long a program has another size, when it is to paint itself
	// anew: long enough that it is not one change that changed nothing.
	nudgeTime = 40 * time.Millisecond
)

// terminal is a program on a pseudo-terminal. Its goroutines are run, which owns the
// others, pump (output), feed (input) and one that waits for the program.
type terminal struct {
	m       *Manager
	key     key
	tty     pty.PTY
	cmd     *exec.Cmd
	command string
	began   time.Time

	exited chan struct{} // closed when the program has ended; state is set before
	state  *os.ProcessState
	dead   chan struct{} // closed when there will be no more output
	over   chan struct{} // closed when all is done
	stop   chan struct{} // closed when the program is to be ended
	hard   chan struct{} // closed when it is to be killed at once

	changed chan struct{} // has one place: viewers came or left
	read    chan struct{} // has one place: a viewer has read
	nudge   chan struct{} // has one place: the program is to paint itself anew
	keys    chan []byte   // input

	mu       sync.Mutex // guards all below
	stream   *stream
	history  *history
	modes    *modes
	altFrom  uint64    // where on the stream the alternate screen began
	viewers  []*Viewer // in the order in which they attached or changed their size
	size     pty.Size
	detached time.Time // when the last viewer left; zero while there is one
	ending   disconnect.Attribution
	stopping bool
	killing  bool
}

// signal makes one thing known to whoever waits on c.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pump moves the program's output into the stream until no more comes.
func (t *terminal) pump() {
	defer t.mourn()
	for {
		space, ok := t.space()
		if !ok {
			return
		}
		if t.hasExited() { // what it left behind may write, but not pause for long
			_ = t.tty.SetReadDeadline(time.Now().Add(quiet))
		}
		n, err := t.tty.Read(space)
		t.take(n)
		if err != nil {
			return
		}
	}
}

func (t *terminal) hasExited() bool {
	select {
	case <-t.exited:
		return true
	default:
		return false
	}
}

// mourn tells the viewers that they have seen all.
func (t *terminal) mourn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.dead)
	for _, v := range t.viewers {
		signal(v.wake)
	}
}

// space returns where to read to, once one viewer at least is not too far behind. It
// reports false when nobody can want it any more.
func (t *terminal) space() ([]byte, bool) {
	for {
		t.mu.Lock()
		wait, must := t.pace(time.Now())
		if !must {
			defer t.mu.Unlock()
			return t.stream.space(), true
		}
		t.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-t.read:
		case <-timer.C:
		case <-t.hard:
			timer.Stop()
			return nil, false
		}
		timer.Stop()
	}
}

// pace drops the viewers that do not read, and says whether the program must wait for
// those that are left, and when to ask again at the latest. mu is held.
func (t *terminal) pace(now time.Time) (wait time.Duration, must bool) {
	low, wait := t.stream.lowAfter(), t.m.cfg.SlowLimit
	must = len(t.viewers) > 0
	for _, v := range slices.Clone(t.viewers) {
		if v.waits || v.at >= low {
			must = false
		}
		switch idle := now.Sub(v.since); {
		case v.waits:
		case idle >= t.m.cfg.SlowLimit:
			t.oust(v, attribute(disconnect.SlowPeer, disconnect.Client,
				"the viewer read nothing for "+t.m.cfg.SlowLimit.String()))
		default:
			wait = min(wait, t.m.cfg.SlowLimit-idle)
		}
	}
	return wait, must && len(t.viewers) > 0
}

// take makes n bytes known that were read into the space.
func (t *terminal) take(n int) {
	if n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.stream.head
	t.remember(t.stream.commit(n), before)
	for _, v := range t.viewers {
		if v.waits {
			v.waits, v.since = false, time.Now()
			signal(v.wake)
		}
	}
}

// remember follows what was written at position at, and keeps what the main screen got.
func (t *terminal) remember(b []byte, at uint64) {
	from, was := 0, t.modes.alt
	t.modes.feed(b, func(end int) {
		now := t.modes.alt
		switch {
		case was == 0 && now != 0:
			// The sequence itself is not part of the history: its beginning may be
			// there already.
			if start := end - t.modes.length; start >= from {
				t.history.write(b[from:start])
			} else {
				t.history.unwrite(from - start)
			}
			t.altFrom = at + uint64(end)
		case was != 0 && now == 0:
			from = end
			if t.modes.seq.isReset() {
				t.history.write([]byte("\x1bc"))
			}
			t.history.write(t.modes.restore(nil, false))
		}
		was = now
	})
	if was == 0 {
		t.history.write(b[from:])
	}
}

// oust ends an attachment for cause a. mu is held.
func (t *terminal) oust(v *Viewer, a disconnect.Attribution) {
	v.why = a
	t.remove(v)
}

// remove takes a viewer off the list; the size is then that of the latest of the others.
// mu is held.
func (t *terminal) remove(v *Viewer) {
	i := slices.Index(t.viewers, v)
	if i < 0 {
		return
	}
	t.viewers = slices.Delete(t.viewers, i, i+1)
	close(v.gone)
	if len(t.viewers) == 0 {
		t.detached = time.Now()
	} else if latest := t.viewers[len(t.viewers)-1]; !latest.stale {
		t.resize(latest.size)
	}
	signal(t.changed)
	signal(t.read)
}

// resize gives the terminal a size and reports whether it had another one. mu is held.
func (t *terminal) resize(size pty.Size) (changed bool) {
	if size == t.size || size.Rows == 0 || size.Cols == 0 {
		return false
	}
	if t.tty.Resize(size) != nil { // it is gone
		return false
	}
	changed = size.Rows != t.size.Rows || size.Cols != t.size.Cols
	t.size = size
	return changed
}

// show returns what a terminal of the viewer's size is to be told before the stream goes
// on, and from where. mu is held.
func (t *terminal) show(v *Viewer) (first []byte, from uint64) {
	changed := false
	if t.viewers[len(t.viewers)-1] == v {
		changed = t.resize(v.size)
	}
	pending := t.stream.unfinished(&t.modes.parser)
	first = append(first, reset...)
	lines := 0
	if v.shown {
		lines = 2 * max(int(t.size.Rows), 24) // its scrollback has the others already
	} else {
		first = append(first, scrollAway(v.size.Rows)...)
	}
	first = append(first, "\x1b[H\x1b[2J"...)
	inMain := pending
	if t.modes.alt != 0 {
		inMain = 0
	}
	first = append(first, t.history.replay(inMain, lines)...)
	if t.modes.alt != 0 {
		first = t.showAlternate(first, pending, changed)
	}
	v.shown = true
	return first, t.stream.head - uint64(pending)
}

// scrollAway is what moves what a terminal shows into its scrollback.
func scrollAway(rows uint16) []byte {
	b := []byte("\x1b[999;1H")
	return append(b, bytesOf('\n', int(min(rows, 500)))...)
}

func bytesOf(c byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = c
	}
	return b
}

// showAlternate appends the alternate screen: what the program painted, if all of it is
// still there and the size is the same, and in any case the modes. The program is asked
// to paint it anew.
func (t *terminal) showAlternate(dst []byte, pending int, changed bool) []byte {
	dst = appendMode(dst, t.modes.alt)
	dst = append(dst, "\x1b[H\x1b[2J"...)
	end := t.stream.head - uint64(pending)
	if !changed && t.altFrom >= t.stream.low && t.altFrom < end {
		painted := make([]byte, end-t.altFrom)
		for n := 0; n < len(painted); {
			n += t.stream.read(painted[n:], t.altFrom+uint64(n))
		}
		dst = append(dst, newModes().quiet(painted)...)
		dst = t.modes.restore(dst, false)
	} else {
		dst = t.modes.restore(dst, true)
	}
	if !changed {
		signal(t.nudge)
	}
	return dst
}

// run sees the terminal to its end.
func (t *terminal) run() {
	defer close(t.over)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer t.tty.Close()
	tasks.Go(t.pump)
	tasks.Go(t.feed)
	tasks.Go(t.await)
	t.attend()
	_ = t.tty.SetReadDeadline(time.Now().Add(quiet))
	select {
	case <-t.dead:
	case <-t.hard:
	}
}

// await waits for the program.
func (t *terminal) await() {
	_ = t.cmd.Wait() // the state says more than the error
	t.state = t.cmd.ProcessState
	t.m.forget(t)
	close(t.exited)
}

// feed gives the program what viewers typed, until the terminal is closed.
func (t *terminal) feed() {
	for {
		select {
		case b := <-t.keys:
			if _, err := t.tty.Write(b); err != nil {
				return
			}
		case <-t.exited:
			return
		}
	}
}

// attend does what is due at some time, until the program has ended.
func (t *terminal) attend() {
	expiry, nudged := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer expiry.Stop()
	defer nudged.Stop()
	nudged.Stop()
	for {
		expiry.Reset(t.untilExpiry())
		select {
		case <-t.exited:
			return
		case <-t.changed:
		case <-expiry.C:
			t.expire()
		case <-t.nudge:
			t.shrink()
			nudged.Reset(nudgeTime)
		case <-nudged.C:
			t.unshrink()
		case <-t.stop:
			t.end()
			return
		}
	}
}

// untilExpiry is how long nobody may still look at it.
func (t *terminal) untilExpiry() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.detached.IsZero() {
		return 1 << 62
	}
	return max(0, time.Until(t.detached.Add(t.m.cfg.DetachedLimit)))
}

// expire ends a terminal that nobody looked at for too long.
func (t *terminal) expire() {
	t.mu.Lock()
	late := !t.stopping && !t.detached.IsZero() && time.Since(t.detached) >= t.m.cfg.DetachedLimit
	t.mu.Unlock()
	if late {
		t.m.cfg.Logger.Info("terminal ended, nobody was attached for too long",
			"terminal", t.key.name, "limit", t.m.cfg.DetachedLimit.String())
		t.halt(disconnect.Attribution{})
	}
}

// shrink gives the terminal another size for a moment.
func (t *terminal) shrink() {
	t.mu.Lock()
	defer t.mu.Unlock()
	size := t.size
	if size.Rows > 1 {
		size.Rows--
	} else {
		size.Cols++
	}
	_ = t.tty.Resize(size)
}

func (t *terminal) unshrink() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.tty.Resize(t.size)
}

// halt has the program ended, and reports whether it was not over before; a is why its
// viewers are sent away, if it is not zero.
func (t *terminal) halt(a disconnect.Attribution) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping {
		return false
	}
	late := t.hasExited() // asked before the program is told to
	t.stopping, t.ending = true, a
	close(t.stop)
	if !a.IsZero() {
		for _, v := range slices.Clone(t.viewers) {
			t.oust(v, a)
		}
	}
	return !late
}

// kill ends the program at once.
func (t *terminal) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.killing {
		t.killing = true
		close(t.hard)
	}
}

// end hangs up, and kills what does not mind.
func (t *terminal) end() {
	hangUp(t.cmd.Process.Pid)
	_ = t.tty.Close() // hangs up the job in the foreground, which has a group of its own
	timer := time.NewTimer(t.m.cfg.KillGrace)
	defer timer.Stop()
	select {
	case <-t.exited:
		return
	case <-timer.C:
	case <-t.hard:
	}
	killGroup(t.cmd.Process.Pid)
	<-t.exited
}

// info describes the terminal for a list.
func (t *terminal) info() Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := Info{
		Name: t.key.name, Command: t.command, Began: t.began, Viewers: len(t.viewers),
		Columns: int(t.size.Cols), Rows: int(t.size.Rows), Title: disconnect.Scrub(cmp.Or(t.modes.title, t.modes.icon)),
	}
	if !t.detached.IsZero() {
		at := t.detached
		info.Detached = &at
	}
	return info
}

func appendMode(dst []byte, mode uint16) []byte {
	return restoreSet(dst, "\x1b[?", map[uint16]bool{mode: true}, true)
}

func attribute(r disconnect.Reason, i disconnect.Initiator, detail string) disconnect.Attribution {
	return disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: r, Initiator: i, Detail: detail}
}
