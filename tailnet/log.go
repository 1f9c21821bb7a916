package tailnet

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"fairlead.dev/fairlead/disconnect"
)

// Bounds on the packet engine's own log lines: it writes some per packet when
// something is wrong.
const (
	engineLogEvery = 50 * time.Millisecond
	engineLogBurst = 200
)

// engineLog takes the printf lines of the packet engine, which are for debugging
// only: nothing may depend on their text.
type engineLog struct {
	logger  *slog.Logger
	limiter *rate.Limiter
	dropped atomic.Int64
}

func newEngineLog(logger *slog.Logger) *engineLog {
	return &engineLog{logger: logger, limiter: rate.NewLimiter(rate.Every(engineLogEvery), engineLogBurst)}
}

func (l *engineLog) logf(format string, args ...any) {
	ctx := context.Background()
	if !l.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	if !l.limiter.Allow() {
		l.dropped.Add(1)
		return
	}
	attrs := []slog.Attr{slog.String("text", disconnect.Scrub(fmt.Sprintf(format, args...)))}
	if n := l.dropped.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("dropped_lines", n))
	}
	l.logger.LogAttrs(ctx, slog.LevelDebug, "packet engine", attrs...)
}
