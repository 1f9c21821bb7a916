package sshend

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// Conn is a transport that keeps its own first error, for x/crypto/ssh blurs it: a reset
// may reach the SSH layer as io.EOF, and our own close too.
type Conn struct {
	net.Conn
	closeOnce sync.Once
	closed    chan struct{} // closed when Close is called

	mu                sync.Mutex // guards all below
	readErr, writeErr error
	wroteFirst        bool // writeErr came before readErr
}

// NewConn returns a Conn that owns nc.
func NewConn(nc net.Conn) *Conn { return &Conn{Conn: nc, closed: make(chan struct{})} }

// Read implements [net.Conn]. What came before an error is returned without it.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil || n > 0 {
		return n, nil
	}
	c.record(&c.readErr, err)
	return 0, err
}

// Write implements [net.Conn].
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		c.record(&c.writeErr, err)
	}
	return n, err
}

// Close closes the transport; errors after it are its echo and not recorded.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Closed is closed when Close was called.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// CloseWrite ends the stream to the other end, where the transport can; the stream from
// there goes on.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// record keeps the first error of its kind.
func (c *Conn) record(kept *error, err error) {
	select {
	case <-c.closed:
		return
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if *kept != nil || errors.Is(err, net.ErrClosed) && c.writeErr != nil {
		return
	}
	*kept = err
	if kept == &c.writeErr {
		c.wroteFirst = c.readErr == nil
	}
}

// Err returns how the transport failed, nil if it has not. The kernel gives a reset to
// whoever comes first, and io.EOF or EPIPE to the other: so the first error counts, but
// EPIPE only where there is nothing else. A reset counts whenever it was noted: one that
// follows the peer's end of stream would be an EPIPE (and ErrAborted in gVisor).
func (c *Conn) Err() error {
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
