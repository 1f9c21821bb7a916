package testutil

import (
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"
)

// ExportedLog is one log record that a [Collector] has received.
type ExportedLog struct {
	Resource  map[string]any
	Event     string // its name; empty for a line of a log
	Body      string
	Severity  string
	Time      time.Time
	Attrs     map[string]any
	Authority string // the request's Authorization header
}

// Collector takes logs by OTLP over HTTP, as an OpenTelemetry collector does. All
// methods are safe for concurrent use.
type Collector struct {
	addr string

	mu      sync.Mutex // guards all below
	logs    []ExportedLog
	server  *http.Server
	answer  int           // the status of every answer; 0: 200
	hanging chan struct{} // nil: requests are answered; else they wait until it is closed
}

// NewCollector returns a collector at a free loopback port, which is closed at the end
// of the test.
func NewCollector(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{}
	c.listen(t, "127.0.0.1:0")
	t.Cleanup(c.Stop)
	return c
}

// URL is its address, as OTEL_EXPORTER_OTLP_ENDPOINT has it.
func (c *Collector) URL() string { return "http://" + c.addr }

func (c *Collector) listen(t testing.TB, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(c.take)}
	c.mu.Lock()
	c.addr, c.server = ln.Addr().String(), server
	c.mu.Unlock()
	go func() { _ = server.Serve(ln) }() // Stop ends it
}

// Stop makes the collector unreachable.
func (c *Collector) Stop() {
	c.Hang(false)
	c.mu.Lock()
	server := c.server
	c.mu.Unlock()
	_ = server.Close()
}

// Restart makes a stopped collector reachable again at the same address.
func (c *Collector) Restart(t testing.TB) { c.listen(t, c.addr) }

// Answer makes the collector refuse with a status; 0 makes it take what comes.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = status
}

// Hang makes the collector take connections and requests without an answer, or ends that.
func (c *Collector) Hang(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hanging != nil {
		close(c.hanging)
		c.hanging = nil
	}
	if on {
		c.hanging = make(chan struct{})
	}
}

// Logs returns what has come so far, in order.
func (c *Collector) Logs() []ExportedLog {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logs[:len(c.logs):len(c.logs)]
}

func (c *Collector) take(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	answer, hanging := c.answer, c.hanging
	c.mu.Unlock()
	if hanging != nil {
		select {
		case <-hanging:
		case <-r.Context().Done():
			return
		}
	}
	if answer != 0 {
		w.WriteHeader(answer)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	logs, err := decodeLogs(r)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.logs = append(c.logs, logs...)
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty message is no bytes
}

func decodeLogs(r *http.Request) ([]ExportedLog, error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		body = z
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	var req collogspb.ExportLogsServiceRequest
	if err := proto.Unmarshal(data, &req); err != nil {
		return nil, err
	}
	var logs []ExportedLog
	for _, of := range req.GetResourceLogs() {
		resource := exportedAttrs(of.GetResource().GetAttributes())
		for _, scope := range of.GetScopeLogs() {
			for _, l := range scope.GetLogRecords() {
				logs = append(logs, ExportedLog{
					Resource: resource, Event: l.GetEventName(), Body: l.GetBody().GetStringValue(), Severity: l.GetSeverityText(),
					Time: time.Unix(0, int64(l.GetTimeUnixNano())), Attrs: exportedAttrs(l.GetAttributes()), Authority: r.Header.Get("Authorization"),
				})
			}
		}
	}
	return logs, nil
}

func exportedAttrs(kvs []*commonpb.KeyValue) map[string]any {
	attrs := make(map[string]any, len(kvs))
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			attrs[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_BoolValue:
			attrs[kv.GetKey()] = v.BoolValue
		case *commonpb.AnyValue_IntValue:
			attrs[kv.GetKey()] = v.IntValue
		case *commonpb.AnyValue_DoubleValue:
			attrs[kv.GetKey()] = v.DoubleValue
		default:
			attrs[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return attrs
}
