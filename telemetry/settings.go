package telemetry

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"

	"fairlead.dev/fairlead/disconnect"
)

// defaultQueueSize is the standard's, in records.
const defaultQueueSize = 2048

// settings returns the collector's address, for people: empty when the environment does
// not ask for an export. All other variables the SDK reads by itself.
func settings() (endpoint string, err error) {
	endpoint = cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	exporter := cmp.Or(os.Getenv("OTEL_LOGS_EXPORTER"), "otlp")
	if endpoint == "" || exporter == "none" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return "", nil
	}
	if exporter != "otlp" {
		return "", fmt.Errorf("OTEL_LOGS_EXPORTER is %q: use otlp or none", exporter)
	}
	protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	if protocol != "http/protobuf" {
		return "", fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q: only http/protobuf is spoken here", protocol)
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", errors.New("OTEL_EXPORTER_OTLP_ENDPOINT is no URL: give one like http://127.0.0.1:4318")
	}
	return u.Scheme + "://" + u.Host, nil // the rest may hold secrets
}

// queueSize is how many records may wait.
func queueSize() int {
	if n, err := strconv.Atoi(os.Getenv("OTEL_BLRP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		return n
	}
	return defaultQueueSize
}

// complain logs what the SDK has to say of its variables.
func complain(logger *slog.Logger, err error) {
	text := disconnect.Scrub(err.Error())
	if strings.Contains(text, "_HEADERS") || strings.Contains(strings.ToLower(text), "header") {
		text = "OTEL_EXPORTER_OTLP_HEADERS is not valid: give key=value,key=value" // the SDK repeats the value, which is secret
	}
	logger.Warn("a setting of the log's export was left out", "error", text)
}

// Forget takes the headers of the export, which are credentials, out of the environment,
// so that no process that is started from now on inherits them. Call it after Start.
func (e *Exporter) Forget() {
	if e == nil {
		return
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"} {
		_ = os.Unsetenv(name) // fails only for an invalid name
	}
}
