package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk/agentsdk"
	"fairlead.dev/fairlead/testutil"
)

// TestReportConnectionEmpty: an empty IP, which is what is sent when the remote
// address is not known, is fine.
func TestReportConnectionEmpty(t *testing.T) {
	t.Parallel()
	connID := uuid.UUID{1}
	uut := &agent{
		hardCtx: testutil.Context(t, 10*time.Second),
		logger:  slog.New(slog.DiscardHandler),
	}
	disconnected := uut.reportConnection(connID, proto.Connection_TYPE_UNSPECIFIED, "")

	require.Len(t, uut.reportConnections, 1)
	req0 := uut.reportConnections[0]
	require.Equal(t, proto.Connection_TYPE_UNSPECIFIED, req0.GetConnection().GetType())
	require.Empty(t, req0.GetConnection().GetIp())
	require.Equal(t, connID[:], req0.GetConnection().GetId())
	require.Equal(t, proto.Connection_CONNECT, req0.GetConnection().GetAction())

	disconnected(3, "because")
	require.Len(t, uut.reportConnections, 2)
	req1 := uut.reportConnections[1]
	require.Equal(t, proto.Connection_TYPE_UNSPECIFIED, req1.GetConnection().GetType())
	require.Empty(t, req1.GetConnection().GetIp())
	require.Equal(t, connID[:], req1.GetConnection().GetId())
	require.Equal(t, proto.Connection_DISCONNECT, req1.GetConnection().GetAction())
	require.Equal(t, "because", req1.GetConnection().GetReason())
	require.EqualValues(t, 3, req1.GetConnection().GetStatusCode())
	require.False(t, req1.GetConnection().GetTimestamp().AsTime().Before(req0.GetConnection().GetTimestamp().AsTime()))
}

// TestContextConfigAPIFollowsTheManifest: the API is set once and resolves through
// the current manifest, so a manifest that changes on reconnection is followed.
func TestContextConfigAPIFollowsTheManifest(t *testing.T) {
	t.Parallel()
	dir1, dir2 := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	a := &agent{}
	a.contextConfigAPI = agentcontextconfig.NewAPI(a.directory, agentcontextconfig.Config{})
	require.Empty(t, a.contextConfigAPI.MCPConfigFiles(), "no manifest yet, and a relative default")

	a.manifest.Store(&agentsdk.Manifest{Directory: dir1})
	api := a.contextConfigAPI
	require.Equal(t, []string{filepath.Join(dir1, ".mcp.json")}, api.MCPConfigFiles())
	a.manifest.Store(&agentsdk.Manifest{Directory: dir2})
	require.Equal(t, []string{filepath.Join(dir2, ".mcp.json")}, api.MCPConfigFiles())
	require.Same(t, api, a.contextConfigAPI)
}

func TestClassifyCoordinatorRPCExit(t *testing.T) {
	t.Parallel()
	live := context.Background()
	ended, cancel := context.WithCancel(live)
	cancel()
	for _, tc := range []struct {
		name      string
		ctx       context.Context
		err       error
		reason    disconnect.Reason
		initiator disconnect.Initiator
	}{
		{"shutdown", ended, nil, disconnect.ServerShutdown, disconnect.Agent},
		{"shutdown whose clean-up failed", ended, io.ErrUnexpectedEOF, disconnect.ServerShutdown, disconnect.Agent},
		{"the server ended the stream in order", live, nil, disconnect.Graceful, disconnect.Server},
		{"broken stream", live, io.ErrUnexpectedEOF, disconnect.NetworkError, disconnect.Network},
		{"a sibling's cancellation is no shutdown", live, context.Canceled, disconnect.NetworkError, disconnect.Network},
		{"wrapped", live, fmt.Errorf("recv: %w", errors.New("broken")), disconnect.NetworkError, disconnect.Network},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reason, initiator := classifyCoordinatorRPCExit(tc.ctx, tc.err)
			require.Equal(t, tc.reason, reason)
			require.Equal(t, tc.initiator, initiator)
		})
	}
}
