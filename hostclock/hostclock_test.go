package hostclock

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClocksGoOn(t *testing.T) {
	first := Now()
	begin := time.Now()
	<-time.After(20 * time.Millisecond)
	second, passed := Now(), time.Since(begin)
	require.GreaterOrEqual(t, second.Awake-first.Awake, passed-time.Millisecond)
	require.GreaterOrEqual(t, second.Boot-first.Boot, passed-time.Millisecond)
	require.GreaterOrEqual(t, second.Boot, second.Awake)
}

// TestBootCountsFromTheStart: /proc/uptime counts sleep, as the boot clock does.
func TestBootCountsFromTheStart(t *testing.T) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Skip("the system has no /proc/uptime")
	}
	up, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	require.NoError(t, err)
	require.InDelta(t, seconds, Now().Boot.Seconds(), 2)
}
