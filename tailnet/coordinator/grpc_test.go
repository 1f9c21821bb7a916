package coordinator

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
)

// A client that asks and asks and never reads, over a real link: neither gRPC's flow
// control nor its blocked Send may hold the server up.
func TestSlowStreamOverARealLink(t *testing.T) {
	t.Parallel()
	logger, rec := testutil.NewLogRecorder(t)
	w := newWorld(t, func(cfg *Config) { cfg.Logger = logger })
	w.queueLimit = 10
	links := control.NewServer(control.ServerOptions{
		Instance: "server",
		Register: func(r grpc.ServiceRegistrar) { proto.RegisterTailnetServiceServer(r, w.Coordinator) },
	})
	h := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = links.Accept(rw, r, control.Identity{Kind: control.ClientPeer, ID: "alice"})
	}))
	t.Cleanup(h.Close)
	t.Cleanup(func() {
		links.Close(context.Background(), disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server})
	})
	access, err := url.Parse(h.URL)
	require.NoError(t, err)
	ctx := testutil.Context(t, 20*time.Second)
	l, err := control.Dial(ctx, control.DialOptions{
		AccessURL: access, Instance: "slow",
		ConnectType: disconnect.ClientToServer, Self: disconnect.Client, Peer: disconnect.Server,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}) })
	stream, err := proto.NewTailnetServiceClient(l.RPC()).Coordinate(ctx)
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	require.NoError(t, stream.Send(newKey().proof(first.GetChallenge())))

	ask := &proto.CoordinateRequest{Request: &proto.CoordinateRequest_AddTunnel{
		AddTunnel: &proto.AddTunnel{Workspace: strings.Repeat("x", proto.MaxWorkspaceText)},
	}}
	for stream.Send(ask) == nil && ctx.Err() == nil && len(rec.Endings()) == 0 {
	}
	e := rec.WaitFor(ctx, func(e testutil.Ending) bool { return e.Attrs["peer_instance"] == "slow" })
	require.Equal(t, disconnect.SlowPeer, e.Attribution.Reason)
	require.Equal(t, disconnect.Client, e.Attribution.Initiator)
	require.Equal(t, disconnect.ClientToServer, e.Attribution.ConnectType)
	select {
	case <-l.Done():
		require.FailNow(t, "the link ended with its slow stream")
	default:
	}
	for err == nil { // reads at last, and learns why
		_, err = stream.Recv()
	}
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	told := status.Convert(err).Details()
	require.Len(t, told, 1)
	require.Equal(t, disconnect.SlowPeer, wire.ToGoodbye(told[0].(*wire.Goodbye)).Reason)
}
