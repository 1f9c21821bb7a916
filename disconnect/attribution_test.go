package disconnect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var sample = Attribution{AgentToClient, NetworkTimeout, Network, "no heartbeat for 12s"}

var fiveKeys = []string{"connect_type", "disconnect_reason", "disconnect_expected", "disconnect_initiator", "disconnect_detail"}

// Every ending, logged in each way, has each of the five keys exactly once.
func TestLogLineHasEachFieldOnce(t *testing.T) {
	many := make([]slog.Attr, 20)
	for i := range many {
		many[i] = slog.Int(fmt.Sprintf("extra_%d", i), i)
	}
	sites := map[string]func(*slog.Logger, Attribution){
		"Log": func(l *slog.Logger, a Attribution) { a.Log(t.Context(), l, "session closed") },
		"Log with": func(l *slog.Logger, a Attribution) {
			a.Log(t.Context(), l.With("peer", "p"), "session closed", many...)
		},
		"Attr": func(l *slog.Logger, a Attribution) {
			l.LogAttrs(t.Context(), slog.LevelInfo, "session closed", a.Attr())
		},
	}
	for name, site := range sites {
		for _, reason := range append(Reasons(), 99) {
			for _, detail := range []string{"", "disconnect_reason=graceful", "line\nbreak"} {
				a := Attribution{ClientToServer, reason, Network, detail}
				var asJSON, asText bytes.Buffer
				site(slog.New(slog.NewJSONHandler(&asJSON, nil)), a)
				site(slog.New(slog.NewTextHandler(&asText, nil)), a)
				for _, key := range fiveKeys {
					require.Equal(t, 1, strings.Count(asJSON.String(), `"`+key+`":`), "%s: %s: %s", name, key, asJSON.String())
					quoted := strings.ReplaceAll(asText.String(), `"disconnect_reason=graceful"`, "")
					require.Equal(t, 1, strings.Count(quoted, " "+key+"="), "%s: %s: %s", name, key, asText.String())
				}
				var line map[string]any
				require.NoError(t, json.Unmarshal(asJSON.Bytes(), &line))
				require.Equal(t, "client_to_server", line["connect_type"])
				require.Equal(t, reason.String(), line["disconnect_reason"])
				require.Equal(t, reason.Expected(), line["disconnect_expected"])
				require.Equal(t, "network", line["disconnect_initiator"])
				require.Equal(t, Scrub(detail), line["disconnect_detail"])
				require.Equal(t, "session closed", line["msg"])
				require.Equal(t, 1, strings.Count(asText.String(), "\n"))
			}
		}
	}
}

func TestLogLevelAndSource(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{AddSource: true}))
	for _, r := range Reasons() {
		out.Reset()
		Attribution{AgentToClient, r, Agent, ""}.Log(t.Context(), logger, "session closed")
		var line struct {
			Level  string
			Source slog.Source
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &line))
		want := "WARN"
		if r.Expected() {
			want = "INFO"
		}
		require.Equal(t, want, line.Level, r)
		require.Contains(t, line.Source.File, "attribution_test.go", "the site, not the helper")
	}
}

func TestLogRespectsTheLogger(t *testing.T) {
	sample.Log(t.Context(), nil, "a nil logger discards")
	var out bytes.Buffer
	sample.Log(t.Context(), slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})), "too low")
	require.Empty(t, out.String())
}

func TestAttributionLine(t *testing.T) {
	require.Equal(t, `reason=network_timeout initiator=network expected=false detail="no heartbeat for 12s"`, sample.String())
	require.Equal(t, `reason=graceful initiator=client expected=true`, Attribution{AgentToClient, Graceful, Client, ""}.String())
	require.Equal(t, `reason=graceful initiator=client expected=true detail="a \"b\" c"`,
		Attribution{AgentToClient, Graceful, Client, "a \"b\"\nc"}.String())
	require.True(t, Attribution{}.IsZero())
	require.False(t, sample.IsZero())
}

func TestEndedError(t *testing.T) {
	seen := fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
	ended := &EndedError{sample, seen}
	require.ErrorIs(t, ended, io.ErrUnexpectedEOF)
	require.Equal(t, sample.String()+": read: unexpected EOF", ended.Error())
	require.Equal(t, sample.String(), (&EndedError{Attribution: sample}).Error())

	judged := &EndedError{Judge(seen, AgentToClient, Agent), seen}
	require.Equal(t, 1, strings.Count(judged.Error(), "unexpected EOF"), "said once: %s", judged)
	hostile := &EndedError{sample, errors.New("\x1b[2J")}
	require.NotContains(t, hostile.Error(), "\x1b")

	got, ok := FromError(fmt.Errorf("ssh: %w", ended))
	require.True(t, ok)
	require.Equal(t, sample, got)
	_, ok = FromError(io.EOF)
	require.False(t, ok)
	_, ok = FromError(nil)
	require.False(t, ok)

	ctx, cancel := context.WithCancelCause(t.Context())
	_, ok = FromContext(ctx)
	require.False(t, ok)
	cancel(ended)
	inner, stop := context.WithCancel(ctx)
	defer stop()
	got, ok = FromContext(inner)
	require.True(t, ok)
	require.Equal(t, sample, got)
}

func TestLatchKeepsTheFirst(t *testing.T) {
	var latch Latch
	_, ok := latch.Get()
	require.False(t, ok)

	var wg sync.WaitGroup
	won := make(chan Attribution, 8)
	for i := range cap(won) {
		wg.Go(func() {
			a := sample
			a.Detail = fmt.Sprint(i)
			if latch.Set(a) {
				won <- a
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	got, ok := latch.Get()
	require.True(t, ok)
	require.Equal(t, <-won, got)
	require.False(t, latch.Set(Attribution{}), "even after it was read")
}

// noHandler accepts every record and does nothing with it.
type noHandler struct{}

func (noHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (noHandler) Handle(context.Context, slog.Record) error { return nil }
func (h noHandler) WithAttrs([]slog.Attr) slog.Handler      { return h }
func (h noHandler) WithGroup(string) slog.Handler           { return h }

func TestLogAllocations(t *testing.T) {
	ctx, logger := context.Background(), slog.New(noHandler{})
	require.Zero(t, testing.AllocsPerRun(100, func() {
		sample.Log(ctx, logger, "session closed")
	}))
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		sample.Log(ctx, logger, "session closed", slog.String("peer", "p"))
	}), 2.0)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		logger.LogAttrs(ctx, slog.LevelInfo, "session closed", sample.Attr())
	}), 2.0)
}

// The price of Log is measured against the same line with the five fields by hand.
func BenchmarkAttribution(b *testing.B) {
	for name, handler := range benchHandlers() {
		b.Run(name, func(b *testing.B) {
			ctx, logger := context.Background(), slog.New(handler)
			b.ReportAllocs()
			for b.Loop() {
				sample.Log(ctx, logger, "session closed")
			}
		})
	}
}

func BenchmarkFiveAttributes(b *testing.B) {
	for name, handler := range benchHandlers() {
		b.Run(name, func(b *testing.B) {
			ctx, logger := context.Background(), slog.New(handler)
			b.ReportAllocs()
			for b.Loop() {
				logger.LogAttrs(ctx, slog.LevelWarn, "session closed",
					slog.String("connect_type", "agent_to_client"),
					slog.String("disconnect_reason", "network_timeout"),
					slog.Bool("disconnect_expected", false),
					slog.String("disconnect_initiator", "network"),
					slog.String("disconnect_detail", sample.Detail))
			}
		})
	}
}

func benchHandlers() map[string]slog.Handler {
	return map[string]slog.Handler{"none": noHandler{}, "json": slog.NewJSONHandler(io.Discard, nil)}
}
