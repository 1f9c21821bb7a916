package testutil

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"fairlead.dev/fairlead/disconnect"
)

// Record is one log line. Attrs maps each attribute's key, with the names of the
// groups around it in front ("group.key"), to its resolved value.
type Record struct {
	Level   slog.Level
	Message string
	Attrs   map[string]any
}

// Ending is a log line that carries the five disconnect fields; Attrs holds the
// other attributes.
type Ending struct {
	Level       slog.Level
	Message     string
	Attribution disconnect.Attribution
	Expected    bool
	Attrs       map[string]any
}

// Recorder keeps every line that its logger writes. It fails the test as soon as a
// line carries some of the five disconnect fields but not each exactly once, or
// values that are not words of the closed set. All methods are safe for concurrent
// use.
type Recorder struct {
	t testing.TB

	mu      sync.Mutex // guards all below, and every use of t from log calls
	over    bool       // the test has ended: t must not be used any more
	records []Record
	endings []Ending
	changed chan struct{} // closed and replaced when a line arrives
}

// NewLogRecorder returns a logger for all levels and the recorder behind it. The
// lines also appear in the output of t.
func NewLogRecorder(t testing.TB) (*slog.Logger, *Recorder) {
	t.Helper()
	rec := &Recorder{t: t, changed: make(chan struct{})}
	t.Cleanup(func() {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.over = true
	})
	return slog.New(&recordHandler{rec: rec}), rec
}

// Records returns all lines so far, oldest first.
func (r *Recorder) Records() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records)
}

// Endings returns the lines so far that carry the disconnect fields, oldest first.
func (r *Recorder) Endings() []Ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.endings)
}

// WaitFor returns the first ending, past or future, for which match is true. When
// ctx ends before, it fails the test at once with what was recorded; so call it
// from the test's own goroutine.
func (r *Recorder) WaitFor(ctx context.Context, match func(Ending) bool) Ending {
	r.t.Helper()
	for seen := 0; ; {
		r.mu.Lock()
		endings, changed := r.endings, r.changed
		r.mu.Unlock()
		for ; seen < len(endings); seen++ {
			if match(endings[seen]) {
				return endings[seen]
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r.t.Fatalf("no matching ending: %v; recorded endings: %+v", context.Cause(ctx), endings)
		}
	}
}

// WaitForMessage returns the first line, past or future, with the given message.
// It fails like [Recorder.WaitFor].
func (r *Recorder) WaitForMessage(ctx context.Context, msg string) Record {
	r.t.Helper()
	for seen := 0; ; {
		r.mu.Lock()
		records, changed := r.records, r.changed
		r.mu.Unlock()
		for ; seen < len(records); seen++ {
			if records[seen].Message == msg {
				return records[seen]
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r.t.Fatalf("no log line %q: %v", msg, context.Cause(ctx))
		}
	}
}

// add keeps one line. pairs holds all attributes in order, repeated keys included.
func (r *Recorder) add(level slog.Level, msg string, pairs []pair) {
	record := Record{Level: level, Message: msg, Attrs: make(map[string]any, len(pairs))}
	for _, p := range pairs {
		record.Attrs[p.key] = p.value
	}
	ending, isEnding, err := parseEnding(record, pairs)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
	if isEnding {
		r.endings = append(r.endings, ending)
	}
	close(r.changed)
	r.changed = make(chan struct{})
	if r.over {
		return
	}
	fmt.Fprintf(r.t.Output(), "%s %s%s\n", level, msg, formatPairs(pairs))
	if err != nil {
		r.t.Errorf("log line %q: %v", msg, err)
	}
}

var endingKeys = []string{
	disconnect.KeyConnectType, disconnect.KeyReason, disconnect.KeyExpected,
	disconnect.KeyInitiator, disconnect.KeyDetail,
}

// parseEnding reads the five fields. It reports false for a line that has none of
// them; an error says what is wrong with a line that has some.
func parseEnding(record Record, pairs []pair) (Ending, bool, error) {
	counts := make(map[string]int)
	for _, p := range pairs {
		base := p.key[strings.LastIndexByte(p.key, '.')+1:]
		if slices.Contains(endingKeys, base) {
			counts[p.key]++
		}
	}
	if len(counts) == 0 {
		return Ending{}, false, nil
	}
	e := Ending{Level: record.Level, Message: record.Message, Attrs: maps.Clone(record.Attrs)}
	for _, key := range endingKeys {
		if counts[key] != 1 || len(counts) != len(endingKeys) {
			return e, true, fmt.Errorf("want each disconnect field exactly once at top level, have %v", counts)
		}
		delete(e.Attrs, key)
	}
	var err error
	if e.Attribution, err = parseAttribution(record.Attrs); err != nil {
		return e, true, err
	}
	expected, ok := record.Attrs[disconnect.KeyExpected].(bool)
	if !ok || expected != e.Attribution.Expected() {
		return e, true, fmt.Errorf("%s is %v, which does not follow from reason %s",
			disconnect.KeyExpected, record.Attrs[disconnect.KeyExpected], e.Attribution.Reason)
	}
	e.Expected = expected
	return e, true, nil
}

func parseAttribution(attrs map[string]any) (a disconnect.Attribution, err error) {
	word := func(key string) string {
		s, ok := attrs[key].(string)
		if !ok && err == nil {
			err = fmt.Errorf("%s is a %T, not a string", key, attrs[key])
		}
		return s
	}
	connectType, reason, initiator := word(disconnect.KeyConnectType), word(disconnect.KeyReason), word(disconnect.KeyInitiator)
	a.Detail = word(disconnect.KeyDetail)
	if err != nil {
		return a, err
	}
	if a.ConnectType, err = disconnect.ParseConnectType(connectType); err != nil {
		return a, err
	}
	if a.Reason, err = disconnect.ParseReason(reason); err != nil {
		return a, err
	}
	a.Initiator, err = disconnect.ParseInitiator(initiator)
	return a, err
}

// pair is one attribute after groups were resolved into its key.
type pair struct {
	key   string
	value any
}

func formatPairs(pairs []pair) string {
	var b strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&b, " %s=%v", p.key, p.value)
	}
	return b.String()
}

// recordHandler is the slog.Handler of a Recorder; it is immutable.
type recordHandler struct {
	rec    *Recorder
	prefix string // names of the open groups, each followed by a dot
	pairs  []pair // from WithAttrs
}

// Enabled implements slog.Handler: every level is recorded.
func (h *recordHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *recordHandler) Handle(_ context.Context, record slog.Record) error {
	pairs := slices.Clone(h.pairs)
	record.Attrs(func(a slog.Attr) bool {
		pairs = appendAttr(pairs, h.prefix, a)
		return true
	})
	h.rec.add(record.Level, record.Message, pairs)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *recordHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.pairs = slices.Clone(h.pairs)
	for _, a := range attrs {
		next.pairs = appendAttr(next.pairs, h.prefix, a)
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *recordHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.prefix += name + "."
	return &next
}

// appendAttr resolves a and appends it; a group without a name is inlined.
func appendAttr(pairs []pair, prefix string, a slog.Attr) []pair {
	value := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return pairs
	}
	if value.Kind() != slog.KindGroup {
		return append(pairs, pair{key: prefix + a.Key, value: value.Any()})
	}
	if a.Key != "" {
		prefix += a.Key + "."
	}
	for _, inner := range value.Group() {
		pairs = appendAttr(pairs, prefix, inner)
	}
	return pairs
}
