package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	sdklog "go.opentelemetry.io/otel/sdk/log"

	"fairlead.dev/fairlead/disconnect"
)

// A collector that cannot be reached is tried again after firstPause, then less and less
// often, until the SDK gives a batch up (OTEL_BLRP_EXPORT_TIMEOUT, 30 s).
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 8 * time.Second
)

// queue bounds the records that wait for the collector, those being sent included. The
// SDK's own queue is never full because of it: that would leave records out uncounted.
type queue struct {
	*sdklog.BatchProcessor
	size    int64
	waiting *atomic.Int64
	dropped atomic.Uint64
}

// OnEmit implements [sdklog.Processor]. It does not block.
func (q *queue) OnEmit(ctx context.Context, r *sdklog.Record) error {
	if q.waiting.Add(1) > q.size {
		q.waiting.Add(-1)
		q.dropped.Add(1)
		return nil
	}
	return q.BatchProcessor.OnEmit(ctx, r)
}

// sender exports batches, with patience, and says once that it cannot.
type sender struct {
	sdklog.Exporter
	life     context.Context // ends what is being sent
	logger   *slog.Logger
	endpoint string

	waiting          atomic.Int64
	exported, failed atomic.Uint64
	failing          bool   // it was said; of Export, which is not called concurrently
	lostBefore       uint64 // failed, when it was said

	once sync.Once
	over chan struct{} // closed when nothing more will be sent
}

// Export implements [sdklog.Exporter]. A failure is told by s, so it is not returned.
func (s *sender) Export(ctx context.Context, records []sdklog.Record) error {
	n := len(records)
	if n == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	err := s.send(ctx, records)
	s.waiting.Add(-int64(n))
	if err != nil {
		s.failed.Add(uint64(n))
		s.fails(err)
		return nil
	}
	s.exported.Add(uint64(n))
	if s.failing {
		s.failing = false
		s.logger.LogAttrs(ctx, slog.LevelInfo, "exporting the log again", slog.Uint64("lost", s.failed.Load()-s.lostBefore))
	}
	return nil
}

// send tries until the collector is in reach. The client itself repeats what a collector
// asks to repeat, and only that.
func (s *sender) send(ctx context.Context, records []sdklog.Record) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := s.Exporter.Export(ctx, records)
		var unreachable *url.Error
		if err == nil || !errors.As(err, &unreachable) || ctx.Err() != nil {
			return err
		}
		s.fails(err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func (s *sender) fails(err error) {
	if s.failing {
		return
	}
	s.failing, s.lostBefore = true, s.failed.Load()
	s.logger.LogAttrs(s.life, slog.LevelWarn, "cannot export the log, trying on",
		slog.String("endpoint", s.endpoint), slog.String("error", disconnect.Scrub(err.Error())))
}

// Shutdown implements [sdklog.Exporter].
func (s *sender) Shutdown(ctx context.Context) error {
	s.once.Do(func() { close(s.over) })
	return s.Exporter.Shutdown(ctx)
}
