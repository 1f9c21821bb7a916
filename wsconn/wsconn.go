// Package wsconn is a WebSocket as a net.Conn of binary messages that remembers how
// it ended: the close code, the first raw error or the own act, whichever came
// first. It is the only importer of the WebSocket library and judges close codes.
//
// It is not for text messages or browsers' message borders, it authenticates nobody,
// and it never reconnects.
package wsconn

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// HTTPReason is the response header that carries the number of a disconnect reason
// with every HTTP error of a Fairlead server. An answer without it is not ours.
const HTTPReason = "X-Disconnect-Reason"

var errSkeleton = errors.New("wsconn: not built yet")

// DialOptions are the options of [Dial].
type DialOptions struct {
	Header       http.Header
	Subprotocols []string
	HTTPClient   *http.Client
}

// AcceptOptions are the options of [Accept].
type AcceptOptions struct {
	Subprotocols []string
}

// DialError is a failed [Dial]. Status is 0 when there was no HTTP answer at all.
type DialError struct {
	Status int
	Header http.Header
	Body   string
	Err    error
}

// Error implements error.
func (e *DialError) Error() string { return e.Err.Error() }

// Unwrap returns the underlying error.
func (e *DialError) Unwrap() error { return e.Err }

// Ending is how a connection ended.
type Ending struct {
	Local bool
	Code  int
	Text  string
	Err   error
}

// Conn is a WebSocket as a net.Conn.
type Conn struct{}

var _ net.Conn = (*Conn)(nil)

// Dial opens a WebSocket.
func Dial(ctx context.Context, url string, opts DialOptions) (*Conn, error) { return nil, errSkeleton }

// Accept upgrades a request.
func Accept(w http.ResponseWriter, r *http.Request, opts AcceptOptions) (*Conn, error) {
	return nil, errSkeleton
}

// CloseWith closes with a code.
func (c *Conn) CloseWith(code int, text string) error { return errSkeleton }

// Ending returns how the connection ended; the zero value while it lives.
func (c *Conn) Ending() Ending { return Ending{} }

// Ping waits for the peer's pong.
func (c *Conn) Ping(ctx context.Context) error { return errSkeleton }

// Subprotocol returns the agreed sub-protocol.
func (c *Conn) Subprotocol() string { return "" }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return 0, errSkeleton }

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) { return 0, errSkeleton }

// Close implements net.Conn.
func (c *Conn) Close() error { return nil }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return nil }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return nil }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return nil }

// Judge says what an ending means for a connection of layer t between self and peer.
func Judge(e Ending, t disconnect.ConnectType, self, peer disconnect.Initiator) disconnect.Attribution {
	return disconnect.Judge(e.Err, t, self)
}
