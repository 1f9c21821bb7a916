package control

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"fairlead.dev/fairlead/wsconn"
)

const (
	// maxMessage bounds one message in either direction, in bytes.
	maxMessage = 4 << 20
	// writeBuffer is gRPC's write buffer in bytes, shared when idle. gRPC reads
	// without a buffer: the WebSocket has one.
	writeBuffer = 4096
	// idleBuffer is the size of each of the WebSocket's buffers at the accepting side,
	// in bytes: links are many, and what they mostly carry is heartbeats.
	idleBuffer = 512
	// window is the flow-control window of a stream and of a link, in bytes. It is
	// static, for gRPC measures bandwidth with pings of its own otherwise.
	window = 64 << 10
	// maxStreams bounds the RPCs that a dialling peer has open at once.
	maxStreams = 64
)

// linkConn is the socket as gRPC sees it. It tells the link of every byte and of the
// end.
type linkConn struct {
	*wsconn.Conn
	link *Link
}

// Read implements net.Conn.
func (c *linkConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.link.hear()
	}
	if err != nil {
		c.link.socketEnded()
	}
	return n, err
}

// Write implements net.Conn.
func (c *linkConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.link.unwritable.Store(true)
	}
	return n, err
}

// Close implements net.Conn.
func (c *linkConn) Close() error {
	c.link.transportClosed()
	return nil
}

// gRPC sets deadlines for its handshake and its closing. The link has clocks of its
// own for both, and a deadline would pass for a cause.

// SetDeadline does nothing.
func (*linkConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (*linkConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (*linkConn) SetWriteDeadline(time.Time) error { return nil }

// errOneConn fails every attempt of gRPC to connect again: a link never does.
var errOneConn = errors.New("the control link has ended")

func dialGRPC(l *Link) (*grpc.ClientConn, error) {
	var mu sync.Mutex // guards taken
	taken := false
	once := func(context.Context, string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if taken {
			return nil, errOneConn
		}
		taken = true
		return &linkConn{Conn: l.conn, link: l}, nil
	}
	return grpc.NewClient("passthrough:///control",
		grpc.WithContextDialer(once),
		grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the WebSocket has TLS
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.DefaultConfig,
			MinConnectTimeout: math.MaxInt32 * time.Millisecond, // silence ends it before
		}),
		grpc.WithReadBufferSize(0),
		grpc.WithWriteBufferSize(writeBuffer),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
}

func newGRPCServer() *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(linkCredentials{}),
		grpc.UnaryInterceptor(unaryWithLink),
		grpc.StreamInterceptor(streamWithLink),
		grpc.WaitForHandlers(true),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ReadBufferSize(0),
		grpc.WriteBufferSize(writeBuffer),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}),
	)
}

// linkCredentials carry the link into the context of its RPCs. What they vouch for
// was checked before the link was accepted.
type linkCredentials struct{}

type linkAuth struct {
	credentials.CommonAuthInfo
	link *Link
}

// AuthType implements credentials.AuthInfo.
func (linkAuth) AuthType() string { return "link" }

// ServerHandshake implements credentials.TransportCredentials.
func (linkCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*linkConn)
	if !ok {
		return nil, nil, errors.New("not a control link")
	}
	return c, linkAuth{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		link:           c.link,
	}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (linkCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for accepting only")
}

// Info implements credentials.TransportCredentials.
func (linkCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "link"}
}

// Clone implements credentials.TransportCredentials.
func (c linkCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (linkCredentials) OverrideServerName(string) error { return nil }

// chanListener hands accepted links to the gRPC server.
type chanListener struct {
	conns  chan net.Conn
	closed event
}

func newChanListener() *chanListener {
	return &chanListener{conns: make(chan net.Conn), closed: newEvent()}
}

// put hands over c and reports whether the listener still took it.
func (l *chanListener) put(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed.done():
		return false
	}
}

// Accept implements net.Listener.
func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed.done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *chanListener) Close() error {
	l.closed.happen()
	return nil
}

// Addr implements net.Listener.
func (l *chanListener) Addr() net.Addr { return &net.UnixAddr{Name: "control", Net: "link"} }
