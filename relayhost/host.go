package relayhost

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

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/httpport"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tailnet/relay"
)

// Limits on what a stranger can make the HTTP server hold, and on a stop.
const (
	headerTimeout  = 10 * time.Second
	requestTimeout = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeader      = 16 << 10 // bytes
	closeTimeout   = 10 * time.Second
)

// Options say how a relay runs. ServerURL, Token and AccessURL are required.
type Options struct {
	// ServerURL is where the server is reached, Token the relay's token there.
	ServerURL *url.URL
	Token     string
	// AccessURL is where nodes and the server reach this relay, perhaps through a proxy
	// and under a path.
	AccessURL string
	// Listen, TLSCert, TLSKey, BehindProxy and InsecureHTTP are those of httpport.Options.
	Listen                    string
	TLSCert, TLSKey           string
	BehindProxy, InsecureHTTP bool
	// STUNListen is the UDP address and port of STUN; empty turns it off.
	STUNListen string
	// MetricsListen is the address and port of /metrics; empty turns it off.
	MetricsListen string
	Version       string
	Logger        *slog.Logger // nil discards
	// HTTPClient carries the request for the control link; nil is wsconn's default.
	HTTPClient *http.Client
}

// Host is one running relay. All methods are safe for concurrent use.
type Host struct {
	opts     Options
	logger   *slog.Logger
	instance string // names this life of the relay
	access   *url.URL

	listener   net.Listener
	http       *http.Server
	relay      *relay.Relay
	admissions *admissions
	stun       *relay.STUNServer // nil: off
	metrics    *metrics.Listener // nil: off
	set        *metrics.Set
	conns      atomic.Int64 // relay connections
	linked     atomic.Bool  // the server has registered this relay

	ctx    context.Context // ends when Close begins
	stop   context.CancelFunc
	work   sync.WaitGroup // the link's loop, and serving
	failed chan error     // of size 2: why the relay cannot go on

	closeOnce sync.Once
	closeErr  error
}

// New opens the ports and begins to seek the server. Every error is a sentence for the
// person who started the relay. The caller must Close it.
func New(ctx context.Context, opts Options) (*Host, error) {
	access, err := sdk.ParseURL(opts.AccessURL)
	if err != nil {
		return nil, fmt.Errorf("access URL: %w", err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		opts: opts, logger: opts.Logger, instance: uuid.NewString(), access: access,
		admissions: newAdmissions(time.Now), failed: make(chan error, 2),
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.Close(context.Background()))
	}
	h.work.Go(func() {
		if err := h.http.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
			h.failed <- fmt.Errorf("serve http: %w", err)
		}
	})
	h.work.Go(h.keepLink)
	h.logger.Info("relay listening", "addr", h.listener.Addr().String(), "access_url", access.String(), "version", opts.Version, "instance", h.instance)
	return h, nil
}

// open opens the ports and makes the parts.
func (h *Host) open(ctx context.Context) (err error) {
	o := h.opts
	if h.listener, err = httpport.Open(ctx, httpport.Options{
		Listen: o.Listen, TLSCert: o.TLSCert, TLSKey: o.TLSKey,
		BehindProxy: o.BehindProxy, InsecureHTTP: o.InsecureHTTP, Logger: o.Logger,
	}); err != nil {
		return err
	}
	if o.STUNListen != "" {
		if h.stun, err = relay.ListenSTUN(o.STUNListen, o.Logger); err != nil {
			return fmt.Errorf("cannot open the port of STUN (--stun-listen names another, or none): %w", err)
		}
	}
	h.set = metrics.New(o.Version)
	ended := h.set.Endings("relay_disconnects_total", "Relay connections that ended, by the words of docs/disconnects.md.")
	h.set.Gauge("relay_connections", "Relay connections that are open.", nil, func() float64 { return float64(h.conns.Load()) })
	h.set.Gauge("relay_known_nodes", "Nodes that may come back while the server is away.", nil, func() float64 { return float64(h.admissions.size()) })
	h.set.Gauge("relay_registered", "Whether the server has this relay in its map.", nil, func() float64 {
		if h.linked.Load() {
			return 1
		}
		return 0
	})
	h.relay = relay.New(relay.Config{
		Logger: o.Logger, // the relay writes down its connections' ends itself
		Admit:  h.admissions.admit,
		Witness: func(e relay.Event) {
			switch e.Kind {
			case relay.Opened:
				h.conns.Add(1)
			case relay.Ended:
				h.conns.Add(-1)
				ended(e.Ending)
			}
		},
	})
	h.http = &http.Server{
		Handler: h.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout,
		WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // callers' bytes
		Protocols: new(http.Protocols),
	}
	h.http.Protocols.SetHTTP1(true)
	if o.MetricsListen != "" {
		h.metrics, err = metrics.Listen(ctx, o.MetricsListen, h.set, o.Logger)
	}
	return err
}

// handler is the relay's HTTP surface: the relay itself, and who and how it is.
func (h *Host) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(relay.Path, h.relay)
	mux.HandleFunc("GET "+relay.ProbePath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(h.instance + "\n")) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(sdk.HeaderVersion, h.opts.Version)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if prefix := h.access.Path; prefix != "" && strings.HasPrefix(r.URL.Path, prefix+"/") {
			http.StripPrefix(prefix, mux).ServeHTTP(w, r) // a proxy may keep the path or take it off
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Addr returns the address that the relay listens on.
func (h *Host) Addr() net.Addr { return h.listener.Addr() }

// Wait returns when the relay cannot go on, or with nil when ctx ends. [IsRefused] tells
// whether the server does not accept it.
func (h *Host) Wait(ctx context.Context) error {
	select {
	case err := <-h.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Close stops the relay in this order, bounded by ctx (or 10 s): the listening port
// closes; the server hears goodbye, and takes the relay out of the map; every node is
// told server_shutdown; STUN and metrics stop. It waits for everything.
func (h *Host) Close(ctx context.Context) error {
	h.closeOnce.Do(func() { h.closeErr = h.close(ctx) })
	return h.closeErr
}

func (h *Host) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	var err error
	if h.http != nil {
		h.logger.Info("relay stopping")
		shut := make(chan error, 1)
		go func() { shut <- h.http.Shutdown(ctx) }() // received from below
		defer func() { <-shut }()
	}
	h.stop()
	if h.listener != nil {
		if e := h.listener.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	h.work.Wait()
	if h.relay != nil {
		h.relay.Close(ctx, disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "the relay is stopping"})
	}
	if h.stun != nil {
		err = errors.Join(err, h.stun.Close())
	}
	if err = errors.Join(err, h.metrics.Close()); err != nil {
		return fmt.Errorf("close relay: %w", err)
	}
	return nil
}
