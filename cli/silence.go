package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// silenceTick is how often the line is told the time.
	silenceTick = 500 * time.Millisecond
	// maxHeld bounds the beginning of a sequence that waits for its rest.
	maxHeld = 256
	// maxShown is how much of what was shown is kept, in bytes: some screens full.
	maxShown = 64 << 10
)

// silent is what the line asks of a workspace.
type silent interface {
	Interrupted() (since time.Time, interrupted bool)
	OutageLimit() time.Duration
	Known() string
}

// silenceLine stands between a session and its terminal. While the workspace is silent it
// shows so, on the first line of the screen, and keys are dropped: nobody would get them
// now, and what was typed at a screen that stands still should not run later. What the
// line covered is shown again afterwards if that is known (topRow), and is else painted anew
// by whoever repaint tells.
//
// The terminal never gets the beginning of a character or sequence without its rest, so
// that the line does not end up in the middle of one.
type silenceLine struct {
	out       io.Writer
	size      func() (columns, rows int)
	workspace silent
	repaint   chan struct{} // has one place
	quit      chan struct{}
	tasks     sync.WaitGroup // run

	mu      sync.Mutex // guards all below, and writes to out
	shown   bool
	dropped int    // keys, since it was shown
	held    []byte // the beginning of a sequence or character
	past    []byte // the end of what the session has shown at this size
	columns int    // this size
	rows    int
	covered string // what shows again what the line covers
	known   bool   // covered is that
}

// newSilenceLine begins to watch a workspace. Close it.
func newSilenceLine(out terminal, workspace silent) *silenceLine {
	l := &silenceLine{
		out: out.f, workspace: workspace, repaint: make(chan struct{}, 1), quit: make(chan struct{}),
		size: func() (columns, rows int) {
			columns, rows, err := out.size()
			if err != nil {
				return 80, 0
			}
			return columns, rows
		},
	}
	l.columns, l.rows = l.size()
	l.tasks.Go(l.run)
	return l
}

func (l *silenceLine) run() {
	ticker := time.NewTicker(silenceTick)
	defer ticker.Stop()
	for {
		select {
		case <-l.quit:
			return
		case <-ticker.C:
			l.look()
		}
	}
}

// look shows the line, or removes it.
func (l *silenceLine) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if columns, rows := l.size(); columns != l.columns || rows != l.rows {
		// Where everything is by now, each terminal decides for itself.
		l.columns, l.rows, l.past, l.known = columns, rows, nil, false
	}
	if since, is := l.workspace.Interrupted(); is {
		l.show(since)
	} else {
		l.clear()
	}
}

// close removes the line, and shows what was held back.
func (l *silenceLine) close() {
	close(l.quit)
	l.tasks.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	_, _ = l.out.Write(l.held)
	l.held = nil
}

// Write implements [io.Writer] for what the session shows. Something to show is a sign of
// life, whatever the clock says.
func (l *silenceLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	all := b
	if len(l.held) > 0 {
		all = append(l.held, b...)
	}
	whole := len(all) - unfinished(all)
	_, err := l.out.Write(all[:whole])
	l.remember(all[:whole])
	l.held = bytes.Clone(all[whole:])
	return len(b), err
}

// remember keeps what was shown, from a line on if it cannot be all. mu is held.
func (l *silenceLine) remember(b []byte) {
	if len(l.past)+len(b) <= 2*maxShown {
		l.past = append(l.past, b...)
		return
	}
	kept := l.past[len(l.past)-min(len(l.past), max(maxShown-len(b), 0)):]
	all := append(append(make([]byte, 0, 2*maxShown), kept...), b[len(b)-min(len(b), maxShown):]...)
	if i := bytes.IndexByte(all, '\n'); i >= 0 {
		all = all[i+1:]
	} else {
		all = nil
	}
	l.past = all
}

// Blocked implements [client.Gate].
func (l *silenceLine) Blocked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shown
}

// Dropped implements [client.Gate].
func (l *silenceLine) Dropped(keys []byte) {
	l.mu.Lock()
	l.dropped += countKeys(keys)
	l.mu.Unlock()
	l.look()
}

// countKeys is how often somebody pressed a key, at least; what terminals say by
// themselves, of the mouse and of the focus, does not count.
func countKeys(keys []byte) int {
	if len(keys) < 2 || keys[0] != 0x1b {
		return utf8.RuneCount(keys)
	}
	if keys[1] == '[' && len(keys) > 2 && bytes.IndexByte([]byte("<MIO"), keys[2]) >= 0 {
		return 0
	}
	return 1
}

// show paints the line over the first one of the screen. mu is held.
func (l *silenceLine) show(since time.Time) {
	if !l.shown {
		l.shown, l.dropped = true, 0
		l.covered, l.known = topRow(l.past, l.columns, l.rows)
	}
	text := silenceText(l.columns-1, since, l.workspace.Known(), l.workspace.OutageLimit()-time.Since(since), l.dropped)
	// Cursor, colours and origin are saved and restored; the cursor is where it was.
	fmt.Fprintf(l.out, "\x1b7\x1b[?6l\x1b[1;1H\x1b(B\x0f\x1b[0;7m%s\x1b[0m\x1b[K\x1b8", text)
}

// patienceText is short: seconds count when few minutes are left.
func patienceText(left time.Duration) string {
	if left < 3*time.Minute {
		return max(left, 0).Round(time.Second).String()
	}
	return strings.TrimSuffix(left.Round(time.Minute).String(), "0s")
}

// silenceText says as much as fits into so many columns: since when, what is known, what is
// tried, and what to do.
func silenceText(columns int, since time.Time, known string, left time.Duration, dropped int) string {
	keys := "; keys not sent"
	if dropped > 0 {
		keys += fmt.Sprintf(" (%d)", dropped)
	}
	const leave = "; ~. leaves"
	silent := "silent since " + since.Local().Format("15:04:05")
	trying, enough := "; trying for "+patienceText(left), ""
	if known != "" {
		known = ", " + known
		enough = silent + known + "; " + patienceText(left) + " left" + keys + leave
	}
	for _, text := range []string{
		"fairlead: " + silent + known + "; trying all ways for " + patienceText(left) + keys + leave,
		"fairlead: " + silent + known + trying + keys + leave,
		enough,
		"fairlead: " + silent + trying + keys + leave,
	} {
		if text != "" && len(text) <= columns {
			return text
		}
	}
	text := "fairlead: no answer" + keys + leave
	return text[:max(min(len(text), columns), 0)]
}

// clear removes the line and shows again what it covered, or has that painted anew. mu is
// held.
func (l *silenceLine) clear() {
	if !l.shown {
		return
	}
	l.shown = false
	under := ""
	if l.known {
		under = l.covered
	}
	_, _ = io.WriteString(l.out, "\x1b7\x1b[?6l\x1b[1;1H\x1b(B\x0f\x1b[0m\x1b[2K"+under+"\x1b[0m\x1b8")
	if l.known {
		return
	}
	select {
	case l.repaint <- struct{}{}:
	default:
	}
}

// unfinished is how many bytes at the end of b are the beginning of a character or of a
// control sequence whose rest is yet to come. Of a string so long that it cannot wait, it
// is none.
func unfinished(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			break
		}
	}
	tail := b[max(0, len(b)-maxHeld):]
	if i := bytes.LastIndexByte(tail, 0x1b); i >= 0 && !isWhole(tail[i:]) {
		if i == len(tail)-1 { // it may be the end of a string, which began before it
			if j := bytes.LastIndexByte(tail[:i], 0x1b); j >= 0 && !isWhole(tail[j:]) {
				i = j
			}
		}
		return len(tail) - i
	}
	return 0
}

// isWhole reports whether the sequence that b begins with ends in b.
func isWhole(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	switch b[1] {
	case '[':
		return bytes.IndexFunc(b[2:], func(r rune) bool { return r >= 0x40 && r <= 0x7e || r < 0x20 && r != 0x1b }) >= 0
	case ']', 'P', '_', '^', 'X': // a string, up to BEL or ESC \
		return bytes.IndexByte(b, 0x07) >= 0 || bytes.Contains(b[1:], []byte("\x1b\\"))
	}
	rest := bytes.TrimLeft(b[1:], " !\"#$%&'()*+,-./")
	return len(rest) > 0
}
