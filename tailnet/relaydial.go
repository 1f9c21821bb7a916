package tailnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
)

const (
	// relayPath is where a server offers its embedded relay, below the access URL.
	relayPath = "/api/v1/relay"
	// relaySubprotocol is the WebSocket sub-protocol of a relay connection.
	relaySubprotocol = "derp"
)

// RelayDialer opens relay connections to the server behind an access URL, or to the
// relay that a region names (over https, or as plain as the server beyond loopback), with the relay token that the server last issued. Its
// Dial method is a [RelayDialFunc]. It is safe for concurrent use.
type RelayDialer struct {
	access *url.URL
	client *http.Client

	mu    sync.Mutex // guards token, ready, leg and self
	token string
	ready chan struct{} // closed when there is a token
	leg   disconnect.ConnectType
	self  disconnect.Initiator
}

// NewRelayDialer returns a dialer without a token, in the role of a client. The
// access URL may have a path. Of httpClient, which may be nil, the transport's proxy and
// TLS settings are used, but not its connections: a relay that was lost needs a new
// socket, not a pooled one that died unseen.
func NewRelayDialer(accessURL *url.URL, httpClient *http.Client) *RelayDialer {
	return &RelayDialer{
		access: accessURL,
		client: withFreshSockets(httpClient),
		ready:  make(chan struct{}),
		leg:    disconnect.ClientToServer,
		self:   disconnect.Client,
	}
}

func withFreshSockets(base *http.Client) *http.Client {
	if base == nil {
		return nil // wsconn's own client pools nothing
	}
	client := *base
	if shared, ok := client.Transport.(*http.Transport); ok {
		own := shared.Clone()
		own.DisableKeepAlives = true
		client.Transport = own
	}
	return &client
}

// SetRole says on which leg this end is, and who it is, for what is recorded of
// endings: (ServerToAgent, Agent) or (ClientToServer, Client), the default.
func (d *RelayDialer) SetRole(leg disconnect.ConnectType, self disconnect.Initiator) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leg, d.self = leg, self
}

// SetToken sets the token for all dials from now on. An empty token is ignored.
func (d *RelayDialer) SetToken(token string) {
	if token == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.token == "" {
		close(d.ready)
	}
	d.token = token
}

// Dial opens a relay connection for region. It waits for the first token as long as
// ctx allows. A failed dial gives a *[disconnect.EndedError] that says why.
func (d *RelayDialer) Dial(ctx context.Context, region *proto.DERPRegion) (net.Conn, error) {
	select {
	case <-d.ready:
	case <-ctx.Done():
		return nil, errors.Join(errNoRelayToken, context.Cause(ctx))
	}
	d.mu.Lock()
	token, leg, self := d.token, d.leg, d.self
	d.mu.Unlock()

	target, err := d.relayURL(region)
	if err != nil {
		return nil, err
	}
	ws, err := wsconn.Dial(ctx, target, wsconn.DialOptions{
		Header:       http.Header{"Authorization": {"Bearer " + token}},
		Subprotocols: []string{relaySubprotocol},
		HTTPClient:   d.client,
	})
	if err != nil {
		return nil, &disconnect.EndedError{
			Attribution: control.JudgeDial(err, leg, self, disconnect.Server),
			Err:         fmt.Errorf("dial relay: %w", err),
		}
	}
	if ws.Subprotocol() != relaySubprotocol {
		a := disconnect.Attribution{ConnectType: leg, Reason: disconnect.VersionMismatch, Initiator: self, Detail: "the relay does not speak " + relaySubprotocol}
		_ = ws.CloseWith(a.Goodbye().CloseCode())
		return nil, &disconnect.EndedError{Attribution: a, Err: errors.New("dial relay: no common sub-protocol")}
	}
	return &relayConn{Conn: ws, leg: leg, self: self}, nil
}

// errNoRelayToken is a dial that ended while it waited for the server's first token.
var errNoRelayToken = errors.New("dial relay: the server has not issued a relay token yet")

func (d *RelayDialer) relayURL(region *proto.DERPRegion) (string, error) {
	text := region.GetRelayUrl()
	if text == "" {
		return d.access.JoinPath(relayPath).String(), nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("dial relay: the region's url: %w", err)
	}
	switch u.Scheme {
	case "http", "https", "ws", "wss":
	default:
		return "", fmt.Errorf("dial relay: the region's url has the scheme %q", u.Scheme)
	}
	if u.Host == "" {
		return "", errors.New("dial relay: the region's url has no host")
	}
	if plain(u) && !isLoopback(u) && (!plain(d.access) || isLoopback(d.access)) {
		return "", fmt.Errorf("dial relay: refusing %s: plain HTTP would show the relay token to everybody on the way", u.Redacted())
	}
	return u.String(), nil
}

func plain(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "ws" }

// isLoopback reports whether a URL leads to this host. A plain server elsewhere is one
// that somebody insisted on.
func isLoopback(u *url.URL) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Unmap().IsLoopback() || u.Hostname() == "localhost"
}

// relayConn is a relay connection that knows how to judge its own end.
type relayConn struct {
	*wsconn.Conn
	leg  disconnect.ConnectType
	self disconnect.Initiator
}

// role tells the shim whose connection this is.
func (c *relayConn) role() (disconnect.ConnectType, disconnect.Initiator) { return c.leg, c.self }
