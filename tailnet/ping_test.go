package tailnet

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPing(t *testing.T) {
	agent, client := newPair(t)
	rtt, path, err := client.Ping(testContext(t), agent.Key())
	require.NoError(t, err)
	require.Positive(t, rtt)
	require.Less(t, rtt, 20*time.Second)
	require.Equal(t, PathDirect, path.Kind)
	require.NotEmpty(t, path.Endpoint)

	// A peer that forgot us does not answer.
	agent.RemovePeer(client.Key())
	late := errors.New("late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, late)
	defer cancel()
	_, _, err = client.Ping(ctx, agent.Key())
	require.ErrorIs(t, err, late)

	client.RemovePeer(agent.Key())
	_, _, err = client.Ping(testContext(t), agent.Key())
	require.ErrorContains(t, err, "not installed")
	require.NoError(t, client.Close())
	_, _, err = client.Ping(testContext(t), agent.Key())
	require.ErrorContains(t, err, "closed")
}
