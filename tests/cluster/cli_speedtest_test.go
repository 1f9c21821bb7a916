package cluster

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestSpeedtest: both directions as lines, as JSON and as a plot, one at a time, and what
// happens when the agent goes or the user does.
func TestSpeedtest(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	r := s.Run("speedtest", "dev", "--duration", "1s")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Regexp(t, `^download +[\d.]+ \w+/s  [\d.]+ \w+ in [\d.]+ s  direct \S+\nupload +[\d.]+ \w+/s  .*  direct \S+\n$`, r.Stdout)
	require.Empty(t, r.Stderr)

	r = s.Run("speedtest", "dev", "--duration", "1s", "--force-relay", "-o", "json", "--log-file", s.Path("speed.log"), "--log-format", "json")
	require.Equal(t, 0, r.Code, r.Stderr)
	var report struct {
		Workspace string
		Results   []struct {
			Direction     string
			Bytes         int64
			Seconds       float64
			BitsPerSecond float64   `json:"bits_per_second"`
			Samples       []float64 `json:"samples_bits_per_second"`
			Path          struct{ Kind string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &report), r.Stdout)
	require.Len(t, report.Results, 2)
	for i, direction := range []string{"download", "upload"} {
		result := report.Results[i]
		require.Equal(t, []any{direction, "relay"}, []any{result.Direction, result.Path.Kind})
		require.Positive(t, result.Bytes)
		require.GreaterOrEqual(t, result.Seconds, 0.9)
		require.InDelta(t, float64(result.Bytes)*8/result.Seconds, result.BitsPerSecond, 1)
		require.NotEmpty(t, result.Samples)
	}

	term := s.OnTerminal("speedtest", "dev", "--duration", "1s", "--direction", "upload")
	require.Equal(t, 0, term.Wait())
	require.Contains(t, term.Out.String(), "█")

	long := s.OnTerminal("speedtest", "dev", "--duration", "30s", "--direction", "download")
	long.Out.AwaitText(t, "bit/s")
	r = s.Run("speedtest", "dev", "--duration", "1s", "--direction", "download")
	require.Equal(t, 1, r.Code)
	require.Equal(t, "fairlead: measure the download: another speed test is under way in this workspace\n", r.Stderr)
	long.Type("\x03")
	require.Equal(t, 1, long.Wait())
	require.Contains(t, long.Out.String(), "fairlead: stopped before the speed was known")

	var doomed *site.Terminal
	site.Eventually(t, "the agent to hear that it is over", func() bool {
		doomed = s.OnTerminal("speedtest", "dev", "--duration", "30s")
		text := doomed.Out.Await(t, "a rate, or a refusal", func(s string) bool { return strings.Contains(s, "bit/s") || strings.Contains(s, "under way") })
		return strings.Contains(text, "bit/s")
	})
	s.Agent.Stop()
	require.Equal(t, 5, doomed.Wait())
	require.Contains(t, doomed.Out.String(), "fairlead: measure the download: ")
	for _, args := range [][]string{{}, {"dev", "x"}, {"dev", "-t", "31s"}, {"dev", "-t", "1500ms"}, {"dev", "-t", "0s"}, {"dev", "--direction", "x"}} {
		r := s.Run(append([]string{"speedtest"}, args...)...)
		require.Equal(t, 2, r.Code, "%q: %s", args, r.Stderr)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"))
	}
	require.Equal(t, 1, s.Run("speedtest", "nowhere").Code)
}
