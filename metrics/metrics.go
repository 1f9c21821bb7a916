// Package metrics counts what a server or an agent does, and serves the counts to
// Prometheus, with pprof beside them, on a listener of its own.
//
// It is not for what a person asks about one connection: that is in the log. No label
// names a user, a workspace or an address, so the number of series is bounded by the
// closed sets of package disconnect.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"fairlead.dev/fairlead/disconnect"
)

// prefix begins every name but those of the Go runtime and the process.
const prefix = "fairlead_"

// Set is the metrics of one process. All methods are safe for concurrent use; those of
// a nil Set do nothing.
type Set struct {
	registry *prometheus.Registry
	endings  *prometheus.CounterVec
	unknown  *prometheus.CounterVec
	lasted   *prometheus.HistogramVec
}

// durations are the upper bounds of the histogram of connections, in seconds: from one
// command to a terminal that is open for a week.
var durations = []float64{1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600}

// endingLabels are the labels of every counter of endings.
var endingLabels = []string{"connect_type", "reason", "initiator", "expected"}

// New returns the metrics of the Go runtime, the process and the build, and counters of
// endings. Those of endings without a reason are there from the start, at zero: an
// increase from nothing would raise no alarm.
func New(version string) *Set {
	s := &Set{registry: prometheus.NewRegistry()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.Gauge("build_info", "Always 1; the label is the version.", prometheus.Labels{"version": version}, func() float64 { return 1 })
	s.endings = s.endingCounter("disconnects_total", "Connections that ended, by the words of docs/disconnects.md.")
	s.unknown = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "disconnects_unknown_total", Help: "Connections that ended for no reason that anybody knows.",
	}, []string{"connect_type"})
	for _, t := range disconnect.ConnectTypes() {
		s.unknown.WithLabelValues(t.String())
	}
	s.lasted = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: prefix + "connection_duration_seconds", Help: "How long connections lasted that have ended.", Buckets: durations,
	}, []string{"connect_type", "type"})
	s.registry.MustRegister(s.unknown, s.lasted)
	return s
}

func (s *Set) endingCounter(name, help string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, endingLabels)
	s.registry.MustRegister(v)
	return v
}

func countEnding(v *prometheus.CounterVec, a disconnect.Attribution) {
	v.WithLabelValues(a.ConnectType.String(), a.Reason.String(), a.Initiator.String(), strconv.FormatBool(a.Expected())).Inc()
}

// TypeControl is the type of a control link.
const TypeControl = "control"

// Ended counts the ending of a connection that lasted for so long. Its type is from a
// closed set: TypeControl, or what people do with it, such as "ssh".
func (s *Set) Ended(a disconnect.Attribution, kind string, lasted time.Duration) {
	if s == nil {
		return
	}
	countEnding(s.endings, a)
	if a.Reason == disconnect.Unknown {
		s.unknown.WithLabelValues(a.ConnectType.String()).Inc()
	}
	s.lasted.WithLabelValues(a.ConnectType.String(), kind).Observe(max(0, lasted).Seconds())
}

// Endings adds another counter of endings and returns what counts one.
func (s *Set) Endings(name, help string) func(disconnect.Attribution) {
	if s == nil {
		return func(disconnect.Attribution) {}
	}
	v := s.endingCounter(name, help)
	return func(a disconnect.Attribution) { countEnding(v, a) }
}

// Gauge adds a value that is asked for at each scrape.
func (s *Set) Gauge(name, help string, labels map[string]string, value func() float64) {
	if s != nil {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help, ConstLabels: labels}, value))
	}
}

// Gauges adds a value with labels that is asked for at each scrape: read calls emit for
// each combination, with the labels' values in order. They must be from closed sets.
func (s *Set) Gauges(name, help string, labels []string, read func(emit func(value float64, values ...string))) {
	if s != nil {
		s.registry.MustRegister(gauges{prometheus.NewDesc(prefix+name, help, labels, nil), read})
	}
}

// gauges is a collector of one gauge.
type gauges struct {
	desc *prometheus.Desc
	read func(emit func(value float64, values ...string))
}

// Describe implements [prometheus.Collector].
func (g gauges) Describe(to chan<- *prometheus.Desc) { to <- g.desc }

// Collect implements [prometheus.Collector].
func (g gauges) Collect(to chan<- prometheus.Metric) {
	g.read(func(value float64, values ...string) {
		to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, value, values...)
	})
}

// Counter adds a counter that is asked for at each scrape.
func (s *Set) Counter(name, help string, value func() float64) {
	if s != nil {
		s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: prefix + name, Help: help}, value))
	}
}

// Counters adds a counter with one label and returns what counts. The label's values
// must be from a closed set.
func (s *Set) Counters(name, help, label string) func(value string) {
	if s == nil {
		return func(string) {}
	}
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
	s.registry.MustRegister(v)
	return func(value string) { v.WithLabelValues(value).Inc() }
}

// Listener serves a Set over HTTP.
type Listener struct {
	listener net.Listener
	server   *http.Server
	served   chan error
}

// Limits on what a caller can make the listener hold.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Listen serves s at /metrics of addr. At a loopback address it serves pprof as well,
// at /debug/pprof/: what that shows is for nobody else's eyes. The caller must Close.
func Listen(ctx context.Context, addr string, s *Set, logger *slog.Logger) (*Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s for metrics: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	l := &Listener{listener: ln, served: make(chan error, 1), server: &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}}
	go func() { l.served <- l.server.Serve(ln) }() // Close waits for it
	logger.LogAttrs(ctx, slog.LevelInfo, "metrics listening", slog.String("addr", ln.Addr().String()))
	return l, nil
}

// Addr returns the address that l listens on.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// Close cuts what is under way; a profile can take minutes. A nil Listener is closed.
func (l *Listener) Close() error {
	if l == nil {
		return nil
	}
	err := l.server.Close()
	if served := <-l.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("close metrics: %w", err)
	}
	return nil
}
