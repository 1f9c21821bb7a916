package cluster

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestProvisionalSentenceOfEveryKind: an attachment that is lost, and a stock ssh behind
// which the workspace fell silent, are told in the same words; one that is ended in order
// is not told anything.
func TestProvisionalSentenceOfEveryKind(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--outage-limit", "120s")
	attached := s.OnTerminal("attach", "dev", "--outage-limit", "5s")
	attached.Echo("ready")
	stock := func(command string) *site.Process {
		return s.StartCommand(exec.Command("ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+s.Path("known_hosts"),
			"-o", "ProxyCommand="+site.Binary+" ssh --stdio --outage-limit 5s dev", "dev", command))
	}
	const provisional = "This is provisional; later this tells more: "
	clean := stock("exit 3")
	require.Equal(t, 3, clean.Wait())
	require.NotContains(t, clean.Stderr.String(), provisional)

	lost := stock("echo up; exec sleep 300")
	lost.Stdout.AwaitText(t, "up")
	s.Agent.Freeze()
	require.Equal(t, 255, attached.Wait())
	require.Contains(t, attached.Out.String(), provisional)
	require.Equal(t, 255, lost.Wait())
	require.Contains(t, lost.Stderr.String(), provisional)
	require.Contains(t, lost.Stderr.String(), " why ")
}
