package agent

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/testutil"
)

func id(n byte) []byte {
	u := uuid.UUID{n}
	return u[:]
}

// delivered waits until the server has acknowledged everything, and returns it.
func (s *testSite) delivered(t *testing.T, a *agent) []*proto.Connection {
	t.Helper()
	require.Eventually(t, func() bool { return a.reportsPending() == 0 }, 20*time.Second, 5*time.Millisecond)
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	return append([]*proto.Connection(nil), s.api.reports...)
}

// TestReportsReachTheServer: in order; neither a server that fails for a while nor a
// report that it refuses stops the others.
func TestReportsReachTheServer(t *testing.T) {
	s := newTestSite(t)
	s.api.mu.Lock()
	s.api.busy = 2
	s.api.mu.Unlock()
	a, recorder := s.startAgent(t, nil)
	first := a.reportConnection(uuid.UUID{1}, proto.Connection_SSH, "")
	a.trackConnection(&proto.Connection{Id: id(2), Principal: "nobody"})
	first(0, "done")
	got := s.delivered(t, a)
	require.Len(t, got, 2)
	require.Equal(t, proto.Connection_CONNECT, got[0].GetAction())
	require.Equal(t, proto.Connection_DISCONNECT, got[1].GetAction())
	require.Equal(t, got[0].GetTimestamp().AsTime(), got[1].GetConnectedAt().AsTime(), "an end stands for itself")
	require.Equal(t, disconnect.Graceful, wire.ToAttribution(got[1].GetAttribution()).Reason)
	recorder.WaitForMessage(testutil.Context(t, 20*time.Second), "connection report refused as invalid")
}

// TestAgentAnnouncesWhatIsOpen: on every link, before anything else; what the server
// has lost comes again.
func TestAgentAnnouncesWhatIsOpen(t *testing.T) {
	s := newTestSite(t)
	s.api.mu.Lock()
	s.api.unknown = [][]byte{id(1), id(9)}
	s.api.mu.Unlock()
	a, _ := s.startAgent(t, nil)
	a.reportConnection(uuid.UUID{1}, proto.Connection_SSH, "")
	s.delivered(t, a)
	require.NoError(t, a.currentLink().Close(disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Agent}))
	require.Eventually(t, func() bool {
		s.api.mu.Lock()
		defer s.api.mu.Unlock()
		n := len(s.api.announced)
		return n >= 2 && len(s.api.announced[n-1].GetKnown()) == 1 && len(s.api.reports) == 2
	}, 20*time.Second, 5*time.Millisecond)
}

// TestFormerLifeIsReported: what was open when the process died ends in the next life,
// what was not acknowledged comes again, and what was is forgotten.
func TestFormerLifeIsReported(t *testing.T) {
	dir := t.TempDir()
	life := func() *agent {
		a := &agent{opts: Options{StateDir: dir}, logger: slog.New(slog.DiscardHandler)}
		require.NoError(t, a.openReports())
		return a
	}
	a := life()
	done := a.trackConnection(&proto.Connection{Id: id(1)})
	done(agentssh.Ended{Attribution: disconnect.Attribution{Reason: disconnect.Graceful, Initiator: disconnect.Agent}}, nil)
	a.trackConnection(&proto.Connection{Id: id(2), Principal: "ada"})
	waiting := a.trackConnection(&proto.Connection{Id: id(3)})
	require.NoError(t, a.reportsDelivered(4, 0)) // the server has begun and ended 1, and begun 2 and 3
	waiting(agentssh.Ended{Attribution: disconnect.Attribution{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}}, nil)
	require.NoError(t, a.journal.Close()) // as if killed: nothing was said

	b := life()
	ends := make(map[byte]*proto.Connection)
	for _, r := range b.nextReports(maxReports) {
		if c := r.GetConnection(); c.GetAction() == proto.Connection_DISCONNECT {
			ends[c.GetId()[0]] = c
		}
	}
	require.Len(t, ends, 2)
	require.Equal(t, disconnect.ClientClosed, wire.ToAttribution(ends[3].GetAttribution()).Reason)
	died := wire.ToAttribution(ends[2].GetAttribution())
	require.Equal(t, disconnect.PeerCrashed, died.Reason)
	require.Equal(t, disconnect.Agent, died.Initiator)
	require.Equal(t, "ada", ends[2].GetPrincipal())
	require.NoError(t, b.reportsDelivered(b.reportsPending(), 0))
	require.NoError(t, b.journal.Close())

	c := life()
	require.Zero(t, c.reportsPending(), "everything was acknowledged")
	require.NoError(t, c.journal.Close())
}

func TestTrackConnectionNeverReportsAnEmptyReason(t *testing.T) {
	t.Parallel()
	uut := &agent{logger: slog.New(slog.DiscardHandler)}
	attr := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: disconnect.Agent}
	uut.trackConnection(&proto.Connection{Id: id(1), Ip: "192.0.2.1", Principal: "ada"})(agentssh.Ended{Attribution: attr, BytesSent: 7}, nil)
	ending := uut.reportConnections[1].GetConnection()
	require.Equal(t, "graceful", ending.GetReason())
	require.Equal(t, attr, wire.ToAttribution(ending.GetAttribution()))
	require.Equal(t, "ada", ending.GetPrincipal())
	require.Equal(t, "192.0.2.1", ending.GetIp())
	require.EqualValues(t, 7, ending.GetBytesSent())
}

// TestReportsAreBounded: a connection that does not fit is left out whole and counted;
// one whose beginning was taken has a place for its end.
func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	uut := &agent{logger: slog.New(slog.DiscardHandler)}
	var ends []func(int, string)
	for range maxReports/2 + 3 {
		ends = append(ends, uut.reportConnection(uuid.New(), proto.Connection_SSH, ""))
	}
	for _, end := range ends {
		end(0, "done")
	}
	require.Equal(t, maxReports, uut.reportsPending())
	dropped, _ := uut.reportLosses()
	require.Equal(t, 3, dropped)
	dropped, _ = uut.reportLosses()
	require.Zero(t, dropped, "a drop is told once")
	require.NoError(t, uut.reportsDelivered(maxReports, 0))
	require.Empty(t, uut.begun)
	require.Empty(t, uut.reportRecords)
}
