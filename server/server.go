package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	agentproto "fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/hostwatch"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/coordinator"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

// Limits on what a stranger can make the HTTP server hold.
const (
	headerTimeout = 10 * time.Second
	// readTimeout and writeTimeout bound a whole request; a connection that has become
	// a WebSocket is past both.
	readTimeout  = 30 * time.Second
	writeTimeout = 30 * time.Second
	idleTimeout  = 2 * time.Minute
	maxHeader    = 16 << 10 // bytes
)

const (
	// closeTimeout bounds [Server.Close] when its context does not.
	closeTimeout = 10 * time.Second
	// requestGrace is what requests under way get of it.
	requestGrace = 2 * time.Second
)

// Server is one running Fairlead server. All methods are safe for concurrent use.
type Server struct {
	opts     Options
	logger   *slog.Logger
	instance string // names this life of the server
	listener net.Listener
	url      *url.URL
	proxies  proxies

	store       *store.Store
	connlog     *connlog.Log
	orders      *orders
	rulings     *rulings
	ends        *ends
	auth        *auth.Auth
	presence    *presence
	coordinator *coordinator.Coordinator
	control     *control.Server
	relay       *relay.Relay
	relays      *relays
	signer      *relay.TokenSigner
	stun        *relay.STUNServer // nil: off
	http        *http.Server
	conns       httpConns
	host        *hostwatch.Watcher
	untrusted   sync.Once // the one warning about a proxy that is not trusted
	checks      atomic.Int32

	adminCode, adminCodePath, adminCodeFor string

	limits  *limits
	meters  *meters
	events  events
	metrics *metrics.Listener // nil: off

	leaving    chan struct{}   // closed when Close begins
	background context.Context // ends when everybody was told
	stop       context.CancelFunc
	rights     signal         // somebody's rights have changed
	work       sync.WaitGroup // the presence watch, and one of each control link

	mu      sync.Mutex // guards closing, and work against growing once it is set
	closing bool

	closeOnce sync.Once
	closeErr  error
}

// New opens the database and the ports and puts the parts together. The server answers
// from [Server.Serve] on. Every error is a sentence for the person who started it. The
// caller must Close the server.
func New(ctx context.Context, opts Options) (*Server, error) {
	opts, err := opts.normalized()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, logger: opts.Logger, events: events{opts.Event}, instance: uuid.NewString(), leaving: make(chan struct{})}
	s.background, s.stop = context.WithCancel(context.Background())
	s.host = hostwatch.Start()
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.abandon())
	}
	return s, nil
}

// start builds the parts in the order in which they need each other. The one-time code
// comes last, so that a start that fails leaves none.
func (s *Server) start(ctx context.Context) (err error) {
	if s.listener, err = s.opts.listen(ctx); err != nil {
		return err
	}
	if s.url, err = s.opts.accessURL(s.listener.Addr()); err != nil {
		return err
	}
	if s.proxies, err = s.opts.proxies(); err != nil {
		return err
	}
	if s.store, err = store.Open(ctx, s.opts.StateDir); err != nil {
		return err
	}
	s.orders, s.ends = newOrders(s.store, s.opts, s.nudge), newEnds()
	s.rulings = &rulings{now: s.opts.Now}
	s.presence = &presence{
		store: s.store, logger: s.logger, now: s.opts.Now, online: make(map[string]present), callers: make(map[string]*caller),
		strangers: make(map[string][]*control.Link),
		lost: func(workspaceID string, at time.Time, ending disconnect.Attribution) {
			s.connlog.AgentLost(workspaceID, at, ending)
		},
	}
	if err := s.presence.buryFormerLife(ctx); err != nil {
		return err
	}
	s.auth = auth.New(auth.Options{Store: s.store, StateDir: s.opts.StateDir, Logger: s.logger, Now: s.opts.Now})
	s.meters = s.newMeters()
	s.limits = newLimits(s.opts)
	s.conns.exempt, s.conns.failed = s.proxies.trust, s.noteStranger
	s.startSTUN()
	if err := s.startTailnet(ctx); err != nil {
		return err
	}
	if err := s.startConnLog(ctx); err != nil {
		return err
	}
	api := &agentAPI{store: s.store, connlog: s.connlog, orders: s.orders, rulings: s.rulings, presence: s.presence, logger: s.logger, now: s.opts.Now, canReach: s.auth.CanReach, outageLimit: s.opts.OutageLimit}
	s.control = control.NewServer(control.ServerOptions{
		Logger: s.logger, Instance: s.instance, Version: s.opts.Version,
		Register: func(r grpc.ServiceRegistrar) {
			proto.RegisterTailnetServiceServer(r, registeredOnly{s.coordinator, s.presence})
			agentproto.RegisterAgentServiceServer(r, api)
			proto.RegisterRelayServiceServer(r, &relayAPI{
				relays: s.relays, store: s.store, logger: s.logger, admit: s.admitToRelay,
				plain: s.opts.InsecureHTTP || s.url.Scheme == "http",
			})
		},
	})
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(httpLog{s.logger.Handler()}, slog.LevelDebug),
		ConnState:         s.conns.note,
		ConnContext:       s.conns.context,
		Protocols:         new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true)
	if s.opts.MetricsListen != "" {
		if s.metrics, err = metrics.Listen(ctx, s.opts.MetricsListen, s.meters.set, s.logger); err != nil {
			return err
		}
	}
	if !s.opts.Local {
		if err := s.makeAdminCode(ctx); err != nil {
			return err
		}
	}
	s.work.Go(func() { s.presence.watch(s.background) })
	s.work.Go(func() { s.relays.watch(s.background) })
	return nil
}

// makeAdminCode makes the one-time code if nobody can get in without it.
func (s *Server) makeAdminCode(ctx context.Context) (err error) {
	if s.adminCode, s.adminCodePath, err = s.auth.FirstCode(ctx); err != nil || s.adminCode == "" {
		return err
	}
	if s.adminCodeFor, err = s.auth.LockedOut(ctx); s.adminCodeFor != "" {
		s.logger.WarnContext(ctx, "no admin has a valid token: there is a one-time code to log in with", "user", s.adminCodeFor, "file", s.adminCodePath)
	}
	return err
}

// startSTUN opens STUN if it can. Without it only direct paths suffer, so a port that
// is taken is worth a warning and no more.
func (s *Server) startSTUN() {
	if s.opts.STUNListen == "" || s.opts.NoRelay {
		return
	}
	stun, err := relay.ListenSTUN(s.opts.STUNListen, s.logger)
	if err != nil {
		s.logger.Warn("stun is off: its port cannot be opened", "stun_listen", s.opts.STUNListen, "error", err)
		return
	}
	s.stun = stun
}

// startTailnet makes the coordinator and the relay, with the keys that outlive them.
func (s *Server) startTailnet(ctx context.Context) error {
	grantKey, err := s.store.SecretKey(ctx, store.GrantKey)
	if err != nil {
		return err
	}
	relayKey, err := s.store.SecretKey(ctx, store.RelayTokenKey)
	if err != nil {
		return err
	}
	s.signer = relay.NewTokenSigner(relayKey)
	s.relays = &relays{store: s.store, logger: s.logger, now: s.opts.Now, byID: make(map[string]*relayState)}
	if err := s.relays.load(ctx); err != nil {
		return err
	}
	s.relay = relay.New(relay.Config{
		Logger:  s.logger, // the relay writes down its connections' ends itself
		Admit:   s.admitToOwnRelay,
		Now:     s.opts.Now,
		Witness: s.meters.witness,
		Refuse: func(w http.ResponseWriter, r *http.Request, status int, reason disconnect.Reason, message string) {
			writeError(w, r, s.logger, &refusal{status, reason.String(), message, reason})
		},
	})
	s.coordinator = coordinator.New(coordinator.Config{
		Logger:     s.logger,
		Instance:   s.instance,
		Authorize:  s.authorize,
		Offline:    s.offline,
		Judge:      s.orders.judge,
		Admitted:   s.nodeAdmitted,
		GrantKey:   grantKey,
		RelayToken: s.relayToken,
		DERPMap:    s.derpMap,
		Now:        s.opts.Now,
	})
	s.relays.changed = s.coordinator.DERPMapChanged
	return nil
}

// derpMap returns the regions: the relay and STUN of this server, and those that are
// processes of their own.
func (s *Server) derpMap() *proto.DERPMap {
	m := &proto.DERPMap{}
	if !s.opts.NoRelay {
		region := &proto.DERPRegion{Id: 1, Code: "embedded", Name: "Embedded relay"}
		if s.stun != nil {
			region.StunPort = uint32(s.stun.Addr().Port())
		}
		m.Regions = append(m.Regions, region)
	}
	m.Regions = append(m.Regions, s.relays.regions()...)
	return m
}

func (s *Server) getRelay(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	s.relay.ServeHTTP(w, r)
	return nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// URL returns the access URL.
func (s *Server) URL() *url.URL {
	u := *s.url
	return &u
}

// AdminCode returns the one-time code that this start made for the first user, or for an
// admin when none had a valid token, and the file it stands in; both are empty when
// somebody can get in, or when Options.Local is set. The code may be shown on a terminal;
// it must not be logged.
func (s *Server) AdminCode() (code, path string) { return s.adminCode, s.adminCodePath }

// AdminCodeFor returns the name of the admin whom [Server.AdminCode] lets in again, or ""
// when it makes the first user.
func (s *Server) AdminCodeFor() string { return s.adminCodeFor }

// Serve answers requests until Close, and then returns nil. Any other return is a
// failure of the listening port. Call it once.
func (s *Server) Serve() error {
	s.logger.Info("server listening", "addr", s.listener.Addr().String(), "url", s.url.String(), "version", s.opts.Version, "instance", s.instance)
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http: %w", err)
	}
	return nil
}

// Healthy reports whether the server can do its work: its database answers.
func (s *Server) Healthy(ctx context.Context) error { return s.store.Ping(ctx) }

// stopping reports whether Close has begun.
func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// enter lets a control link in unless the server stops; done must be called when the
// link is over.
func (s *Server) enter() (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, false
	}
	s.work.Add(1)
	return s.work.Done, true
}

// Close stops the server in this order, each step bounded by ctx (or 10 s):
//
//  1. the listening port closes, so that nobody comes back to a server that leaves;
//  2. every control link is told server_shutdown by the server, and ends; agents' endings are stored;
//  3. the coordinator's streams end with their links;
//  4. every relay connection is closed with the same words;
//  5. STUN stops, and requests that are under way finish;
//  6. the connection log and the database close.
//
// It waits for everything that the server started. A second call does nothing but wait
// for the first, and returns its error.
func (s *Server) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { s.closeErr = s.close(ctx) })
	return s.closeErr
}

func (s *Server) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	close(s.leaving)
	s.logger.Info("server stopping")
	shut := make(chan error, 1)
	go func() { // received from below
		ctx, cancel := context.WithTimeout(ctx, requestGrace)
		defer cancel()
		shut <- s.http.Shutdown(ctx)
	}()
	s.conns.close()
	goodbye := disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "the server is stopping"}
	s.control.Close(ctx, goodbye)
	err := s.coordinator.Close(ctx)
	s.relay.Close(ctx, goodbye)
	if e := <-shut; e != nil { // requests that do not end in time are cut
		err = errors.Join(err, s.http.Close())
	}
	s.stop()
	s.work.Wait()
	s.host.Close()
	s.connlog.Close()
	err = errors.Join(err, s.closePorts(), s.store.Close())
	if err != nil {
		return fmt.Errorf("close server: %w", err)
	}
	return nil
}

// closePorts closes STUN and metrics, and the listener if Serve never took it.
func (s *Server) closePorts() error {
	err := s.metrics.Close()
	if s.stun != nil {
		err = errors.Join(err, s.stun.Close())
	}
	if s.listener != nil {
		if e := s.listener.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// abandon takes back a start that failed half-way. Nobody has connected.
func (s *Server) abandon() error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	goodbye := disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server}
	var err error
	if s.control != nil {
		s.control.Close(ctx, goodbye)
	}
	if s.coordinator != nil {
		err = s.coordinator.Close(ctx)
	}
	if s.relay != nil {
		s.relay.Close(ctx, goodbye)
	}
	s.host.Close()
	if s.connlog != nil {
		s.connlog.Close()
	}
	err = errors.Join(err, s.closePorts())
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	return err
}

// httpLog takes what net/http says of broken requests and handshakes: text with the
// caller's bytes in it, of interest only when somebody looks for it.
type httpLog struct{ slog.Handler }

// Handle implements slog.Handler.
func (h httpLog) Handle(ctx context.Context, r slog.Record) error {
	quiet := slog.NewRecord(r.Time, r.Level, "http server message", 0)
	quiet.AddAttrs(slog.String("text", disconnect.Scrub(strings.TrimSpace(r.Message))))
	return h.Handler.Handle(ctx, quiet)
}
