package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"

	"fairlead.dev/fairlead/control/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

// ErrServerClosed is returned by [Server.Accept] when the server is stopping.
var ErrServerClosed = errors.New("control server is stopping")

// handlersWait is how long Close waits for handlers after their links are gone.
const handlersWait = 2 * time.Second

// ServerOptions are the options of [NewServer].
type ServerOptions struct {
	// Logger may be nil.
	Logger *slog.Logger
	// Instance names this life of this process; Version is for the peers' logs.
	Instance, Version string
	// Register registers the services that links offer, beside the link's own.
	// Handlers must return when their context ends.
	Register func(grpc.ServiceRegistrar)
	// OnEnd is called once for each link after it has ended, in a goroutine that
	// Server.Close waits for. May be nil.
	OnEnd func(*Link, Ending)
	// Heartbeat is how often this end shows that it lives, Silence how long it
	// bears to hear nothing. 0: 4 s and 12 s.
	Heartbeat, Silence time.Duration
}

// Server accepts links and serves RPCs over them. All methods are safe for concurrent
// use.
type Server struct {
	opts     ServerOptions
	grpc     *grpc.Server
	listener *chanListener
	serving  sync.WaitGroup // the goroutine that accepts, calls of OnEnd, and the links' parts

	mu     sync.Mutex // guards links and closed; serving.Add for a link is under mu
	links  map[*Link]struct{}
	closed bool
}

// NewServer returns a running server.
func NewServer(opts ServerOptions) *Server {
	s := &Server{
		opts: opts, grpc: newGRPCServer(), listener: newChanListener(),
		links: make(map[*Link]struct{}),
	}
	proto.RegisterControlServiceServer(s.grpc, frameService{})
	if opts.Register != nil {
		opts.Register(s.grpc)
	}
	s.serving.Go(func() { _ = s.grpc.Serve(s.listener) }) // ends by Close only
	return s
}

// Accept upgrades r, which the caller has authenticated as id, to a live link. On
// failure it has answered r: 426 if the peer speaks another version of the protocol,
// 503 if the server is stopping. The HTTP handler may return; the link lives on.
func (s *Server) Accept(w http.ResponseWriter, r *http.Request, id Identity) (*Link, error) {
	if s.isClosed() {
		wsconn.ErrorHeader(w.Header(), disconnect.ServerShutdown)
		http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
		return nil, fmt.Errorf("accept control link: %w", ErrServerClosed)
	}
	conn, err := wsconn.Accept(w, r, wsconn.AcceptOptions{
		Subprotocols: []string{Subprotocol}, ReadBuffer: idleBuffer, WriteBuffer: idleBuffer,
	})
	if err != nil {
		return nil, fmt.Errorf("accept control link: %w", err)
	}
	l := newLink(conn, s.opts.Heartbeat, s.opts.Silence)
	l.logger = s.opts.Logger
	l.instance, l.version = s.opts.Instance, s.opts.Version
	l.identity, l.connectionID = id, id.ConnectionID
	l.connectType, l.self, l.peer = disconnect.ServerToAgent, disconnect.Server, disconnect.Agent
	switch id.Kind {
	case ClientPeer:
		l.connectType, l.peer = disconnect.ClientToServer, disconnect.Client
	case RelayPeer:
		l.connectType, l.peer = disconnect.RelayToServer, disconnect.Relay
	}
	l.peerInstance = disconnect.ScrubTo(r.Header.Get(InstanceHeader), maxInstance)
	if !s.add(l) || !s.listener.put(&linkConn{Conn: conn, link: l}) {
		l.end(Ending{Attribution: stopping.On(l.connectType)})
		l.hangUp()
		l.abandoned.happen()
		return nil, fmt.Errorf("accept control link: %w", ErrServerClosed)
	}
	return l, nil
}

// stopping is for a link that came while the server closed.
var stopping = disconnect.Goodbye{
	Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "the server is stopping",
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// add makes l live and counts it, unless the server is closed.
func (s *Server) add(l *Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.links[l] = struct{}{}
	s.serving.Add(1)
	context.AfterFunc(l.ctx, func() {
		defer s.serving.Done()
		s.remove(l)
		if s.opts.OnEnd != nil {
			s.opts.OnEnd(l, l.Ending())
		}
		l.parts.Wait()
	})
	l.start()
	return true
}

func (s *Server) remove(l *Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
}

// Links returns the links that live, in no order.
func (s *Server) Links() []*Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	links := make([]*Link, 0, len(s.links))
	for l := range s.links {
		links = append(links, l)
	}
	return links
}

// Close says goodbye to every link, all at once, and stops the server. When ctx ends
// first the links that are left are cut. It returns when no goroutine of the server
// is left, or two seconds after the last link if a handler does not return.
func (s *Server) Close(ctx context.Context, g disconnect.Goodbye) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	links := s.Links()
	stop := context.AfterFunc(ctx, func() {
		for _, l := range links {
			l.cut()
		}
	})
	defer stop()
	var goodbyes sync.WaitGroup
	for _, l := range links {
		goodbyes.Go(func() { _ = l.Close(g) })
	}
	goodbyes.Wait()

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.Stop()
		s.serving.Wait()
	}()
	timer := time.NewTimer(handlersWait)
	defer timer.Stop()
	select {
	case <-stopped:
	case <-timer.C:
		if s.opts.Logger != nil {
			s.opts.Logger.Error("control handlers did not return")
		}
	}
}
