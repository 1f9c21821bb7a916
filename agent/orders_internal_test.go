package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// order has the agent told what to do from now on.
func (s *testSite) order(o *proto.Orders) {
	s.api.orders.Store(o)
	for _, link := range s.control.Links() {
		link.Nudge()
	}
}

// TestOrdersComeWithTheManifest: no client is let in before they are obeyed, and what
// was heard holds while the server is away.
func TestOrdersComeWithTheManifest(t *testing.T) {
	s := newTestSite(t)
	stop := disconnect.Goodbye{Reason: disconnect.WorkspaceStopped, Initiator: disconnect.Server, Detail: "stopped by ada"}
	s.order(&proto.Orders{Stopped: &proto.Orders_Stop{Goodbye: wire.FromGoodbye(stop)}})
	a, recorder := s.startAgent(t, nil)
	s.awaitCoordinated(t, recorder)
	require.Equal(t, stop.On(disconnect.AgentToClient), *a.stop.Load())
	s.proxy.cut()
	require.NotNil(t, a.stop.Load())
}

// TestNudgeBringsNewOrders: on the same link, and also after a manifest that failed.
func TestNudgeBringsNewOrders(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, nil)
	s.awaitCoordinated(t, recorder)
	id := uuid.New()
	ended := make(chan disconnect.Attribution, 1)
	a.live.add(id.String(), "", "", func(attr disconnect.Attribution) { ended <- attr })
	var failures atomic.Int32
	fail := func(context.Context) (*proto.Manifest, error) {
		if failures.Add(1) == 2 {
			s.api.onManifest.Store(nil)
		}
		return nil, status.Error(codes.Internal, "the disk is full")
	}
	s.api.onManifest.Store(&fail)
	kill := disconnect.Goodbye{Reason: disconnect.AdminTerminated, Initiator: disconnect.Server, Detail: "ended by ada"}
	s.order(&proto.Orders{Ends: []*proto.Orders_End{
		{Id: []byte("short"), Goodbye: wire.FromGoodbye(kill)}, {Id: id[:], Goodbye: wire.FromGoodbye(kill)},
	}})
	require.Equal(t, kill.On(disconnect.AgentToClient), <-ended)
	require.EqualValues(t, 2, failures.Load())
	require.Empty(t, recorder.Endings(), "the link lives")
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
