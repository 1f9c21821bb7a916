package agentssh

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// recordingConn keeps the first error of the transport itself, for x/crypto/ssh
// blurs it: a reset may reach the SSH layer as io.EOF, and our own close too.
type recordingConn struct {
	net.Conn
	hold      time.Duration
	closeOnce sync.Once
	closed    chan struct{} // closed when Close is called
	armed     atomic.Bool   // the handshake is over: hold errors back
	delivered atomic.Bool   // the SSH layer was told that the transport ended

	mu                sync.Mutex // guards all below
	readErr, writeErr error
	wroteFirst        bool // writeErr came before readErr
}

func newRecordingConn(nc net.Conn, hold time.Duration) *recordingConn {
	return &recordingConn{Conn: nc, hold: hold, closed: make(chan struct{})}
}

// Read holds the transport's end back, so that whatever was read before it has its
// effect first.
func (c *recordingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil || n > 0 {
		return n, nil
	}
	c.record(&c.readErr, err)
	if c.armed.Load() {
		t := time.NewTimer(c.hold)
		select {
		case <-t.C:
		case <-c.closed:
		}
		t.Stop()
	}
	c.delivered.Store(true)
	return 0, err
}

// Write ends a transport that cannot be written to. The reader often gets the better
// error, so that it has some time to get it.
func (c *recordingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && c.record(&c.writeErr, err) {
		time.AfterFunc(c.hold, func() { _ = c.Conn.Close() })
	}
	return n, err
}

// Close closes the transport; errors after it are its echo and not recorded.
func (c *recordingConn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// record keeps the first error of its kind, and reports whether it did.
func (c *recordingConn) record(kept *error, err error) bool {
	select {
	case <-c.closed:
		return false
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if *kept != nil || errors.Is(err, net.ErrClosed) && c.writeErr != nil {
		return false
	}
	*kept = err
	if kept == &c.writeErr {
		c.wroteFirst = c.readErr == nil
	}
	return true
}

// err returns how the transport failed, nil if it has not. The kernel gives a reset to
// whoever comes first, and io.EOF or EPIPE to the other: so the first error counts, but
// EPIPE only where there is nothing else. A reset counts whenever it was noted: one that
// follows the peer's end of stream would be an EPIPE (and ErrAborted in gVisor).
func (c *recordingConn) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.writeErr == nil:
		return c.readErr
	case c.readErr == nil, errors.Is(c.writeErr, syscall.ECONNRESET):
		return c.writeErr
	case c.wroteFirst && !errors.Is(c.writeErr, syscall.EPIPE):
		return c.writeErr
	}
	return c.readErr
}
