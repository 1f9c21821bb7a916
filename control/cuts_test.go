package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
)

func TestEarlyCutsAreToldOnce(t *testing.T) {
	cut := disconnect.Attribution{Reason: disconnect.NetworkError}
	reset := disconnect.Attribution{Reason: disconnect.ConnectionReset}
	stop := disconnect.Attribution{Reason: disconnect.ServerShutdown}
	var c control.Cuts
	require.False(t, c.Note(2*time.Second, cut))
	require.False(t, c.Note(2*time.Second, reset))
	require.True(t, c.Note(2*time.Second, cut), "the third in a row")
	require.False(t, c.Note(2*time.Second, cut), "told already")

	require.False(t, c.Note(time.Minute, cut), "a link that lived")
	require.False(t, c.Note(2*time.Second, cut))
	require.False(t, c.Note(2*time.Second, cut))
	require.False(t, c.Note(2*time.Second, stop), "somebody said why")
	require.False(t, c.Note(2*time.Second, cut))
	require.False(t, c.Note(2*time.Second, cut))
	require.True(t, c.Note(2*time.Second, cut), "another series")
}
