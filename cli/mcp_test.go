package cli

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/client"
)

// TestMCPTools: each tool has a schema that can be made, and only one changes anything.
func TestMCPTools(t *testing.T) {
	m := &mcpServer{}
	server := mcp.NewServer(&mcp.Implementation{Name: "fairlead", Version: "1"}, nil)
	m.addTools(server)
	here, there := mcp.NewInMemoryTransports()
	session, err := server.Connect(t.Context(), here, nil)
	require.NoError(t, err)
	agent, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), there, nil)
	require.NoError(t, err)
	list, err := agent.ListTools(t.Context(), nil)
	require.NoError(t, err)
	changes := map[string]bool{}
	for _, tool := range list.Tools {
		changes[tool.Name] = tool.Annotations == nil || !tool.Annotations.ReadOnlyHint
		require.NotEmpty(t, tool.Description)
		require.NotNil(t, tool.InputSchema)
		require.NotNil(t, tool.OutputSchema)
	}
	require.Equal(t, map[string]bool{
		"list_workspaces": false, "read_context": false, "connections": false, "why": false, "run_command": true,
	}, changes)
	require.NoError(t, agent.Close())
	require.NoError(t, session.Wait())
}

func TestClip(t *testing.T) {
	half := strings.Repeat("h", maxClip/2)
	for name, tt := range map[string]struct {
		writes  []string
		want    string
		omitted int64
	}{
		"nothing":       {nil, "", 0},
		"little":        {[]string{"a", "b\n"}, "ab\n", 0},
		"all there is":  {[]string{half, half}, half + half, 0},
		"one more":      {[]string{half, "x" + half}, half + "\n[1 bytes left out]\n" + half, 1},
		"at once":       {[]string{half + strings.Repeat("m", 5<<20) + half}, half + "\n[5242880 bytes left out]\n" + half, 5 << 20},
		"byte by byte":  {strings.Split(half+strings.Repeat("m", maxClip)+half, ""), half + "\n[65536 bytes left out]\n" + half, maxClip},
		"no text":       {[]string{"a\xff\xfeb"}, "a\ufffdb", 0},
		"in the middle": {[]string{half[:100], strings.Repeat("n", maxClip), "end"}, half[:100] + strings.Repeat("n", maxClip/2-100) + "\n[103 bytes left out]\n" + strings.Repeat("n", maxClip/2-3) + "end", 103},
	} {
		t.Run(name, func(t *testing.T) {
			var c clip
			for _, w := range tt.writes {
				n, err := c.Write([]byte(w))
				require.NoError(t, err)
				require.Equal(t, len(w), n)
				require.LessOrEqual(t, len(c.tail), maxClip+maxClip/2)
			}
			text, omitted := c.text()
			require.Equal(t, tt.want, text)
			require.Equal(t, tt.omitted, omitted)
		})
	}
}

// TestCommandThatDoesNotEnd: it is asked to, then made to, and only when even that does
// not help is the workspace left.
func TestCommandThatDoesNotEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		cancelled bool // by the coding agent, and not too slow
		heeds     os.Signal
		took      time.Duration
	}{
		"timed out":   {false, syscall.SIGTERM, time.Minute},
		"stubborn":    {false, syscall.SIGKILL, time.Minute + commandGrace},
		"out of hand": {false, nil, time.Minute + 2*commandGrace},
		"not wanted":  {true, syscall.SIGTERM, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancelled {
					cancel()
				}
				session, leave := context.WithCancel(context.Background())
				defer leave()
				signals, ended := make(chan os.Signal, 2), make(chan client.SessionEnd, 1)
				go func() {
					for {
						select {
						case s := <-signals:
							if s != tt.heeds {
								continue
							}
						case <-session.Done():
						}
						ended <- client.SessionEnd{ExitCode: 7}
						return
					}
				}()
				begin := time.Now()
				end, timedOut := awaitCommand(ctx, ended, signals, time.Minute, leave)
				require.Equal(t, 7, end.ExitCode)
				require.Equal(t, !tt.cancelled, timedOut)
				require.Equal(t, tt.took, time.Since(begin))
				require.Equal(t, tt.heeds == nil, session.Err() != nil)
			})
		})
	}
}
