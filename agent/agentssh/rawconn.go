package agentssh

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/sshend"
)

// settlingConn is a transport whose end the SSH layer hears of a little later, so that
// whatever was read before it has its effect first.
type settlingConn struct {
	*sshend.Conn
	hold      time.Duration
	armed     atomic.Bool // the handshake is over: hold errors back
	delivered atomic.Bool // the SSH layer was told that the transport ended
	broken    sync.Once   // a write failed
}

func newSettlingConn(nc net.Conn, hold time.Duration) *settlingConn {
	return &settlingConn{Conn: sshend.NewConn(nc), hold: hold}
}

// Read holds the transport's end back.
func (c *settlingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		return n, nil
	}
	if c.armed.Load() {
		t := time.NewTimer(c.hold)
		select {
		case <-t.C:
		case <-c.Closed():
		}
		t.Stop()
	}
	c.delivered.Store(true)
	return 0, err
}

// Write ends a transport that cannot be written to. The reader often gets the better
// error, so that it has some time to get it.
func (c *settlingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		// The transport below, for this is no Close of ours that makes what follows an echo.
		c.broken.Do(func() { time.AfterFunc(c.hold, func() { _ = c.Conn.Conn.Close() }) })
	}
	return n, err
}
