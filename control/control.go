// Package control is the control link between two Fairlead processes: gRPC over one
// WebSocket, kept alive by heartbeats and ended by a goodbye, with a true account of
// how it ended. It judges gRPC statuses and the failures of dialling.
//
// It is not for packets between peers (tailnet), it knows no service but its own
// three frames, it never reconnects, and it decides nothing about who may connect.
package control

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"

	"fairlead.dev/fairlead/disconnect"
)

// Path, Subprotocol and InstanceHeader of the control link's upgrade request.
const (
	Path           = "/api/v1/control"
	Subprotocol    = "fairlead-control-v1"
	InstanceHeader = "X-Fairlead-Instance"
)

var errSkeleton = errors.New("control: not built yet")

// Kind is what kind of peer dialled.
type Kind uint8

// Kinds of peers.
const (
	AgentPeer  Kind = 1
	ClientPeer Kind = 2
)

// Identity is who dialled, as the server's authentication found.
type Identity struct {
	Kind      Kind
	ID        string // agent: workspace id; client: user id
	Principal string // user name, opaque
	TokenID   string
}

// Ending is how a link ended. Goodbye says that it was declared, by the peer or by
// us, and not inferred.
type Ending struct {
	disconnect.Attribution
	Goodbye bool
}

// Link is one control link, on either side.
type Link struct{}

// RPC returns the connection for generated stubs; nil on the accepting side.
func (l *Link) RPC() grpc.ClientConnInterface { return nil }

// Done is closed when the link's ending is known.
func (l *Link) Done() <-chan struct{} { return nil }

// Context is cancelled with an *disconnect.EndedError as cause when the link ends.
func (l *Link) Context() context.Context { return context.Background() }

// Ending returns how the link ended; the zero value while it lives.
func (l *Link) Ending() Ending { return Ending{} }

// Err returns the ending as a *disconnect.EndedError, or nil while the link lives.
func (l *Link) Err() error { return nil }

// Peer returns who dialled (accepting side only).
func (l *Link) Peer() Identity { return Identity{} }

// PeerInstance names the other process' life.
func (l *Link) PeerInstance() string { return "" }

// PeerVersion is the other end's software version, for logs.
func (l *Link) PeerVersion() string { return "" }

// RemoteAddr is the address of the other end of the socket.
func (l *Link) RemoteAddr() string { return "" }

// Close says goodbye and ends the link.
func (l *Link) Close(g disconnect.Goodbye) error { return errSkeleton }

// Abort cuts the link without a goodbye; a is recorded as its ending.
func (l *Link) Abort(a disconnect.Attribution) {}

// DialOptions are the options of [Dial].
type DialOptions struct {
	AccessURL         *url.URL
	Token             string
	Instance, Version string
	ConnectType       disconnect.ConnectType
	Self, Peer        disconnect.Initiator
	Logger            *slog.Logger
	HTTPClient        *http.Client
	Heartbeat         time.Duration // default 4 s
	Silence           time.Duration // default 12 s
}

// Dial opens a link.
func Dial(ctx context.Context, opts DialOptions) (*Link, error) { return nil, errSkeleton }

// ServerOptions are the options of [NewServer].
type ServerOptions struct {
	Logger            *slog.Logger
	Instance, Version string
	Register          func(grpc.ServiceRegistrar)
	OnEnd             func(*Link, Ending) // optional; called once per link
	Heartbeat         time.Duration       // default 4 s
	Silence           time.Duration       // default 12 s
}

// Server accepts links.
type Server struct{}

// NewServer returns a server that serves what opts.Register registers.
func NewServer(opts ServerOptions) *Server { return &Server{} }

// Accept upgrades r to a link of id.
func (s *Server) Accept(w http.ResponseWriter, r *http.Request, id Identity) (*Link, error) {
	return nil, errSkeleton
}

// Links returns the live links.
func (s *Server) Links() []*Link { return nil }

// Close says goodbye to every link and stops.
func (s *Server) Close(ctx context.Context, g disconnect.Goodbye) {}

// LinkFrom returns the link over which an RPC came, inside its handler.
func LinkFrom(ctx context.Context) (*Link, bool) { return nil, false }

// EndingOf returns the best evidence of why an RPC of l failed with rpcErr.
func EndingOf(l *Link, rpcErr error) error { return rpcErr }

// Judge says what the error of an RPC means.
func Judge(err error, t disconnect.ConnectType, self, peer disconnect.Initiator) disconnect.Attribution {
	return disconnect.Judge(err, t, self)
}

// JudgeDial says what a failed Dial means.
func JudgeDial(err error, t disconnect.ConnectType, self, peer disconnect.Initiator) disconnect.Attribution {
	return disconnect.Judge(err, t, self)
}
