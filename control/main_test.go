package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"fairlead.dev/fairlead/control/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/wsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// world is a control server behind a real HTTP server on loopback, and in front of
// it a TCP proxy that can misbehave:
//
//	Dial ── proxy ── httptest.Server ── Server
type world struct {
	server *Server
	http   *httptest.Server
	proxy  *proxy
	links  chan *Link
	ended  chan Ending
	held   chan error // causes of the contexts of test RPCs that ended
}

func newWorld(t *testing.T, change func(*ServerOptions)) *world {
	t.Helper()
	w := &world{links: make(chan *Link, 1000), ended: make(chan Ending, 1000), held: make(chan error, 1000)}
	opts := ServerOptions{
		Instance: "server-1", Version: "v-server",
		Register: func(r grpc.ServiceRegistrar) { r.RegisterService(holdService(w.held), nil) },
		OnEnd:    func(_ *Link, e Ending) { w.ended <- e },
	}
	if change != nil {
		change(&opts)
	}
	w.server = NewServer(opts)
	w.http = httptest.NewServer(http.HandlerFunc(w.serve))
	w.proxy = newProxy(t, w.http.Listener.Addr().String())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w.proxy.close()
		w.server.Close(ctx, goodbye(disconnect.ServerShutdown, disconnect.Server, "test is over"))
		w.http.Close()
	})
	return w
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/prefix"+Path {
		http.NotFound(rw, r)
		return
	}
	id := Identity{Kind: AgentPeer, ID: "workspace-1", Principal: "alice", TokenID: "t1", ConnectionID: "c-1"}
	switch r.Header.Get("Authorization") {
	case "Bearer agent":
	case "Bearer client":
		id.Kind = ClientPeer
	default:
		wsconn.ErrorHeader(rw.Header(), disconnect.AuthFailed)
		http.Error(rw, "unknown token", http.StatusUnauthorized)
		return
	}
	if l, err := w.server.Accept(rw, r, id); err == nil {
		w.links <- l
	}
}

func (w *world) options(token string) DialOptions {
	o := DialOptions{
		AccessURL: &url.URL{Scheme: "http", Host: w.proxy.addr(), Path: "/prefix/"},
		Token:     token, Instance: token + "-1", Version: "v-" + token,
		ConnectType: disconnect.ServerToAgent, Self: disconnect.Agent, Peer: disconnect.Server,
	}
	if token == "client" {
		o.ConnectType, o.Self = disconnect.ClientToServer, disconnect.Client
	}
	return o
}

// dial opens a link and returns both of its ends.
func (w *world) dial(t *testing.T, opts DialOptions) (dialled, accepted *Link) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	dialled, err := Dial(ctx, opts)
	require.NoError(t, err)
	cancel() // must not matter any more
	t.Cleanup(func() { _ = dialled.Close(goodbye(disconnect.Graceful, opts.Self, "")) })
	return dialled, receive(t, w.links)
}

func goodbye(r disconnect.Reason, i disconnect.Initiator, detail string) disconnect.Goodbye {
	return disconnect.Goodbye{Reason: r, Initiator: i, Detail: detail}
}

func ended(t *testing.T, l *Link) Ending {
	t.Helper()
	receive(t, l.Done())
	return l.Ending()
}

// holdService has two methods: Hold sends a message and then holds until its context
// ends, Leave closes its own link.
func holdService(causes chan<- error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "test.Hold", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Hold", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
					return err
				}
				<-stream.Context().Done()
				causes <- context.Cause(stream.Context())
				return nil
			},
		}, {
			StreamName: "Leave", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				l, ok := LinkFrom(stream.Context())
				if !ok {
					return errors.New("no link")
				}
				causes <- l.Close(goodbye(disconnect.AuthFailed, disconnect.Server, "token withdrawn"))
				return nil
			},
		}},
	}
}

// open opens a test RPC over l.
func open(t *testing.T, ctx context.Context, l *Link, method string) grpc.ClientStream {
	t.Helper()
	stream, err := l.RPC().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Hold/"+method)
	require.NoError(t, err)
	return stream
}

// hold opens the test RPC Hold over l and waits for its message.
func hold(t *testing.T, ctx context.Context, l *Link) grpc.ClientStream {
	t.Helper()
	stream := open(t, ctx, l, "Hold")
	require.NoError(t, stream.RecvMsg(&emptypb.Empty{}))
	return stream
}

// proxy is a TCP proxy on loopback that can stop forwarding, cut and reset.
type proxy struct {
	listener net.Listener
	backend  string
	frozen   chan struct{}
	stop     chan struct{}
	running  sync.WaitGroup

	mu    sync.Mutex // guards conns and passed
	conns []*net.TCPConn
	// passed is closed when the next long chunk has been forwarded.
	passed chan struct{}
}

func newProxy(t *testing.T, backend string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, backend: backend, frozen: make(chan struct{}), stop: make(chan struct{})}
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.forward(conn.(*net.TCPConn))
		}
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) forward(front *net.TCPConn) {
	conn, err := net.Dial("tcp", p.backend)
	if err != nil {
		_ = front.Close()
		return
	}
	back := conn.(*net.TCPConn)
	p.mu.Lock()
	p.conns = append(p.conns, front, back)
	p.mu.Unlock()
	for _, pair := range [][2]*net.TCPConn{{front, back}, {back, front}} {
		p.running.Go(func() { p.copy(pair[0], pair[1]) })
	}
}

func (p *proxy) copy(from, to *net.TCPConn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-p.frozen:
			<-p.stop
			return
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		p.mu.Lock()
		if p.passed != nil && n > 200 { // everything else that the tests send is shorter
			close(p.passed)
			p.passed = nil
		}
		p.mu.Unlock()
	}
}

// nextLong returns a channel that is closed when a chunk of more than 200 bytes has
// been forwarded.
func (p *proxy) nextLong() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed = make(chan struct{})
	return p.passed
}

// freeze makes the proxy swallow everything without closing anything.
func (p *proxy) freeze() { close(p.frozen) }

// cut closes all connections, as the kernel does for a killed process.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// reset closes all connections with a TCP reset.
func (p *proxy) reset() {
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.SetLinger(0)
	}
	p.mu.Unlock()
	p.cut()
}

func (p *proxy) close() {
	_ = p.listener.Close()
	close(p.stop)
	p.cut()
	p.running.Wait()
}

// rawUpgrade opens the WebSocket below a link, without a link.
func (w *world) rawUpgrade(t *testing.T) *wsconn.Conn {
	t.Helper()
	conn, err := wsconn.Dial(testContext(t), strings.TrimSuffix(w.options("agent").AccessURL.String(), "/")+Path, wsconn.DialOptions{
		Header:       http.Header{"Authorization": {"Bearer agent"}, InstanceHeader: {"raw"}},
		Subprotocols: []string{Subprotocol},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// newMuteServer upgrades to the sub-protocol and then says nothing.
func newMuteServer(t *testing.T) *url.URL {
	t.Helper()
	var conns sync.WaitGroup
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := wsconn.Accept(w, r, wsconn.AcceptOptions{Subprotocols: []string{Subprotocol}})
		if err == nil {
			conns.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	}))
	t.Cleanup(func() {
		srv.Close()
		conns.Wait()
	})
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	return u
}

func goodbyeFrame(g disconnect.Goodbye) *proto.LinkFrame {
	return &proto.LinkFrame{Frame: &proto.LinkFrame_Goodbye{Goodbye: wire.FromGoodbye(g)}}
}
