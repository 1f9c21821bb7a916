// Package telemetry sends a process' log, and events beside it, to a collector that
// speaks OTLP over HTTP, as the standard OTEL_* variables say.
//
// Nothing waits for the collector: what does not fit into a bounded queue is counted and
// left out. It knows nothing of what it sends.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	otellog "go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"

	"fairlead.dev/fairlead/disconnect"
)

// scope names whose records these are, for the collector.
const scope = "fairlead.dev/fairlead"

// Exporter sends records until Close. All methods are safe for concurrent use, and those
// of a nil Exporter do nothing.
type Exporter struct {
	provider *sdklog.LoggerProvider
	queue    *queue
	sender   *sender
	events   otellog.Logger
	version  string
	cut      context.CancelFunc // ends what is being sent
}

// Start returns an exporter if the environment asks for one. It returns nil if it does
// not, and if what it asks for cannot be done, which is said to logger once: telemetry
// stops nobody's work. service is the service's name unless OTEL_SERVICE_NAME says
// otherwise. logger must not be one that exports. The caller must Close.
func Start(ctx context.Context, service, version string, logger *slog.Logger) *Exporter {
	endpoint, err := settings()
	if err == nil && endpoint == "" {
		return nil
	}
	var e *Exporter
	if err == nil {
		e, err = start(ctx, service, version, endpoint, logger)
	}
	if err != nil {
		logger.LogAttrs(ctx, slog.LevelWarn, "the log is not exported", slog.String("error", disconnect.Scrub(err.Error())))
		return nil
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "exporting the log", slog.String("endpoint", endpoint))
	return e
}

func start(ctx context.Context, service, version, endpoint string, logger *slog.Logger) (*Exporter, error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { complain(logger, err) }))
	about, err := describe(ctx, service, version)
	if err != nil {
		return nil, fmt.Errorf("describe this process: %w", err)
	}
	client, err := otlploghttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("make an OTLP client: %w", err)
	}
	life, cut := context.WithCancel(context.Background())
	s := &sender{Exporter: client, life: life, logger: logger, endpoint: endpoint, over: make(chan struct{})}
	size := queueSize()
	q := &queue{waiting: &s.waiting, size: int64(size), BatchProcessor: sdklog.NewBatchProcessor(s, sdklog.WithMaxQueueSize(size))}
	p := sdklog.NewLoggerProvider(sdklog.WithResource(about), sdklog.WithProcessor(q))
	return &Exporter{
		provider: p, queue: q, sender: s, version: version, cut: cut,
		events: p.Logger(scope, otellog.WithInstrumentationVersion(version)),
	}, nil
}

// describe tells the collector whose records they are. There is no command line in it:
// people put secrets there.
func describe(ctx context.Context, service, version string) (*resource.Resource, error) {
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithFromEnv()) // the last one wins
	if errors.Is(err, resource.ErrPartialResource) || errors.Is(err, resource.ErrSchemaURLConflict) {
		err = nil // what could be found out is there
	}
	return about, err
}

// Logger returns a logger that exports what base shows.
func (e *Exporter) Logger(base *slog.Logger) *slog.Logger {
	if e == nil {
		return base
	}
	exported := otelslog.NewHandler(scope, otelslog.WithLoggerProvider(e.provider), otelslog.WithVersion(e.version))
	return slog.New(slog.NewMultiHandler(base.Handler(), &asShown{Handler: exported, shown: base.Handler()}))
}

// asShown takes the levels that another handler takes.
type asShown struct {
	slog.Handler
	shown slog.Handler
}

// Enabled implements [slog.Handler].
func (h *asShown) Enabled(ctx context.Context, level slog.Level) bool {
	return h.shown.Enabled(ctx, level)
}

// WithAttrs implements [slog.Handler].
func (h *asShown) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &asShown{Handler: h.Handler.WithAttrs(attrs), shown: h.shown}
}

// WithGroup implements [slog.Handler].
func (h *asShown) WithGroup(name string) slog.Handler {
	return &asShown{Handler: h.Handler.WithGroup(name), shown: h.shown}
}

// Event exports something that happened at a time. Its name is for programs. It is in no
// log.
func (e *Exporter) Event(ctx context.Context, name string, at time.Time, level slog.Level, attrs ...slog.Attr) {
	if e == nil {
		return
	}
	var r otellog.Record
	r.SetEventName(name)
	r.SetTimestamp(at)
	r.SetObservedTimestamp(time.Now())
	r.SetSeverity(otellog.Severity(level-slog.LevelInfo) + otellog.SeverityInfo)
	r.SetSeverityText(level.String())
	r.AddAttributes(attributes(nil, attrs)...)
	e.events.Emit(ctx, r)
}

// attributes adds slog's attributes to all, those of groups without the groups' names.
func attributes(all []attribute.KeyValue, attrs []slog.Attr) []attribute.KeyValue {
	for _, a := range attrs {
		switch v := a.Value.Resolve(); v.Kind() {
		case slog.KindGroup:
			all = attributes(all, v.Group())
		case slog.KindBool:
			all = append(all, attribute.Bool(a.Key, v.Bool()))
		case slog.KindInt64:
			all = append(all, attribute.Int64(a.Key, v.Int64()))
		case slog.KindDuration:
			all = append(all, attribute.Float64(a.Key, v.Duration().Seconds()))
		case slog.KindTime:
			all = append(all, attribute.String(a.Key, v.Time().UTC().Format(time.RFC3339Nano)))
		default:
			all = append(all, attribute.String(a.Key, v.String()))
		}
	}
	return all
}

// Counts is what became of the records so far.
type Counts struct {
	Exported uint64 // the collector has taken them
	Lost     uint64 // there was no place in the queue, or the collector did not take them
}

// Counts returns what became of the records so far.
func (e *Exporter) Counts() Counts {
	if e == nil {
		return Counts{}
	}
	return Counts{Exported: e.sender.exported.Load(), Lost: e.sender.failed.Load() + e.queue.dropped.Load()}
}

// Close exports what is queued, for as long as ctx lives, and stops.
func (e *Exporter) Close(ctx context.Context) {
	if e == nil {
		return
	}
	_ = e.provider.Shutdown(ctx) // what it can tell, the sender has told
	e.cut()
	_ = e.queue.Shutdown(context.Background()) // if the provider ran out of time
	<-e.sender.over
	if n := e.queue.waiting.Load(); n > 0 {
		e.sender.logger.LogAttrs(ctx, slog.LevelWarn, "a part of the log was not exported", slog.Int64("records", n))
	}
}
