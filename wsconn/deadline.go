package wsconn

import (
	"sync"
	"time"
)

// deadline is the deadline of one direction. If it passes during an operation,
// expire is called once per operation; if it passes between operations, the next
// ones fail until the deadline is moved.
type deadline struct {
	expire func()

	mu      sync.Mutex // guards timer, at, busy and expired
	timer   *time.Timer
	at      time.Time
	busy    int
	expired bool
}

// begin starts an operation; it reports false if the deadline has passed.
func (d *deadline) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.expired {
		return false
	}
	d.busy++
	return true
}

// passed reports whether the deadline has passed.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

// end ends an operation that begin allowed.
func (d *deadline) end() {
	d.mu.Lock()
	d.busy--
	d.mu.Unlock()
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at, d.expired = t, false
	if t.IsZero() {
		d.mu.Unlock()
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.mu.Unlock()
		d.fire()
		return
	}
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.fire)
	} else {
		d.timer.Reset(wait)
	}
	d.mu.Unlock()
}

// fire is the timer's function. A timer that was moved while it fired is stale.
func (d *deadline) fire() {
	d.mu.Lock()
	if d.at.IsZero() || time.Until(d.at) > 0 {
		d.mu.Unlock()
		return
	}
	d.expired = true
	busy := d.busy > 0
	d.mu.Unlock()
	if busy {
		d.expire()
	}
}
