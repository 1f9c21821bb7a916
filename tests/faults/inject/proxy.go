package inject

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Proxy passes TCP connections on from a host, as a reverse proxy before the server does,
// and can misbehave.
type Proxy struct {
	Address string // where it listens

	host     *netlab.Host
	target   string
	listener net.Listener
	tasks    sync.WaitGroup
	bad      atomic.Bool  // answers 502
	idle     atomic.Int64 // nanoseconds after which a silent connection is cut; 0: never

	mu    sync.Mutex // guards conns and over
	conns map[net.Conn]bool
	over  bool
}

// StartProxy listens on a host at an address as ":8080" and passes on to target. The
// caller closes it.
func StartProxy(h *netlab.Host, address, target string) (*Proxy, error) {
	p := &Proxy{host: h, target: target, conns: map[net.Conn]bool{}}
	var err error
	if p.listener, err = h.Listen(address); err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	_, port, err := net.SplitHostPort(p.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	p.Address = net.JoinHostPort(h.Addr.String(), port)
	p.tasks.Go(p.serve)
	return p, nil
}

// Close ends the proxy and all that passes through it.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.cut()
	p.tasks.Wait()
	return err
}

// BadGateway lets the proxy answer 502 to every new connection; with cut, those that are
// open end too. The undo passes on again.
func (p *Proxy) BadGateway(ctx context.Context, cut bool) (*Injection, error) {
	return inject(ctx, Truth{Fault: "proxy answers 502", Whom: p.host.Name, Detail: fmt.Sprintf("open ones cut: %t", cut)},
		func(context.Context) error {
			p.bad.Store(true)
			if cut {
				p.cut()
			}
			return nil
		},
		func(context.Context) error { p.bad.Store(false); return nil })
}

// CutIdle lets the proxy end each connection through which nothing passes for so long,
// either way. Those that are open count too.
func (p *Proxy) CutIdle(ctx context.Context, after time.Duration) (*Injection, error) {
	return inject(ctx, Truth{Fault: "proxy cuts idle connections", Whom: p.host.Name, Detail: after.String()},
		func(context.Context) error { p.idle.Store(int64(after)); return nil },
		func(context.Context) error { p.idle.Store(0); return nil })
}

func (p *Proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close() // whoever uses it sees that
	}
}

// keep notes a connection until forget; false when the proxy is over.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.conns[c] = true
	}
	return !p.over
}

func (p *Proxy) forget(c net.Conn) {
	_ = c.Close() // it may be closed already
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.tasks.Go(func() { p.pass(c) })
		}
	}
}

// pass serves one connection to its end.
func (p *Proxy) pass(from net.Conn) {
	defer p.forget(from)
	if !p.keep(from) {
		return
	}
	if p.bad.Load() {
		refuse(from)
		return
	}
	to, err := p.host.Dial(context.Background(), "tcp4", p.target)
	if err != nil {
		refuse(from)
		return
	}
	defer p.forget(to)
	if !p.keep(to) {
		return
	}
	var last atomic.Int64 // when something passed, by Now
	last.Store(int64(Now()))
	back := make(chan struct{})
	go func() { defer close(back); p.copy(from, to, &last) }()
	p.copy(to, from, &last)
	<-back
}

// copy carries one direction. Its end is the end of both, as proxies have it.
func (p *Proxy) copy(to, from net.Conn, last *atomic.Int64) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		// Look often, so that a new rule soon holds for what is idle already.
		_ = from.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := from.Read(buf)
		if n > 0 {
			last.Store(int64(Now()))
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			if idle := p.idle.Load(); idle == 0 || int64(Now())-last.Load() < idle {
				continue
			}
		}
		if err != nil {
			return
		}
	}
}

// refuse answers a request, whatever it is.
func refuse(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(patience))
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	_ = req.Body.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: 24\r\n\r\n<html>Bad Gateway</html>")
}
