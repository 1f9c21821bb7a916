package tailnet

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

func TestRelayDialerWaitsForTheFirstToken(t *testing.T) {
	relay := newWSRelay(t)
	d := NewRelayDialer(relay.access, &http.Client{Transport: &http.Transport{}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := d.Dial(ctx, nil)
	require.ErrorIs(t, err, errNoRelayToken)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	var dial sync.WaitGroup
	dial.Go(func() {
		conn, err := d.Dial(t.Context(), &proto.DERPRegion{})
		if err == nil {
			err = conn.Close()
		}
		assert.NoError(t, err)
	})
	d.SetToken("")
	d.SetToken(relayTestToken)
	dial.Wait()
}

func TestRelayDialerJudgesRefusals(t *testing.T) {
	relay := newWSRelay(t)
	d := NewRelayDialer(relay.access, nil)
	d.SetRole(disconnect.ServerToAgent, disconnect.Agent)
	d.SetToken("expired")
	_, err := d.Dial(t.Context(), nil)
	a, ok := disconnect.FromError(err)
	require.True(t, ok)
	require.Equal(t, disconnect.AuthFailed, a.Reason)
	require.Equal(t, disconnect.ServerToAgent, a.ConnectType)
	require.Equal(t, disconnect.Server, a.Initiator)

	_, err = NewRelayDialer(parseURL(t, "http://127.0.0.1:1"), nil).withToken("x").Dial(t.Context(), nil)
	a, _ = disconnect.FromError(err)
	require.Equal(t, disconnect.ConnectionRefused, a.Reason)
}

func (d *RelayDialer) withToken(token string) *RelayDialer {
	d.SetToken(token)
	return d
}

func TestRelayDialerURL(t *testing.T) {
	for _, tc := range []struct{ access, region, want string }{
		{"https://fl.example.com", "", "https://fl.example.com/api/v1/relay"},
		{"https://example.com/team/fl/", "", "https://example.com/team/fl/api/v1/relay"},
		{"https://fl.example.com", "wss://eu.example.com/r", "wss://eu.example.com/r"},
		{"https://fl.example.com", "http://eu.example.com/r", ""},
		{"http://127.0.0.1:80", "http://10.0.0.1/r", ""},
		{"http://127.0.0.1:80", "http://127.0.0.1:81/r", "http://127.0.0.1:81/r"},
		{"http://10.0.0.2", "http://10.0.0.1/r", "http://10.0.0.1/r"},
		{"https://fl.example.com", "file:///etc/passwd", ""},
		{"https://fl.example.com", "https://", ""},
		{"https://fl.example.com", ":", ""},
	} {
		got, err := NewRelayDialer(parseURL(t, tc.access), nil).relayURL(&proto.DERPRegion{RelayUrl: tc.region})
		require.Equal(t, tc.want == "", err != nil, tc.region)
		require.Equal(t, tc.want, got)
	}
}

// proxy is a TCP forwarder that can freeze, with all connections left open, and die.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup
	gate     sync.RWMutex // held for writing while frozen
	frozen   bool         // the test's goroutine only

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, target: target}
	p.wg.Go(p.run)
	t.Cleanup(func() {
		p.thaw()
		require.NoError(t, l.Close())
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) run() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(out, in) })
		p.wg.Go(func() { p.copy(in, out) })
	}
}

func (p *proxy) copy(dst, src net.Conn) {
	defer dst.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.gate.RLock()
		//lint:ignore SA2001 it waits for the thaw
		p.gate.RUnlock()
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) freeze() {
	p.gate.Lock()
	p.frozen = true
}

func (p *proxy) thaw() {
	if p.frozen {
		p.gate.Unlock()
		p.frozen = false
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}
