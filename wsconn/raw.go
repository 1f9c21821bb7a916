package wsconn

import (
	"io"
	"net"
	"sync/atomic"
)

// raw is the transport below the WebSocket library. It records the transport's own
// first error, which the library hides behind net.ErrClosed once it has closed.
type raw struct {
	rwc    io.ReadWriteCloser
	rec    *record
	closed atomic.Bool
}

// Read implements io.Reader.
func (r *raw) Read(p []byte) (int, error) {
	n, err := r.rwc.Read(p)
	if err != nil && !r.closed.Load() {
		r.rec.raw(err)
	}
	return n, err
}

// Write implements io.Writer.
func (r *raw) Write(p []byte) (int, error) {
	n, err := r.rwc.Write(p)
	if err != nil && !r.closed.Load() {
		r.rec.raw(err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *raw) Close() error {
	r.closed.Store(true)
	return r.rwc.Close()
}

// cut ends the transport without waiting for anything: closing a TLS connection
// whose peer does not read would wait seconds to send its last alert.
func (r *raw) cut(under net.Conn) {
	r.closed.Store(true)
	if t, ok := under.(interface{ NetConn() net.Conn }); ok {
		_ = t.NetConn().Close()
	}
	_ = r.rwc.Close()
}
