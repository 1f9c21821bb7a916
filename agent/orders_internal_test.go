package agent

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/testutil"
)

// StreamOrders sends what the test gives; without a test's it is not there.
func (a *testAPI) StreamOrders(r *proto.StreamOrdersRequest, stream proto.AgentService_StreamOrdersServer) error {
	given := a.orders.Load()
	if given == nil {
		return a.UnimplementedAgentServiceServer.StreamOrders(r, stream)
	}
	for {
		select {
		case orders, more := <-*given:
			if !more {
				return nil
			}
			if err := stream.Send(orders); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func ordered(site *testSite, all ...*proto.Orders) chan *proto.Orders {
	given := make(chan *proto.Orders, 8)
	for _, o := range all {
		given <- o
	}
	site.api.orders.Store(&given)
	return given
}

// TestOrdersComeFirst: no client is let in before the first orders are obeyed.
func TestOrdersComeFirst(t *testing.T) {
	s := newTestSite(t)
	given := ordered(s)
	a, recorder := s.startAgent(t, nil)
	recorder.WaitForMessage(testutil.Context(t, 20*time.Second), "connected to server")
	require.Never(t, func() bool { return s.tailnet.coordinates.Load() > 0 }, 100*time.Millisecond, 5*time.Millisecond)
	stop := disconnect.Goodbye{Reason: disconnect.WorkspaceStopped, Initiator: disconnect.Server, Detail: "stopped by ada"}
	given <- &proto.Orders{Stopped: &proto.Orders_Stop{Goodbye: wire.FromGoodbye(stop)}}
	s.awaitCoordinated(t, recorder)
	require.Equal(t, stop.On(disconnect.AgentToClient), *a.stop.Load())

	s.proxy.cut() // what was heard holds while the server is away
	require.NotNil(t, a.stop.Load())
}

// TestOrdersAreAskedForAgain: a stream that ends alone takes nothing down.
func TestOrdersAreAskedForAgain(t *testing.T) {
	s := newTestSite(t)
	given := ordered(s, &proto.Orders{})
	a, recorder := s.startAgent(t, nil)
	s.awaitCoordinated(t, recorder)
	id := uuid.New()
	ended := make(chan disconnect.Attribution, 1)
	a.live.add(id.String(), "", "", func(attr disconnect.Attribution) { ended <- attr })
	kill := disconnect.Goodbye{Reason: disconnect.AdminTerminated, Initiator: disconnect.Server, Detail: "ended by ada"}
	ordered(s, &proto.Orders{Ends: []*proto.Orders_End{
		{Id: []byte("short"), Goodbye: wire.FromGoodbye(kill)}, {Id: id[:], Goodbye: wire.FromGoodbye(kill)},
	}})
	close(given)
	require.Equal(t, kill.On(disconnect.AgentToClient), <-ended)
	require.Empty(t, recorder.Endings(), "the link lives")
}

// TestCloseWhileOrdersAreAwaited: a shutdown waits for nobody's orders.
func TestCloseWhileOrdersAreAwaited(t *testing.T) {
	s := newTestSite(t)
	ordered(s)
	a, recorder := s.startAgent(t, func(o *Options) { o.ShutdownTimeout = time.Hour })
	recorder.WaitForMessage(testutil.Context(t, 20*time.Second), "connected to server")
	require.NoError(t, a.Close())
	expectEnding(t, recorder, lineLink, disconnect.ServerShutdown, disconnect.Agent)
}

// TestNotice: a shutdown that a platform gave notice of is its doing, in time.
func TestNotice(t *testing.T) {
	t.Parallel()
	said := disconnect.Goodbye{Reason: disconnect.WorkspaceEvicted, Initiator: disconnect.Server, Detail: "preempted"}
	give := func(covers time.Duration) *proto.Orders_Notice {
		return &proto.Orders_Notice{Kind: "preempted", Deadline: timestamppb.Now(), Covers: durationpb.New(covers), Goodbye: wire.FromGoodbye(said)}
	}
	s := newTestSite(t)
	a, _ := s.startAgent(t, nil)
	_, told := a.toldBefore()
	require.False(t, told)
	a.heedNotice(give(time.Hour))
	attr, told := a.toldBefore()
	require.True(t, told)
	require.Equal(t, said.On(disconnect.AgentToClient), attr)
	a.heedNotice(give(-time.Second))
	_, told = a.toldBefore()
	require.False(t, told, "its time is over")
	a.heedNotice(give(time.Hour))
	a.heedNotice(nil)
	_, told = a.toldBefore()
	require.False(t, told, "it was taken back")
}

// TestNamesAreTakenOver: by the same user only, and the older one ends.
func TestNamesAreTakenOver(t *testing.T) {
	t.Parallel()
	var live liveSessions
	var ended []string
	add := func(id, user, name string) {
		live.add(id, user, name, func(a disconnect.Attribution) {
			require.Equal(t, disconnect.SessionReplaced, a.Reason)
			require.Equal(t, disconnect.Client, a.Initiator)
			ended = append(ended, id)
		})
	}
	add("1", "ada", "build")
	add("2", "bob", "build")
	add("3", "ada", "")
	add("4", "", "build")
	require.Empty(t, ended)
	add("5", "ada", "build")
	require.Equal(t, []string{"1"}, ended)
	live.remove("1") // late
	add("6", "ada", "build")
	require.Equal(t, []string{"1", "5"}, ended)
	live.remove("6")
	add("7", "ada", "build")
	require.Equal(t, []string{"1", "5"}, ended, "it was free")
	for _, id := range []string{"2", "3", "4", "5", "7"} {
		live.remove(id)
	}
	require.Empty(t, live.byID)
	require.Empty(t, live.named)
}
