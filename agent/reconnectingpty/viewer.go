package reconnectingpty

import (
	"bytes"
	"io"
	"os"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
)

// Viewer is one attachment to a terminal. Read is for one goroutine at a time;
// everything else is safe for concurrent use.
type Viewer struct {
	t    *terminal
	wake chan struct{} // has one place: there is something to read
	gone chan struct{} // closed when it is not attached any more; why is set before

	// Guarded by t.mu:
	size  pty.Size
	why   disconnect.Attribution // zero: it left by itself, or the program ended
	at    uint64                 // where on the stream it reads
	since time.Time              // when it last asked for something, or could have
	waits bool                   // a Read waits for something new
	stale bool                   // it has to be shown the state before anything else
	shown bool                   // it was shown one before

	first []byte // what Read returns before the stream
}

// Read returns what the terminal is to show. It returns io.EOF once the attachment is
// over, and before that all that the program wrote, if that is why.
func (v *Viewer) Read(b []byte) (int, error) {
	t := v.t
	for {
		t.mu.Lock()
		n, done := v.next(b)
		t.mu.Unlock()
		switch {
		case n > 0:
			signal(t.read)
			return n, nil
		case done:
			return 0, io.EOF
		}
		signal(t.read)
		select {
		case <-v.wake:
		case <-v.gone:
			return 0, io.EOF
		}
	}
}

// next copies what there is to read. t.mu is held.
func (v *Viewer) next(b []byte) (n int, done bool) {
	t := v.t
	select {
	case <-v.gone:
		return 0, true
	default:
	}
	v.since = time.Now()
	if v.stale || (v.at < t.stream.low && len(v.first) == 0) {
		v.stale = false
		v.first, v.at = t.show(v)
	}
	if len(v.first) > 0 {
		n = copy(b, v.first)
		if v.first = v.first[n:]; len(v.first) == 0 {
			v.first = nil // it may be large
		}
		return n, false
	}
	if n = t.stream.read(b, v.at); n > 0 {
		v.at += uint64(n)
		return n, false
	}
	select {
	case <-t.dead:
		return 0, true
	default:
	}
	v.waits = true
	return 0, false
}

// Write types keys. It waits while the program does not read.
func (v *Viewer) Write(b []byte) (int, error) {
	select {
	case <-v.gone: // not by chance still taken
		return 0, os.ErrClosed
	default:
	}
	select {
	case v.t.keys <- bytes.Clone(b):
		return len(b), nil
	case <-v.t.exited:
		return 0, os.ErrClosed
	case <-v.gone:
		return 0, os.ErrClosed
	}
}

// Resize makes this the viewer whose size counts.
func (v *Viewer) Resize(size pty.Size) error {
	t := v.t
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.viewers, v)
	if i < 0 {
		return os.ErrClosed
	}
	t.viewers = append(slices.Delete(t.viewers, i, i+1), v)
	v.size = size
	if !v.stale {
		t.resize(size)
	}
	return nil
}

// Refresh has Read return the state of the terminal anew, for a viewer whose screen shows
// something else.
func (v *Viewer) Refresh() {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	v.stale, v.first = true, nil
	v.waits, v.since = false, time.Now()
	signal(v.wake)
}

// Wait returns when the program has ended, with its state, or the attachment has: then
// the state is nil and why says who ended it; why is zero after Close.
func (v *Viewer) Wait() (state *os.ProcessState, why disconnect.Attribution) {
	select {
	case <-v.gone:
	case <-v.t.exited:
		v.t.mu.Lock()
		defer v.t.mu.Unlock()
		select {
		case <-v.gone: // before
		default:
			return v.t.state, disconnect.Attribution{}
		}
		return nil, v.why
	}
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	return nil, v.why
}

// Close detaches. The program goes on.
func (v *Viewer) Close() error {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	v.t.remove(v)
	return nil
}
