package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"fairlead.dev/fairlead/control/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

// DialOptions are the options of [Dial].
type DialOptions struct {
	// AccessURL is the server's address; its path is a prefix.
	AccessURL *url.URL
	// Token is the bearer token.
	Token string
	// Instance names this life of this process; Version is for the server's logs.
	Instance, Version string
	// ConnectType is the link's layer, Self this end and Peer the other.
	ConnectType disconnect.ConnectType
	Self, Peer  disconnect.Initiator
	// Logger may be nil.
	Logger *slog.Logger
	// HTTPClient carries the upgrade request; nil is wsconn's default.
	HTTPClient *http.Client
	// Heartbeat is how often this end shows that it lives, Silence how long it
	// bears to hear nothing. 0: 4 s and 12 s.
	Heartbeat, Silence time.Duration
}

// Dial opens a link and returns after the server's hello. ctx bounds the opening
// only; that the server answers is also bounded by Silence. [JudgeDial] judges the
// error. The caller must Close the link, also when it has ended.
func Dial(ctx context.Context, opts DialOptions) (*Link, error) {
	if opts.AccessURL == nil {
		return nil, errors.New("dial control link: no access url")
	}
	header := http.Header{InstanceHeader: {opts.Instance}}
	header.Set("Authorization", "Bearer "+opts.Token)
	conn, err := wsconn.Dial(ctx, opts.AccessURL.JoinPath(Path).String(), wsconn.DialOptions{
		Header:       header,
		Subprotocols: []string{Subprotocol},
		HTTPClient:   opts.HTTPClient,
	})
	if err != nil {
		return nil, fmt.Errorf("dial control link: %w", err)
	}
	l := newLink(conn, opts.Heartbeat, opts.Silence)
	l.logger = opts.Logger
	l.connectType, l.self, l.peer = opts.ConnectType, opts.Self, opts.Peer
	l.instance, l.version = opts.Instance, opts.Version
	if l.clientConn, err = dialGRPC(l); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("dial control link: %w", err)
	}
	l.parts.Add(1)
	l.start()
	go l.run()

	select {
	case <-l.greeted.done():
		return l, nil
	case <-l.ctx.Done():
	case <-ctx.Done():
		l.end(Ending{Attribution: disconnect.Judge(context.Cause(ctx), l.connectType, l.self)})
	}
	err = fmt.Errorf("dial control link: await hello: %w", context.Cause(l.ctx))
	l.hangUp()
	_ = l.Close(disconnect.Goodbye{}) // has ended: only waits
	return nil, err
}

// run holds the Link stream of the dialling side for the life of the link, and then
// closes what belongs to it.
func (l *Link) run() {
	defer l.parts.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := proto.NewControlServiceClient(l.clientConn).Link(ctx)
	if err == nil {
		if err = l.attach(stream); errors.Is(err, io.EOF) {
			err = nil // Recv knows better
		}
	}
	if err == nil {
		err = l.receive(stream)
	}
	// A server that ends the link before its stream has come has only the close frame to
	// say so, and that comes after the stream's refusal.
	l.await(endingWait, l.ctx.Done())
	l.streamClosed(err)
	l.detach()
	l.hangUp()
	_ = l.clientConn.Close()
	l.abandoned.happen() // perhaps gRPC has never taken the socket
}

// streamClosed ends the link because its stream closed with err while the socket
// lived, and reports whether that was the ending.
func (l *Link) streamClosed(err error) bool {
	a := Judge(err, l.connectType, l.self, l.peer)
	if err == nil || errors.Is(err, io.EOF) {
		a.Reason, a.Initiator, a.Detail = disconnect.ProtocolError, l.peer, "the link's stream was closed without a goodbye"
	}
	ok := l.latch(Ending{Attribution: a})
	if ok {
		l.announce()
	}
	return ok
}
