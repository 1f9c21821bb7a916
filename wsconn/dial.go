package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"fairlead.dev/fairlead/disconnect"
)

// HTTPReason is the response header in which a Fairlead server gives the number of a
// disconnect reason with every HTTP error, so that answers of proxies are known by
// its absence.
const HTTPReason = disconnect.HeaderReason

const subprotocolHeader = "Sec-WebSocket-Protocol"

// ErrSubprotocol is in the error of Dial and Accept when the two ends have no
// sub-protocol in common.
var ErrSubprotocol = errors.New("no common sub-protocol")

// ErrSpeaksTLS is in the error of Dial when plain HTTP was met by TLS.
var ErrSpeaksTLS = errors.New("that port speaks TLS, so its address begins with https")

// DialOptions are the options of [Dial]. All may be left out.
type DialOptions struct {
	// Header is sent with the upgrade request.
	Header http.Header
	// Subprotocols are offered in this order; the server must take one.
	Subprotocols []string
	// HTTPClient carries the request; redirects are never followed. Without one a
	// transport like http.DefaultTransport is used, with the environment's proxy.
	HTTPClient *http.Client
}

// DialError is a failed [Dial].
type DialError struct {
	// Status is the HTTP status, or 0 if there was no HTTP answer.
	Status int
	Header http.Header
	// Body is the beginning of the answer's body, scrubbed.
	Body string
	// Err is what failed. If the context had ended, its cause is in the chain.
	Err error
}

// Error returns the status and the body's beginning, or the transport's error.
func (e *DialError) Error() string {
	if e.Status == 0 || e.Status == http.StatusSwitchingProtocols {
		return "open websocket: " + e.Err.Error()
	}
	s := "open websocket: HTTP " + strconv.Itoa(e.Status)
	if text := http.StatusText(e.Status); text != "" {
		s += " " + text
	}
	if e.Body != "" {
		s += ": " + e.Body
	}
	return s
}

// Unwrap returns Err.
func (e *DialError) Unwrap() error { return e.Err }

// Reason returns the reason that a Fairlead server gave with its HTTP answer.
func (e *DialError) Reason() (disconnect.Reason, bool) {
	n, err := strconv.ParseUint(e.Header.Get(HTTPReason), 10, 8)
	if err != nil || n == 0 || !disconnect.Reason(n).Valid() {
		return disconnect.Unknown, false
	}
	return disconnect.Reason(n), true
}

// ErrorHeader sets the header that carries r in an HTTP error answer.
func ErrorHeader(h http.Header, r disconnect.Reason) {
	h.Set(HTTPReason, strconv.Itoa(int(r)))
}

// Dial opens a WebSocket at url (http, https, ws or wss). ctx bounds the opening
// only. Every failure is a *DialError.
func Dial(ctx context.Context, url string, opts DialOptions) (*Conn, error) {
	d := &dialer{rec: new(record), offered: opts.Subprotocols}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: d.gotConn})
	ws, resp, err := websocket.Dial(traced, url, &websocket.DialOptions{
		HTTPClient:   d.client(opts.HTTPClient),
		HTTPHeader:   opts.Header.Clone(),
		Subprotocols: opts.Subprotocols,
	})
	if err == nil {
		return newConn(ws, d.raw, d.rec, d.lastConn()), nil
	}
	failed := &DialError{Err: err}
	if spokeFirst(err) {
		failed.Err = fmt.Errorf("malformed HTTP: the server spoke first: %w", err)
	}
	if answeredTLS(err) {
		failed.Err = fmt.Errorf("%w: %w", ErrSpeaksTLS, err)
	}
	if ctx.Err() != nil {
		failed.Err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if errors.Is(err, ErrSubprotocol) {
		failed.Status = http.StatusSwitchingProtocols
	}
	if resp != nil {
		failed.Status, failed.Header = resp.StatusCode, resp.Header
		if resp.Body != nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
			failed.Body = disconnect.Scrub(string(body))
		}
	}
	return nil, failed
}

// spokeFirst recognises what net/http makes of a server that sends bytes before it
// was asked, such as the banner of an SSH server on that port.
func spokeFirst(err error) bool {
	return strings.Contains(err.Error(), "readLoopPeekFailLocked: %!w(<nil>)")
}

// answeredTLS recognises what net/http makes of a port that answers plain HTTP with a
// TLS alert.
func answeredTLS(err error) bool {
	return strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`)
}

// dialer puts the recorder between the HTTP transport and the WebSocket library.
type dialer struct {
	rec     *record
	offered []string
	base    http.RoundTripper
	raw     *raw

	mu   sync.Mutex // guards conn
	conn net.Conn
}

// defaultTransport keeps no connections: each upgrade takes one with it, and one
// that carried an error is not needed again.
var defaultTransport = sync.OnceValue(func() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t = t.Clone()
	t.DisableKeepAlives = true
	return t
})

func (d *dialer) client(base *http.Client) *http.Client {
	var client http.Client
	if base != nil {
		client = *base
	}
	d.base = client.Transport
	if d.base == nil {
		d.base = defaultTransport()
	}
	client.Transport = d
	// A redirect would carry the bearer token to wherever the answer says.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// RoundTrip implements http.RoundTripper.
func (d *dialer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, err
	}
	if len(d.offered) > 0 && !slices.Contains(d.offered, resp.Header.Get(subprotocolHeader)) {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: offered %q, answered %q", ErrSubprotocol, d.offered,
			disconnect.Scrub(resp.Header.Get(subprotocolHeader)))
	}
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
		d.raw = &raw{rwc: rwc, rec: d.rec}
		resp.Body = d.raw
	}
	return resp, nil
}

func (d *dialer) gotConn(info httptrace.GotConnInfo) {
	d.mu.Lock()
	d.conn = info.Conn
	d.mu.Unlock()
}

// lastConn returns the connection that carried the upgrade, which is ours since.
func (d *dialer) lastConn() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}
