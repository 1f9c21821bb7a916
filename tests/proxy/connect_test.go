package proxy

import (
	"bufio"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// connectProxy is a forward proxy that knows CONNECT only. It alone knows where the
// name fairlead.test leads, so that whatever arrives there has come through it.
type connectProxy struct {
	t      *testing.T
	ln     net.Listener
	target string
	wants  string // the Proxy-Authorization that lets pass; empty: anybody

	mu    sync.Mutex // guards below
	seen  []string   // targets of CONNECT
	conns []net.Conn
	work  sync.WaitGroup
}

func newConnectProxy(t *testing.T, target, user, password string) *connectProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &connectProxy{t: t, ln: ln, target: target}
	if user != "" {
		p.wants = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	p.work.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.cut()
		p.work.Wait()
	})
	return p
}

func (p *connectProxy) accept() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.hold(conn)
		p.work.Go(func() { p.serve(conn) })
	}
}

func (p *connectProxy) hold(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conn)
}

// cut closes every connection.
func (p *connectProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}

func (p *connectProxy) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.seen = append(p.seen, req.Method+" "+req.Host)
	p.mu.Unlock()
	switch {
	case p.wants != "" && req.Header.Get("Proxy-Authorization") != p.wants:
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	case req.Method != http.MethodConnect || req.Host != "fairlead.test:443":
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		return
	}
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	p.hold(up)
	defer up.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(up, r)
		_ = up.Close()
	})
	_, _ = io.Copy(conn, up)
	_ = conn.Close()
	both.Wait()
}

func (p *connectProxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

// TestThroughConnectProxy: API, control and relay go through the proxy of the
// environment, on the side of client and agent.
func TestThroughConnectProxy(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	cert, key := m.certify("fairlead.test", "localhost")
	_, port, err := net.SplitHostPort(m.Address)
	require.NoError(t, err)
	proxy := newConnectProxy(t, m.Address, "ada", "s3cret")
	m.StartServer("--tls-cert", cert, "--tls-key", key, "--access-url", "https://fairlead.test")

	const url = "https://fairlead.test"
	require.Contains(t, m.check(url).requireFailed(t, "connection"), `the name "fairlead.test" does not resolve`)
	plain := m.Env
	m.Env = append(plain[:len(plain):len(plain)], "HTTPS_PROXY=http://"+proxy.ln.Addr().String())
	require.Contains(t, m.check(url).requireFailed(t, "connection"), "Proxy Authentication Required")
	r := m.Run("login", url, "--code", site.OneTimeCode(m.Server))
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "through the proxy http://"+proxy.ln.Addr().String())

	m.Env = append(plain[:len(plain):len(plain)], "HTTPS_PROXY=http://ada:s3cret@"+proxy.ln.Addr().String())
	before := proxy.count()
	m.check(url).requireFailed(t)
	m.settle(url)
	m.AwaitAgent("online")
	run := m.Run("ssh", "dev", "--", "echo through; exit 7")
	require.Equal(t, "through\n", run.Stdout, run.Stderr)
	require.Equal(t, 7, run.Code)
	require.GreaterOrEqual(t, proxy.count()-before, 6, "API, control and relay, of client and agent")
	require.NotContains(t, m.Agent.Stderr.String()+m.Server.Stderr.String()+run.Stderr, "s3cret")

	// The agent finds back through the proxy when that drops everything.
	proxy.cut()
	m.Agent.Stderr.AwaitText(t, "disconnected from server")
	m.AwaitAgent("online")
	require.Equal(t, 0, m.Run("ssh", "dev", "--", "true").Code)

	// NO_PROXY: there is nobody else who knows that name.
	m.Setenv("NO_PROXY=fairlead.test")
	require.Contains(t, m.check(url).requireFailed(t, "connection"), "does not resolve")
	// localhost never goes through a proxy.
	m.Env = append(plain[:len(plain):len(plain)], "HTTPS_PROXY=http://127.0.0.1:1")
	require.Contains(t, m.check("https://localhost:"+port).requireFailed(t, "access_url"), "the server tells others https://fairlead.test, which does not lead to it")
}
