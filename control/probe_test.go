package control

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProbe(t *testing.T) {
	w := newWorld(t, nil)
	dialled, accepted := w.dial(t, w.options("agent"))
	receive(t, accepted.greeted.done())
	start := time.Now()
	for range 3 {
		require.True(t, accepted.Probe(testContext(t)))
	}
	require.Less(t, time.Since(start), defaultHeartbeat, "the answer does not wait for the next heartbeat")
	require.True(t, dialled.Probe(testContext(t)), "either side may ask")

	// A program that stands still: its kernel takes the bytes, nobody answers.
	dialled.sendMu.Lock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.False(t, accepted.Probe(ctx))
	dialled.sendMu.Unlock()

	require.NoError(t, dialled.Close(goodbye(20, 2, "bye")))
	receive(t, accepted.Done())
	require.False(t, accepted.Probe(testContext(t)), "the link has ended")
}
