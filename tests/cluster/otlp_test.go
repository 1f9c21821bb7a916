package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
	"fairlead.dev/fairlead/testutil"
)

// exported returns the first record that c has from a service for which ok is true.
func exported(c *testutil.Collector, service string, ok func(testutil.ExportedLog) bool) (testutil.ExportedLog, bool) {
	for _, l := range c.Logs() {
		if l.Resource["service.name"] == service && ok(l) {
			return l, true
		}
	}
	return testutil.ExportedLog{}, false
}

// awaitExported waits for a record.
func awaitExported(t *testing.T, c *testutil.Collector, service, what string, ok func(testutil.ExportedLog) bool) (found testutil.ExportedLog) {
	t.Helper()
	site.Eventually(t, what+" of "+service, func() (is bool) {
		found, is = exported(c, service, ok)
		return is
	})
	return found
}

// TestExport: server and agent send their logs to a collector, and the server what
// becomes of the connections in its log; the credentials go nowhere else.
func TestExport(t *testing.T) {
	t.Parallel()
	c := testutil.NewCollector(t)
	s := site.Empty(t)
	s.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL(), "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20s3cret", "OTEL_BLRP_SCHEDULE_DELAY=20")
	s.StartServer()
	s.Settle()
	s.StartAgent()
	ran := s.Run("ssh", "dev", "--", "env; exit 3")
	require.Equal(t, 3, ran.Code)
	require.NotContains(t, ran.Stdout, "s3cret", "a session inherits the collector's password")

	ofSession := func(event string) func(testutil.ExportedLog) bool {
		return func(l testutil.ExportedLog) bool { return l.Event == event && l.Attrs["type"] == "ssh" }
	}
	closed := awaitExported(t, c, "fairlead-server", "the session's end", ofSession("fairlead.connection.closed"))
	opened := awaitExported(t, c, "fairlead-server", "the session's beginning", ofSession("fairlead.connection.opened"))
	require.Equal(t, opened.Attrs["connection_id"], closed.Attrs["connection_id"])
	for key, value := range map[string]any{
		"connect_type": "agent_to_client", "disconnect_reason": "process_exited", "disconnect_expected": true, "disconnect_initiator": "agent",
		"exit_code": int64(3), "workspace": "dev", "user": "admin",
	} {
		require.Equal(t, value, closed.Attrs[key], key)
	}
	require.Contains(t, closed.Attrs, "disconnect_detail")
	require.Positive(t, closed.Attrs["duration"])
	require.Equal(t, "Bearer s3cret", closed.Authority)

	line := awaitExported(t, c, "fairlead-agent", "the agent's own line", func(l testutil.ExportedLog) bool { return l.Body == "ssh session closed" })
	require.Equal(t, "process_exited", line.Attrs["disconnect_reason"])
	s.Agent.Stop()
	s.Server.Stop()
	_, told := exported(c, "fairlead-agent", func(l testutil.ExportedLog) bool {
		return l.Body == "disconnected from server" && l.Attrs["disconnect_reason"] == "server_shutdown"
	})
	require.True(t, told, "what is logged last is exported, too")
	for _, p := range []*site.Process{s.Server, s.Agent} {
		require.NotContains(t, p.Stderr.String(), "s3cret")
	}
}

// TestExportOfUp: one process, and a collector that is not there: nobody waits for it.
func TestExportOfUp(t *testing.T) {
	t.Parallel()
	c := testutil.NewCollector(t)
	h := site.NewHome(t)
	h.Setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="+c.URL()+"/v1/logs", "OTEL_SERVICE_NAME=mine", "OTEL_BLRP_SCHEDULE_DELAY=20", "FAIRLEAD_LOG_LEVEL=info")
	metricsAddr := site.FreeAddress(t)
	up, _ := site.StartUp(h, "--metrics-listen", metricsAddr)
	awaitExported(t, c, "mine", "the agent's end of the link", func(l testutil.ExportedLog) bool { return l.Attrs["role"] == "agent" })
	c.Stop()
	require.Zero(t, h.Run("ssh", "local", "--", "true").Code)
	site.Eventually(t, "a complaint", func() bool { return strings.Contains(up.Stderr.String(), "cannot export the log") })
	require.Contains(t, scrape(t, metricsAddr), "\nfairlead_otlp_records_exported_total ")
	up.Stop()
	require.Equal(t, 1, strings.Count(up.Stderr.String(), "cannot export the log"))
}
