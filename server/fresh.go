package server

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
)

// freshConns knows the connections that have not sent a whole request yet. On
// shutdown net/http waits for those as if they were at work; a port scan, or a
// browser that connects ahead of need, would hold up every stop.
type freshConns struct {
	// exempt are the addresses that stand for many: trusted proxies.
	exempt func(netip.Addr) bool

	mu      sync.Mutex // guards conns, sources and over
	conns   map[net.Conn]netip.Prefix
	sources map[netip.Prefix]int // how many of conns are an address'
	over    bool

	silent atomic.Int64 // how many ended that way
}

// note is the server's ConnState hook.
func (f *freshConns) note(conn net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != http.StateNew {
		f.forgetLocked(conn, state)
		return
	}
	from := source(conn.RemoteAddr().String())
	if f.over || f.sources[from] >= maxFresh && (f.exempt == nil || !f.exempt(from.Addr())) {
		if !f.over {
			f.silent.Add(1)
		}
		_ = conn.Close() // nobody listens on either side, or one address takes it all
		return
	}
	if f.conns == nil {
		f.conns, f.sources = make(map[net.Conn]netip.Prefix), make(map[netip.Prefix]int)
	}
	f.conns[conn] = from
	f.sources[from]++
}

// forgetLocked takes out a connection that has sent a request, or is gone.
func (f *freshConns) forgetLocked(conn net.Conn, state http.ConnState) {
	from, fresh := f.conns[conn]
	if !fresh {
		return
	}
	if state == http.StateClosed {
		f.silent.Add(1)
	}
	delete(f.conns, conn)
	if f.sources[from]--; f.sources[from] == 0 {
		delete(f.sources, from)
	}
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
