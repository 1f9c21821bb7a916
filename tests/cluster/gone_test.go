package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestAgentThatStaysDead: who had a session with an agent that was killed, and that nobody
// starts again, hears so long before the outage limit.
func TestAgentThatStaysDead(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	sh := s.OpenShell("dev")
	sh.Type("sleep 7; printf '<%s>' beat\r") // the way is direct by then, and known to work
	sh.Out.AwaitText(t, "<beat>")
	s.Agent.Kill()
	require.Equal(t, 255, sh.Wait(), sh.Out)
	require.Contains(t, sh.Out.String(), "reason=peer_crashed initiator=agent expected=false")
	require.Contains(t, sh.Out.String(), "its machine says that nothing listens where it was")
	require.Contains(t, sh.Out.String(), "The agent of dev was killed or crashed")
}
