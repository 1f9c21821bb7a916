package cli

import (
	"context"
	"log/slog"
	"time"

	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/telemetry"
)

// exportTimeout bounds what is exported at the end of a process.
const exportTimeout = 3 * time.Second

// exportLog exports log if the environment asks for it (OTEL_*), and returns what is to
// be logged to from now on. The exporter is nil if it does not ask. The caller must call
// end when everything is logged.
func exportLog(ctx context.Context, service string, log *slog.Logger) (exported *slog.Logger, e *telemetry.Exporter, end func()) {
	e = telemetry.Start(ctx, service, softwareVersion(), log)
	e.Forget()
	return e.Logger(log), e, func() {
		ctx, cancel := context.WithTimeout(context.Background(), exportTimeout)
		defer cancel()
		e.Close(ctx)
	}
}

// countExport adds what becomes of the exported records to set, if there are any.
func countExport(set *metrics.Set, e *telemetry.Exporter) {
	if e == nil {
		return
	}
	set.Counter("otlp_records_exported_total", "Log records that the OTLP collector has taken.", func() float64 { return float64(e.Counts().Exported) })
	set.Counter("otlp_records_lost_total", "Log records that the OTLP collector did not take, or for which there was no place.", func() float64 { return float64(e.Counts().Lost) })
}
