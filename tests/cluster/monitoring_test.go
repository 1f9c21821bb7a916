package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"fairlead.dev/fairlead/tests/site"
	"fairlead.dev/fairlead/testutil"
)

// expressions returns those of the dashboard and of the alerts, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	data, err := os.ReadFile("../../deploy/grafana/fairlead.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &dashboard))
	data, err = os.ReadFile("../../deploy/prometheus/alerts.yml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &alerts))
	all := map[string]string{}
	for _, p := range dashboard.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			all[p.Title+" "+target.RefID] = target.Expr
		}
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r.Expr
		}
	}
	return all
}

// monitored is a site with everything that the dashboard shows: metrics, sessions that have
// ended, a refused stranger and a collector.
func monitored(t *testing.T) (serverAddr, agentAddr string) {
	t.Helper()
	serverAddr, agentAddr = site.FreeAddress(t), site.FreeAddress(t)
	s := site.Empty(t)
	s.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT="+testutil.NewCollector(t).URL(), "FAIRLEAD_METRICS_LISTEN="+serverAddr)
	s.StartServer()
	s.Settle()
	s.StartAgent("--metrics-listen", agentAddr)
	require.Equal(t, 3, s.Run("ssh", "dev", "--", "exit 3").Code)
	require.Equal(t, 137, s.Run("ssh", "dev", "--", "kill -9 $$").Code)
	resp, err := http.Get(s.URL + "/api/v1/me")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	site.Eventually(t, "both sessions in the server's metrics", func() bool {
		return strings.Contains(scrape(t, serverAddr), `fairlead_connection_duration_seconds_count{connect_type="agent_to_client",type="ssh"} 2`)
	})
	return serverAddr, agentAddr
}

var (
	metricName   = regexp.MustCompile(`\b(?:fairlead|go|process)_[a-z0-9_]+`)
	exposedNames = regexp.MustCompile(`(?m)^([a-z0-9_]+)[{ ]`)
)

// TestMonitoringNamesWhatThereIs: no panel and no alert waits for a metric that no process
// has, and promtool has nothing against the alerts and the metrics.
func TestMonitoringNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	serverAddr, agentAddr := monitored(t)
	ofServer, ofAgent := scrape(t, serverAddr), scrape(t, agentAddr)
	exposed := map[string]bool{}
	for _, name := range exposedNames.FindAllStringSubmatch(ofServer+ofAgent, -1) {
		exposed[name[1]] = true
	}
	for where, expr := range expressions(t) {
		names := metricName.FindAllString(expr, -1)
		require.NotEmpty(t, names, where)
		for _, name := range names {
			require.True(t, exposed[name], "%s: no process has %s", where, name)
		}
	}

	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is missing: Debian's package prometheus has it")
	}
	run := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "promtool %v: %s", args, out)
	}
	run("", "check", "rules", "../../deploy/prometheus/alerts.yml")
	run("", "test", "rules", "../../deploy/prometheus/alerts_test.yml")
	run(ofServer, "check", "metrics")
	run(ofAgent, "check", "metrics")
}

// TestMonitoringWithPrometheus: a real Prometheus watches server and agent, takes the
// alerts, and has an answer to every question of the dashboard.
func TestMonitoringWithPrometheus(t *testing.T) {
	t.Parallel()
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is missing: it is Debian's package of that name")
	}
	serverAddr, agentAddr := monitored(t)
	alerts, err := filepath.Abs("../../deploy/prometheus/alerts.yml")
	require.NoError(t, err)
	h, addr := site.NewHome(t), site.FreeAddress(t)
	config := h.Write("prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}
rule_files: [%q]
scrape_configs: [{job_name: fairlead, static_configs: [{targets: [%q, %q]}]}]
`, alerts, serverAddr, agentAddr))
	h.StartCommand(exec.Command(prometheus, "--config.file="+config, "--storage.tsdb.path="+h.Path("tsdb"), "--web.listen-address="+addr))

	variables := strings.NewReplacer("$job", ".*", "$__rate_interval", "1m", "$__range", "1m")
	for where, expr := range expressions(t) {
		if strings.HasPrefix(where, "Fairlead") { // an alert: it has no answer when all is well
			continue
		}
		site.Eventually(t, "an answer to "+where, func() bool {
			answer, _ := ask(t, addr, "query", url.Values{"query": {variables.Replace(expr)}})
			var vector struct{ Result []any }
			return json.Unmarshal(answer, &vector) == nil && len(vector.Result) > 0
		})
	}
	site.Eventually(t, "alerts that Prometheus has evaluated", func() bool {
		answer, _ := ask(t, addr, "rules", nil)
		return bytes.Count(answer, []byte(`"health":"ok"`)) == 2
	})
}

// ask returns the data of an answer of Prometheus, nothing while it does not answer. A
// question that it does not understand fails the test.
func ask(t *testing.T, addr, what string, query url.Values) (data json.RawMessage, ok bool) {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/api/v1/" + what + "?" + query.Encode())
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusServiceUnavailable {
		return nil, false
	}
	require.Equal(t, http.StatusOK, resp.StatusCode, "%v: %s", query, body)
	var answer struct{ Data json.RawMessage }
	require.NoError(t, json.Unmarshal(body, &answer))
	return answer.Data, true
}
