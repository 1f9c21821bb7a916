package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
)

// TestLastEnding: what a person asks about is a session, or a forward that failed alone.
func TestLastEnding(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	row := func(kind, reason string, expected bool, after time.Duration) sdk.Connection {
		at := begin.Add(after)
		return sdk.Connection{ID: kind + " " + reason, Type: kind, Reason: &reason, Expected: &expected, DisconnectedAt: &at}
	}
	session := row("ssh", "network_timeout", false, 10*time.Second)
	for name, test := range map[string]struct {
		rows []sdk.Connection
		want string
	}{
		"nothing":                      {nil, ""},
		"a page was loaded since":      {[]sdk.Connection{row("port_forward", "graceful", true, time.Minute), session}, session.ID},
		"the forwards of that session": {[]sdk.Connection{row("jetbrains", "network_timeout", false, 11*time.Second), session}, session.ID},
		"in the other order":           {[]sdk.Connection{session, row("jetbrains", "network_timeout", false, 11*time.Second)}, session.ID},
		"a forward that failed alone":  {[]sdk.Connection{session, row("port_forward", "connection_reset", false, 11*time.Second)}, "port_forward connection_reset"},
		"a forward before it":          {[]sdk.Connection{row("port_forward", "connection_reset", false, time.Second), session}, session.ID},
		"two sessions":                 {[]sdk.Connection{row("ssh", "graceful", true, time.Minute), session}, "ssh graceful"},
	} {
		require.Equal(t, test.want, lastEnding(test.rows).ID, name)
	}
}
