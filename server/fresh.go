package server

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// freshConns knows the connections that have not sent a whole request yet. On
// shutdown net/http waits for those as if they were at work; a port scan, or a
// browser that connects ahead of need, would hold up every stop.
type freshConns struct {
	mu    sync.Mutex // guards conns and over
	conns map[net.Conn]struct{}
	over  bool

	silent atomic.Int64 // how many ended that way
}

// note is the server's ConnState hook.
func (f *freshConns) note(conn net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != http.StateNew {
		if _, fresh := f.conns[conn]; fresh && state == http.StateClosed {
			f.silent.Add(1)
		}
		delete(f.conns, conn)
		return
	}
	if f.over {
		_ = conn.Close() // nobody listens on either side
		return
	}
	if f.conns == nil {
		f.conns = make(map[net.Conn]struct{})
	}
	f.conns[conn] = struct{}{}
}

// close closes them, and every one that comes after.
func (f *freshConns) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for conn := range f.conns {
		_ = conn.Close() // nothing was said, nothing is lost
	}
}
