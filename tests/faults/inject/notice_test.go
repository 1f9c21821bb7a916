package inject

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestPlatformNotice: a real server hears the platform, and of the withdrawal.
func TestPlatformNotice(t *testing.T) {
	t.Parallel()
	lab := build(t, "notice")
	site.Binary = goBuild(t, "grpcnotrace", "fairlead.dev/fairlead/cmd/fairlead") // nobody else here starts it
	home := site.NewHome(t)
	home.In = lab.Server.Command
	server := home.Start("server", "--listen", "0.0.0.0:7080", "--access-url", "http://127.0.0.1:7080", "--state-dir", home.Path("state"),
		"--stun-listen", "127.0.0.1:0", "--insecure-http", "--log-format", "json")
	server.Stderr.AwaitText(t, `"server listening"`)
	home.Must("login", "http://127.0.0.1:7080", "--code", site.OneTimeCode(server))
	home.Must("workspace", "create", "dev", "--token-file", home.Path("agent-token"))
	home.Must("token", "create", "platform", "--token-file", home.Path("token"))
	token, err := os.ReadFile(home.Path("token"))
	require.NoError(t, err)
	noticed := func() bool { return strings.Contains(home.Must("ls", "--output", "json"), `"preempted"`) }

	const url = "http://10.77.2.3:7080"
	require.False(t, noticed())
	notice := done[*Injection](t)(PlatformNotice(t.Context(), lab.Relay, url, strings.TrimSpace(string(token)), "admin/dev", "preempted", time.Now().Add(time.Minute)))
	require.True(t, noticed())
	undo(t, notice)
	require.False(t, noticed())

	_, err = PlatformNotice(t.Context(), lab.Relay, url, "fl_u_wrong", "admin/dev", "preempted", time.Now().Add(time.Minute))
	require.ErrorContains(t, err, "401")
}
