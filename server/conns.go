package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// httpConns knows the connections that are not (yet) a control link or a relay's, and
// bounds how many one address has. A newcomer beyond that takes the place of the one
// that has been idle for longest, which a client opens anew when it needs it: who lives
// behind one address with many others is not locked out.
//
// It also knows which of them have not sent a whole request yet. On shutdown net/http
// waits for those as if they were at work; a port scan, or a browser that connects ahead
// of need, would hold up every stop.
type httpConns struct {
	// exempt are the addresses that stand for many: trusted proxies.
	exempt func(netip.Addr) bool
	// failed is told of who said something that was no request: within lasted, by which the
	// server may have lost patience. It must not block.
	failed func(remote string, lasted time.Duration)

	mu      sync.Mutex // guards conns, sources and over
	conns   map[net.Conn]*httpConn
	sources map[netip.Prefix]*httpSource
	over    bool

	silent atomic.Int64 // how many ended without a whole request
}

// httpConn is one connection.
type httpConn struct {
	from  netip.Prefix
	began time.Time
	fresh bool          // nothing came of it yet
	heeds bool          // a request of it was served
	idle  *list.Element // its place in its source's idle; nil while it is not idle
}

// httpSource is one address.
type httpSource struct {
	conns int
	idle  list.List // of net.Conn, the longest idle first
}

// note is the server's ConnState hook.
func (h *httpConns) note(conn net.Conn, state http.ConnState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if state == http.StateNew {
		h.addLocked(conn)
		return
	}
	c := h.conns[conn]
	if c == nil {
		return // it was refused
	}
	src := h.sources[c.from]
	if c.idle != nil {
		src.idle.Remove(c.idle)
		c.idle = nil
	}
	switch state {
	case http.StateActive:
		c.fresh = false
	case http.StateIdle:
		c.fresh, c.idle = false, src.idle.PushBack(conn)
	case http.StateHijacked, http.StateClosed:
		switch {
		case state != http.StateClosed || c.heeds || h.over:
		case c.fresh:
			h.silent.Add(1)
		case h.failed != nil:
			h.failed(conn.RemoteAddr().String(), time.Since(c.began))
		}
		delete(h.conns, conn)
		if src.conns--; src.conns == 0 {
			delete(h.sources, c.from)
		}
	}
}

type connKey struct{}

// context is the server's ConnContext hook: a request knows its connection.
func (h *httpConns) context(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// served takes note that a request is one.
func (h *httpConns) served(r *http.Request) {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[conn]; c != nil {
		c.heeds = true
	}
}

func (h *httpConns) addLocked(conn net.Conn) {
	remote := conn.RemoteAddr().String()
	from := source(remote)
	src := h.sources[from]
	full := src != nil && src.conns >= maxConns && !h.exempted(remote)
	switch {
	case h.over:
		_ = conn.Close() // nobody listens on either side
		return
	case full && src.idle.Len() == 0:
		h.silent.Add(1)
		_ = conn.Close() // one address takes it all
		return
	case full:
		h.makeRoomLocked(src)
	}
	if src == nil {
		if h.conns == nil {
			h.conns, h.sources = make(map[net.Conn]*httpConn), make(map[netip.Prefix]*httpSource)
		}
		src = &httpSource{}
		h.sources[from] = src
	}
	src.conns++
	h.conns[conn] = &httpConn{from: from, began: time.Now(), fresh: true}
}

func (h *httpConns) exempted(remote string) bool {
	addr, _ := netip.ParseAddrPort(remote)
	return h.exempt != nil && h.exempt(addr.Addr())
}

// makeRoomLocked closes the connection of src that has been idle for longest. It
// counts until net/http has noticed.
func (h *httpConns) makeRoomLocked(src *httpSource) {
	conn := src.idle.Remove(src.idle.Front()).(net.Conn)
	h.conns[conn].idle = nil
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // to say goodbye might take time, and nobody must wait
	}
	_ = conn.Close()
}

// close closes the fresh ones, and every one that comes after.
func (h *httpConns) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for conn, c := range h.conns {
		if c.fresh {
			_ = conn.Close() // nothing was said, nothing is lost
		}
	}
}
