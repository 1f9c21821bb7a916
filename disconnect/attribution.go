package disconnect

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Keys of the five fields that every disconnect log line carries.
const (
	KeyConnectType = "connect_type"
	KeyReason      = "disconnect_reason"
	KeyExpected    = "disconnect_expected"
	KeyInitiator   = "disconnect_initiator"
	KeyDetail      = "disconnect_detail"
)

// Attribution says at which layer a connection ended, why, who began it, and in
// free text what else is known. It is a plain value, safe to copy and compare.
type Attribution struct {
	ConnectType ConnectType
	Reason      Reason
	Initiator   Initiator
	Detail      string
}

// Expected reports whether this ending is normal operation: a pure function of the
// reason.
func (a Attribution) Expected() bool { return a.Reason.Expected() }

// IsZero reports whether nothing has been recorded.
func (a Attribution) IsZero() bool { return a == Attribution{} }

// On returns a copy of a for the layer t.
func (a Attribution) On(t ConnectType) Attribution {
	a.ConnectType = t
	return a
}

// Attr returns all five fields as one attribute that every slog handler inlines,
// so that no site can log four of the five. The detail is scrubbed.
func (a Attribution) Attr() slog.Attr {
	fields := a.fields()
	return slog.Attr{Value: slog.GroupValue(fields[:]...)}
}

func (a Attribution) fields() [5]slog.Attr {
	return [5]slog.Attr{
		slog.String(KeyConnectType, a.ConnectType.String()),
		slog.String(KeyReason, a.Reason.String()),
		slog.Bool(KeyExpected, a.Expected()),
		slog.String(KeyInitiator, a.Initiator.String()),
		slog.String(KeyDetail, Scrub(a.Detail)),
	}
}

// Log writes one disconnect line: msg, the five fields, then attrs. Expected
// endings are logged at Info, others at Warn. The line's source is the caller. A nil
// logger discards.
func (a Attribution) Log(ctx context.Context, logger *slog.Logger, msg string, attrs ...slog.Attr) {
	if logger == nil {
		return
	}
	level := slog.LevelInfo
	if !a.Expected() {
		level = slog.LevelWarn
	}
	if !logger.Enabled(ctx, level) {
		return
	}
	var pcs [1]uintptr
	runtime.Callers(2, pcs[:]) // skips runtime.Callers and Log
	record := slog.NewRecord(time.Now(), level, msg, pcs[0])
	fields := a.fields() // as many as a record holds without allocating
	record.AddAttrs(fields[:]...)
	record.AddAttrs(attrs...)
	_ = logger.Handler().Handle(ctx, record) // slog.Logger has nowhere to report it either
}

// LogAttempt writes down that a connection never came to be, and why. Nothing has ended, so
// the keys are not those of endings. A nil logger discards.
func (a Attribution) LogAttempt(ctx context.Context, logger *slog.Logger, level slog.Level, msg string, attrs ...slog.Attr) {
	if logger == nil {
		return
	}
	logger.LogAttrs(ctx, level, msg, append([]slog.Attr{
		slog.String("layer", a.ConnectType.String()), slog.String("reason", a.Reason.String()),
		slog.String("initiator", a.Initiator.String()), slog.String("error", Scrub(a.Detail)),
	}, attrs...)...)
}

// String is the attribution in one line for a person:
// "reason=server_shutdown initiator=agent expected=true detail=\"…\"".
func (a Attribution) String() string {
	s := "reason=" + a.Reason.String() + " initiator=" + a.Initiator.String() +
		" expected=" + strconv.FormatBool(a.Expected())
	if d := Scrub(a.Detail); d != "" {
		s += " detail=" + strconv.Quote(d)
	}
	return s
}

// EndedError is an ending as an error. It carries the attribution through contexts
// and call stacks, and still unwraps to the error that was seen, if there was one.
type EndedError struct {
	Attribution Attribution
	Err         error
}

// Error returns the attribution's line, and the underlying error's text, scrubbed,
// unless the detail holds it already.
func (e *EndedError) Error() string {
	line := e.Attribution.String()
	if e.Err == nil {
		return line
	}
	if seen := Scrub(e.Err.Error()); !strings.Contains(Scrub(e.Attribution.Detail), seen) {
		line += ": " + seen
	}
	return line
}

// Unwrap returns the error that was seen.
func (e *EndedError) Unwrap() error { return e.Err }

// FromError returns the attribution that err carries.
func FromError(err error) (Attribution, bool) {
	var ended *EndedError
	if errors.As(err, &ended) {
		return ended.Attribution, true
	}
	return Attribution{}, false
}

// FromContext returns the attribution that ended ctx, if its cause carries one.
func FromContext(ctx context.Context) (Attribution, bool) {
	return FromError(context.Cause(ctx))
}

// Latch keeps the first terminal cause of one connection: record the local cause
// before closing anything, and whatever follows is only a consequence. The zero
// value is ready; all methods are safe for concurrent use.
type Latch struct {
	mu    sync.Mutex // guards first and set
	first Attribution
	set   bool
}

// Set records a unless something was recorded before, and reports whether it did.
func (l *Latch) Set(a Attribution) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set {
		return false
	}
	l.first, l.set = a, true
	return true
}

// Get returns the recorded cause, if any.
func (l *Latch) Get() (Attribution, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, l.set
}
