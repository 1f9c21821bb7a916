package cluster

import (
	"bufio"
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// pingLine is any line of `ping --output json`.
type pingLine struct {
	Type      string   `json:"type"`
	Workspace string   `json:"workspace"`
	Sequence  int      `json:"sequence"`
	RTT       *float64 `json:"rtt_ms"`
	Path      struct {
		Kind     string `json:"kind"`
		Endpoint string `json:"endpoint"`
		Relay    string `json:"relay"`
	} `json:"path"`
	Sent     int     `json:"sent"`
	Answered int     `json:"answered"`
	Loss     float64 `json:"loss_percent"`
	Reason   string  `json:"disconnect_reason"`
	Connect  string  `json:"connect_type"`
}

// pingLines parses NDJSON, of which every line must be one object.
func pingLines(t *testing.T, text string) []pingLine {
	t.Helper()
	var all []pingLine
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		var line pingLine
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line), lines.Text())
		all = append(all, line)
	}
	return all
}

func TestPing(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, url := site.StartUp(h)

	t.Run("one answer as JSON", func(t *testing.T) {
		r := h.Run("ping", "--once", "--output", "json", "local")
		require.Equal(t, 0, r.Code, r.Stderr)
		require.Empty(t, r.Stderr)
		lines := pingLines(t, r.Stdout)
		var answers []pingLine
		for _, line := range lines {
			require.Equal(t, "local", line.Workspace)
			if line.Type == "answer" {
				answers = append(answers, line)
			}
		}
		require.Len(t, answers, 1)
		require.Positive(t, *answers[0].RTT)
		require.Contains(t, []string{"direct", "relay"}, answers[0].Path.Kind)
		last := lines[len(lines)-1]
		require.Equal(t, "summary", last.Type)
		require.Equal(t, []any{1, 1, 0.0, "graceful", "agent_to_client"},
			[]any{last.Sent, last.Answered, last.Loss, last.Reason, last.Connect})
	})
	t.Run("the upgrade to direct", func(t *testing.T) {
		r := h.Run("ping", "--until-direct", "--interval", "50ms", "--count", "400", "local")
		require.Equal(t, 0, r.Code, r.Stdout+r.Stderr)
		require.Contains(t, r.Stdout, "path to local: direct ")
		require.Contains(t, r.Stdout, ", direct after ")
	})
	t.Run("only the relay", func(t *testing.T) {
		r := h.Run("ping", "--force-relay", "--until-direct", "--interval", "50ms", "-c", "3", "-o", "json", "local")
		require.Equal(t, 6, r.Code, r.Stdout+r.Stderr)
		lines := pingLines(t, r.Stdout)
		last := lines[len(lines)-1]
		require.Equal(t, []any{3, 3, "relay"}, []any{last.Sent, last.Answered, last.Path.Kind})
	})
	t.Run("Ctrl-C tells the summary", func(t *testing.T) {
		p := h.Start("ping", "local", "--log-file", h.Path("ping.log"), "--log-format", "json")
		p.Stdout.AwaitText(t, "answer 1 from local")
		p.Signal(syscall.SIGINT)
		require.Equal(t, 0, p.Wait())
		require.Contains(t, p.Stdout.String(), "0% lost")
		require.Empty(t, p.Stderr.String())
	})
	t.Run("bad input", func(t *testing.T) {
		for _, args := range [][]string{
			{}, {"a", "b"}, {"Local"}, {"../x"}, {"-c", "-1", "local"}, {"--once", "-c", "2", "local"},
			{"--interval", "1ns", "local"}, {"--timeout", "0s", "local"}, {"-o", "yaml", "local"},
		} {
			r := h.Run(append([]string{"ping"}, args...)...)
			require.Equal(t, 2, r.Code, "%q: %s", args, r.Stderr)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
			require.Empty(t, r.Stdout)
		}
		r := h.Run("ping", "nowhere")
		require.Equal(t, 1, r.Code)
		require.Equal(t, "fairlead: there is no workspace nowhere\n", r.Stderr)
	})
	t.Run("no login", func(t *testing.T) { require.Equal(t, 4, site.NewHome(t).Run("ping", "local").Code) })

	up.Stop()
	gone := h.Run("ping", "--once", "local")
	require.Equal(t, 255, gone.Code)
	require.Contains(t, gone.Stderr, url)
}

// TestPingAgentGone: the agent dies while it is pinged, and is not there afterwards.
func TestPingAgentGone(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	p := s.Start("ping", "dev", "--interval", "50ms", "--timeout", "200ms", "--outage-limit", "2s")
	p.Stdout.AwaitText(t, "answer 1 from dev")
	s.Agent.Kill()
	require.Equal(t, 5, p.Wait(), "the agent is gone")
	require.Contains(t, p.Stderr.String(), "fairlead: connection to dev ended: reason=")
	require.Equal(t, 1, strings.Count(p.Stderr.String(), "\n"))
	require.Contains(t, p.Stdout.String(), "% lost")

	s.AwaitAgent("offline")
	r := s.Run("ping", "--once", "dev")
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "the agent of workspace dev is offline")
	require.Empty(t, r.Stdout)
}
