package timeline_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/timeline"
)

func TestOneClock(t *testing.T) {
	zero := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var l timeline.Line
	l.Add(zero, "lab", "signal agent KILL")
	l.Log("server", `{"time":"2026-11-23T12:00:01.5Z","level":"WARN","msg":"agent control link ended","disconnect_reason":"network_error","detail":"two words"}
panic: no JSON
`, zero)
	l.Log("agent", `{"time":"2026-11-23T11:59:59Z","level":"INFO","msg":"connected"}`, zero)
	var out strings.Builder
	require.NoError(t, l.Write(&out, zero))
	require.Equal(t, `   -1.000  agent   INFO  connected
   +0.000  lab     signal agent KILL
   +1.500  server  WARN  agent control link ended detail="two words" disconnect_reason=network_error
   +1.500  server  panic: no JSON
`, out.String())
}
