package agent

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/journal"
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
	s.api.busy = 3
	s.api.mu.Unlock()
	a, recorder := s.startAgent(t, nil)
	first := a.reportConnection(uuid.UUID{1}, proto.Connection_SSH, "")
	a.trackConnection(&proto.Connection{Id: id(2), Principal: "nobody"}, netip.Addr{})
	first(0, "done")
	got := s.delivered(t, a)
	require.Len(t, got, 2)
	require.Equal(t, proto.Connection_CONNECT, got[0].GetAction())
	require.Equal(t, proto.Connection_DISCONNECT, got[1].GetAction())
	require.Equal(t, got[0].GetTimestamp().AsTime(), got[1].GetConnectedAt().AsTime(), "an end stands for itself")
	require.Equal(t, disconnect.Graceful, wire.ToAttribution(got[1].GetAttribution()).Reason)
	refused := recorder.WaitForMessage(testutil.Context(t, 20*time.Second), "connection report refused as invalid")
	require.Equal(t, uuid.UUID(id(2)).String(), refused.Attrs["connection_id"])
	told := 0
	for _, r := range recorder.Records() {
		if r.Message == msgNotDelivered {
			told++
		}
	}
	require.Equal(t, 1, told, "a server that fails for a while is told of once")
}

// TestOneReportStopsNobody: a server that refuses a whole batch for one report of it gets
// all the others, and the one is given up.
func TestOneReportStopsNobody(t *testing.T) {
	s := newTestSite(t)
	s.api.mu.Lock()
	s.api.busy = 1 // all of it is queued before the first batch is taken
	s.api.mu.Unlock()
	a, recorder := s.startAgent(t, nil)
	for n := range byte(40) {
		c := &proto.Connection{Id: id(n + 1)}
		if n == 23 {
			c.Principal = "poison"
		}
		a.trackConnection(c, netip.Addr{})
	}
	require.Len(t, s.delivered(t, a), 39)
	refused := recorder.WaitForMessage(testutil.Context(t, 20*time.Second), "connection report refused as invalid")
	require.Equal(t, uuid.UUID(id(24)).String(), refused.Attrs["connection_id"])
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

// newLife is an agent that has opened its record in dir, and does nothing else.
func newLife(t *testing.T, dir string) *agent {
	t.Helper()
	a := &agent{opts: Options{StateDir: dir}, logger: slog.New(slog.DiscardHandler)}
	a.openReports()
	require.NotNil(t, a.journal)
	return a
}

// TestFormerLifeIsReported: what was open when the process died ends in the next life,
// what was not acknowledged comes again, and what was is forgotten.
func TestFormerLifeIsReported(t *testing.T) {
	dir := t.TempDir()
	life := func() *agent { return newLife(t, dir) }
	a := life()
	done := a.trackConnection(&proto.Connection{Id: id(1)}, netip.Addr{})
	done(agentssh.Ended{Attribution: disconnect.Attribution{Reason: disconnect.Graceful, Initiator: disconnect.Agent}}, nil)
	a.trackConnection(&proto.Connection{Id: id(2), Principal: "ada"}, netip.Addr{})
	waiting := a.trackConnection(&proto.Connection{Id: id(3)}, netip.Addr{})
	require.NoError(t, a.reportsDelivered(4, 0)) // the server has begun and ended 1, and begun 2 and 3
	waiting(agentssh.Ended{Attribution: disconnect.Attribution{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}}, nil)
	dir = killed(t, a)

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
	dir = killed(t, b) // and the obituary was not delivered

	c := life()
	require.Equal(t, b.reportsPending(), c.reportsPending(), "one obituary, whoever writes it")
	require.Equal(t, disconnect.PeerCrashed, died.Reason)
	require.Equal(t, disconnect.Agent, died.Initiator)
	require.Equal(t, "ada", ends[2].GetPrincipal())
	require.NoError(t, c.reportsDelivered(c.reportsPending(), 0))
	dir = killed(t, c)

	d := life()
	require.Zero(t, d.reportsPending(), "everything was acknowledged")
	require.NoError(t, d.journal.Close())
}

// killed leaves what kill -9 would leave of an agent's state, and returns where.
func killed(t *testing.T, a *agent) (dir string) {
	t.Helper()
	dir = t.TempDir()
	data, err := os.ReadFile(filepath.Join(a.opts.StateDir, "reports", "journal"))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "reports"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "reports", "journal"), data, 0o600))
	require.NoError(t, a.journal.Close())
	return dir
}

func TestTrackConnectionNeverReportsAnEmptyReason(t *testing.T) {
	t.Parallel()
	uut := &agent{logger: slog.New(slog.DiscardHandler)}
	attr := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: disconnect.Agent}
	uut.trackConnection(&proto.Connection{Id: id(1), Ip: "192.0.2.1", Principal: "ada"}, netip.Addr{})(agentssh.Ended{Attribution: attr, BytesSent: 7}, nil)
	ending := uut.reportConnections[1].GetConnection()
	require.Equal(t, "graceful", ending.GetReason())
	require.Equal(t, attr, wire.ToAttribution(ending.GetAttribution()))
	require.Equal(t, "ada", ending.GetPrincipal())
	require.Equal(t, "192.0.2.1", ending.GetIp())
	require.EqualValues(t, 7, ending.GetBytesSent())
}

// TestUnreadableRecordNeverStopsTheAgent: it serves without one, says so once, and tells
// the server of a gap. What another version wrote is set aside, and the rest is reported.
func TestUnreadableRecordNeverStopsTheAgent(t *testing.T) {
	t.Run("journal", func(t *testing.T) {
		s := newTestSite(t)
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "reports"), nil, 0o600)) // no directory
		a, recorder := s.startAgent(t, func(o *Options) { o.StateDir = dir })
		a.reportConnection(uuid.UUID{1}, proto.Connection_SSH, "")(0, "done")
		require.Len(t, s.delivered(t, a), 2)
		recorder.WaitForMessage(testutil.Context(t, 20*time.Second), msgNoRecord)
		require.Len(t, s.gaps(), 1)
		require.Nil(t, s.gaps()[0].GetFrom(), "nobody knows since when")
	})
	t.Run("records", func(t *testing.T) {
		s := newTestSite(t)
		dir := t.TempDir()
		j, _, err := journal.Open(filepath.Join(dir, "reports"), journal.Options{})
		require.NoError(t, err)
		report, err := pb.Marshal(&proto.ReportConnectionRequest{Connection: &proto.Connection{Id: id(1), Action: proto.Connection_CONNECT}})
		require.NoError(t, err)
		short, err := pb.Marshal(&proto.ReportConnectionRequest{Connection: &proto.Connection{Id: []byte{1}}})
		require.NoError(t, err)
		for _, data := range []string{"", "?", "r\xff", "g\xff", "r" + string(short), "r" + string(report), "something else"} {
			_, err := j.Append([]byte(data))
			require.NoError(t, err)
		}
		require.NoError(t, j.Close())
		a, _ := s.startAgent(t, func(o *Options) { o.StateDir = dir })
		got := s.delivered(t, a)
		require.Len(t, got, 2)
		require.Equal(t, disconnect.ServerShutdown, wire.ToAttribution(got[1].GetAttribution()).Reason, "it was closed in order")
		require.Len(t, s.gaps(), 1)
	})
}

// gaps returns those that the agent has told of, each as often as it did.
func (s *testSite) gaps() (all []*proto.Gap) {
	s.api.mu.Lock()
	defer s.api.mu.Unlock()
	for _, a := range s.api.announced {
		if a.GetGap() != nil {
			all = append(all, a.GetGap())
		}
	}
	return all
}

// TestGapIsToldUntilTheServerHasIt: by this life or the next, and not after that.
func TestGapIsToldUntilTheServerHasIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	life := func() *agent { return newLife(t, dir) }
	a := life()
	from, to := time.Unix(1000, 0), time.Unix(2000, 0)
	a.addGap(journal.Gap{From: from, To: to}, "one")
	a.addGap(journal.Gap{To: to}, "two")
	require.NoError(t, a.journal.Close())

	b := life()
	require.Equal(t, "one", b.firstGap().GetDetail())
	require.True(t, from.Equal(b.firstGap().GetFrom().AsTime()))
	more, err := b.gapTold(b.firstGap())
	require.NoError(t, err)
	require.True(t, more)
	require.NoError(t, b.journal.Close())

	c := life()
	require.Equal(t, "two", c.firstGap().GetDetail())
	more, err = c.gapTold(c.firstGap())
	require.NoError(t, err)
	require.False(t, more)
	require.NoError(t, c.journal.Close())

	d := life()
	require.Nil(t, d.firstGap())
	require.NoError(t, d.journal.Close())
}

// TestBadTextStopsNobody: text that no message can carry would be refused with all
// that is behind it, for ever.
func TestBadTextStopsNobody(t *testing.T) {
	s := newTestSite(t)
	a, _ := s.startAgent(t, nil)
	a.reportConnection(uuid.UUID{1}, proto.Connection_SSH, "\xff\xfe")(1, "gone\xff")
	a.trackConnection(&proto.Connection{Id: id(2), Principal: "\xff", App: "\xff", ClientVersion: "v\xff"}, netip.Addr{})
	got := s.delivered(t, a)
	require.Len(t, got, 3)
	require.Equal(t, "gone", got[1].GetReason())
}

// TestRecordHoldsAllReports: as many connections as are taken, with the longest texts,
// each with a record of its beginning and of its end.
func TestRecordHoldsAllReports(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	open := func() *proto.Connection {
		c := uuid.New()
		return &proto.Connection{Id: c[:], Principal: long, App: long, ClientVersion: long, Ip: long}
	}
	a := &agent{opts: Options{StateDir: t.TempDir()}, logger: slog.New(slog.DiscardHandler)}
	a.openReports()
	defer a.journal.Close()
	ended := agentssh.Ended{Attribution: disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network, Detail: long}}
	var ends []func(agentssh.Ended, func(*proto.Connection))
	for range maxReports - 1 { // each begins and is acknowledged
		ends = append(ends, a.trackConnection(open(), netip.Addr{}))
		require.NoError(t, a.reportsDelivered(1, 0))
	}
	for _, end := range ends { // and then all end while the server is away
		end(ended, nil)
	}
	dropped, _ := a.reportLosses()
	require.Zero(t, dropped)
	require.Equal(t, maxReports-1, a.reportsPending())
	for _, report := range a.nextReports(maxReports) {
		require.NotZero(t, a.reportRecords[report], "a report is in memory only")
	}
	require.NoError(t, a.journal.Degraded())
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

// TestInterruptionsAreReported: between the beginning and the end, also by the next life,
// and they are no ends.
func TestInterruptionsAreReported(t *testing.T) {
	a := newLife(t, t.TempDir())
	lost := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network}
	a.trackConnection(&proto.Connection{Id: id(1)}, netip.Addr{})
	began := time.Now().Add(-time.Minute)
	interrupt := func(n byte) { a.queueInterruption(uuid.UUID(id(n)), lost, began, 20*time.Second) }
	interrupt(1)
	interrupt(2) // nobody knows it
	require.True(t, a.anyOpen())
	require.NoError(t, a.reportsDelivered(2, 0))
	require.Len(t, a.knownConnections(), 1, "it is open")
	interrupt(1)
	b := newLife(t, killed(t, a))
	actions := func(q *agent) (all []proto.Connection_Action) {
		for _, r := range q.nextReports(maxReports) {
			all = append(all, r.GetConnection().GetAction())
		}
		return all
	}
	// The first was acknowledged; it stays forgotten.
	require.Equal(t, []proto.Connection_Action{proto.Connection_CONNECT, proto.Connection_INTERRUPTION, proto.Connection_DISCONNECT}, actions(b))
	told := b.nextReports(maxReports)[1].GetConnection()
	require.WithinDuration(t, began, told.GetInterruptedAt().AsTime(), 0)
	require.Equal(t, 20*time.Second, told.GetTimestamp().AsTime().Sub(told.GetInterruptedAt().AsTime()))

	require.NoError(t, b.closeReports())

	a = newLife(t, t.TempDir())
	done := a.trackConnection(&proto.Connection{Id: id(1)}, netip.Addr{})
	for range 2 * maxInterruptions {
		interrupt(1)
	}
	require.Len(t, a.nextReports(maxReports), 1+maxInterruptions)
	done(agentssh.Ended{Attribution: lost}, nil)
	interrupt(1)
	require.Equal(t, proto.Connection_DISCONNECT, actions(a)[len(actions(a))-1], "it had its number")
	require.NoError(t, a.reportsDelivered(a.reportsPending(), 0))
	require.Empty(t, a.knownConnections())
	require.Empty(t, a.reportRecords)
	require.NoError(t, a.closeReports())
}
