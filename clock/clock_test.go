package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClocks: both go on, and at the same speed as time itself.
func TestClocks(t *testing.T) {
	began, booted, now := time.Now(), Boot(), Now()
	require.Positive(t, booted)
	require.WithinDuration(t, began, now, time.Second)
	<-time.After(20 * time.Millisecond)
	boot, wall := Boot()-booted, Now().Sub(now)
	took := time.Since(began)
	require.GreaterOrEqual(t, boot, 20*time.Millisecond)
	require.GreaterOrEqual(t, wall, 20*time.Millisecond)
	require.LessOrEqual(t, boot, took)
	require.LessOrEqual(t, wall, took)
}
