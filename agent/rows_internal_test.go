package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/coordinator"
	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testSite is the server's side for one agent: a real control server and a real
// coordinator, behind a proxy that can cut or stall every connection.
//
//	agent ── proxy ── http server ── control server ── coordinator
type testSite struct {
	proxy   *proxy
	control *control.Server
	tailnet *testTailnet
	api     *testAPI
	url     *url.URL
	// strangers is how many requests somebody else answers, with 403.
	strangers atomic.Int64
}

func newTestSite(t *testing.T) *testSite {
	t.Helper()
	s := &testSite{api: &testAPI{}}
	coord := coordinator.New(coordinator.Config{
		Authorize: func(context.Context, control.Identity, string) (coordinator.Right, error) {
			return coordinator.Right{}, coordinator.ErrNotFound
		},
		RelayToken: func(tailnetproto.NodeKey, control.Identity, time.Time) string { return "token" },
		DERPMap:    func() *tailnetproto.DERPMap { return &tailnetproto.DERPMap{} },
	})
	s.tailnet = &testTailnet{Coordinator: coord}
	s.control = control.NewServer(control.ServerOptions{
		Instance: "server-1",
		Register: func(r grpc.ServiceRegistrar) {
			tailnetproto.RegisterTailnetServiceServer(r, s.tailnet)
			proto.RegisterAgentServiceServer(r, s.api)
		},
	})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.strangers.Add(-1) >= 0 {
			http.Error(w, "blocked by your friendly proxy", http.StatusForbidden)
			return
		}
		if r.Header.Get("Authorization") != "Bearer secret" {
			wsconn.ErrorHeader(w.Header(), disconnect.AuthFailed)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		_, _ = s.control.Accept(w, r, control.Identity{Kind: control.AgentPeer, ID: "workspace-1"})
	}))
	s.proxy = newProxy(t, web.Listener.Addr().String())
	s.url = &url.URL{Scheme: "http", Host: s.proxy.listener.Addr().String()}
	t.Cleanup(func() {
		s.proxy.close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.control.Close(ctx, disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server})
		_ = coord.Close(ctx)
		web.Close()
	})
	return s
}

// startAgent runs an agent against the site and waits until it is coordinated.
func (s *testSite) startAgent(t *testing.T, change func(*Options)) (*agent, *testutil.Recorder) {
	t.Helper()
	logger, recorder := testutil.NewLogRecorder(t)
	opts := Options{
		AccessURL: s.url, Token: "secret", StateDir: t.TempDir(), Logger: logger,
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		retryFirst: 2 * time.Millisecond, retryLast: 20 * time.Millisecond,
	}
	if change != nil {
		change(&opts)
	}
	a, err := newAgent(opts)
	require.NoError(t, err)
	a.start()
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a, recorder
}

// awaitCoordinated waits until every RPC of the agent has something to lose.
func (s *testSite) awaitCoordinated(t *testing.T, recorder *testutil.Recorder) {
	t.Helper()
	ctx := testutil.Context(t, 20*time.Second)
	recorder.WaitForMessage(ctx, msgRelayMap)
	require.NoError(t, s.tailnet.awaitAdmitted(ctx, 1))
}

// testAPI is the agent service.
type testAPI struct {
	proto.UnimplementedAgentServiceServer
	orders     atomic.Pointer[proto.Orders]                                   // what the manifest orders; nil: nothing
	onManifest atomic.Pointer[func(context.Context) (*proto.Manifest, error)] // replaces GetManifest
	mu         sync.Mutex                                                     // guards all below
	reports    []*proto.Connection
	announced  []*proto.AnnounceConnectionsRequest
	unknown    [][]byte // what the answer to an announcement says
	busy       int      // how many batches fail
}

func (a *testAPI) GetManifest(ctx context.Context, _ *proto.GetManifestRequest) (*proto.Manifest, error) {
	if f := a.onManifest.Load(); f != nil {
		return (*f)(ctx)
	}
	return &proto.Manifest{WorkspaceId: "workspace-1", WorkspaceName: "dev", OwnerName: "ada", Orders: a.orders.Load()}, nil
}

func (a *testAPI) AnnounceConnections(_ context.Context, r *proto.AnnounceConnectionsRequest) (*proto.AnnounceConnectionsResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.announced = append(a.announced, r)
	return &proto.AnnounceConnectionsResponse{Unknown: a.unknown}, nil
}

func (a *testAPI) ReportConnections(_ context.Context, r *proto.ReportConnectionsRequest) (*proto.ReportConnectionsResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, report := range r.GetReports() {
		if report.GetConnection().GetPrincipal() == "poison" {
			return nil, status.Error(codes.InvalidArgument, "there is something in this batch")
		}
	}
	if a.busy > 0 {
		a.busy--
		return nil, status.Error(codes.Internal, "the disk is full")
	}
	var answer proto.ReportConnectionsResponse
	for i, report := range r.GetReports() {
		if report.GetConnection().GetPrincipal() == "nobody" {
			answer.Refused = append(answer.Refused, &proto.ReportConnectionsResponse_Refusal{Index: uint32(i), Message: "no"})
			continue
		}
		a.reports = append(a.reports, report.GetConnection())
	}
	return &answer, nil
}

// testTailnet is the coordinator, with hooks that end an RPC as a server could.
type testTailnet struct {
	*coordinator.Coordinator
	endInOrder  atomic.Pointer[chan struct{}] // when closed, Coordinate returns OK
	refuse      atomic.Bool                   // Coordinate fails at once
	onDERPMaps  atomic.Pointer[func() error]  // replaces StreamDERPMaps
	admitted    atomic.Int64
	admittedMu  sync.Mutex // guards admittedCh
	admittedCh  chan struct{}
	coordinates atomic.Int64
}

// awaitAdmitted waits until nodes were admitted n times.
func (s *testTailnet) awaitAdmitted(ctx context.Context, n int64) error {
	for {
		s.admittedMu.Lock()
		if s.admittedCh == nil {
			s.admittedCh = make(chan struct{})
		}
		changed := s.admittedCh
		s.admittedMu.Unlock()
		if s.admitted.Load() >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *testTailnet) Coordinate(stream tailnetproto.TailnetService_CoordinateServer) error {
	s.coordinates.Add(1)
	if s.refuse.Load() {
		return status.Error(codes.Unavailable, "not now")
	}
	watched := &watchedStream{TailnetService_CoordinateServer: stream, site: s}
	if end := s.endInOrder.Load(); end != nil {
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		watched.ctx = ctx
		go func() { done <- s.Coordinator.Coordinate(watched) }()
		select {
		case <-*end:
			s.endInOrder.Store(nil)
			return nil
		case err := <-done:
			return err
		}
	}
	return s.Coordinator.Coordinate(watched)
}

func (s *testTailnet) StreamDERPMaps(r *tailnetproto.StreamDERPMapsRequest, stream tailnetproto.TailnetService_StreamDERPMapsServer) error {
	if f := s.onDERPMaps.Load(); f != nil {
		if err := stream.Send(&tailnetproto.DERPMap{}); err != nil {
			return err
		}
		return (*f)()
	}
	return s.Coordinator.StreamDERPMaps(r, stream)
}

// watchedStream notes when the agent has published itself: only an admitted node does.
type watchedStream struct {
	tailnetproto.TailnetService_CoordinateServer
	site *testTailnet
	ctx  context.Context
}

func (w *watchedStream) Context() context.Context {
	if w.ctx != nil {
		return w.ctx
	}
	return w.TailnetService_CoordinateServer.Context()
}

func (w *watchedStream) Recv() (*tailnetproto.CoordinateRequest, error) {
	req, err := w.TailnetService_CoordinateServer.Recv()
	if req.GetSelf() != nil {
		w.site.admitted.Add(1)
		w.site.admittedMu.Lock()
		if w.site.admittedCh != nil {
			close(w.site.admittedCh)
			w.site.admittedCh = nil
		}
		w.site.admittedMu.Unlock()
	}
	return req, err
}

// proxy forwards TCP, until it is told to cut or to stall.
type proxy struct {
	listener net.Listener
	target   string
	tasks    sync.WaitGroup
	mu       sync.Mutex // guards conns, stalled
	conns    map[net.Conn]struct{}
	stalled  chan struct{} // closed: nothing is forwarded any more
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, target: target, conns: map[net.Conn]struct{}{}, stalled: make(chan struct{})}
	p.tasks.Go(p.accept)
	return p
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		p.mu.Lock()
		p.conns[near], p.conns[far] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.tasks.Go(func() { p.forward(near, far) })
		p.tasks.Go(func() { p.forward(far, near) })
	}
}

func (p *proxy) forward(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-p.stalled:
			_, _ = io.Copy(io.Discard, from) // the kernel goes on acknowledging
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut closes every connection, as a proxy or NAT does, without a word.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
		delete(p.conns, conn)
	}
}

func (p *proxy) stall() { close(p.stalled) }

func (p *proxy) close() {
	_ = p.listener.Close()
	p.cut()
	p.tasks.Wait()
}

// expectEnding waits for the one ending with msg and compares it whole but for the
// detail.
func expectEnding(t *testing.T, recorder *testutil.Recorder, msg string, reason disconnect.Reason, initiator disconnect.Initiator) disconnect.Attribution {
	t.Helper()
	ctx := testutil.Context(t, 20*time.Second)
	got := recorder.WaitFor(ctx, func(e testutil.Ending) bool { return e.Message == msg })
	want := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: reason, Initiator: initiator, Detail: got.Attribution.Detail}
	require.Equal(t, want, got.Attribution, msg)
	require.Equal(t, reason.Expected(), got.Expected)
	return got.Attribution
}

const (
	lineLink        = "disconnected from server"
	lineCoordinator = "disconnected from coordination RPC"
	lineDERPMap     = "disconnected from derp map RPC"
)

// The rows of streams that end with the link: S1 the link itself, S2 the coordination,
// S3 the map of relays. Each ends in the same three ways, and is told of in a line of its
// own.

func TestSeedS1(t *testing.T) { testStreamEnds(t, lineLink) }

func TestSeedS2(t *testing.T) {
	testStreamEnds(t, lineCoordinator)
	t.Run("only the RPC ends, with status OK", func(t *testing.T) {
		s := newTestSite(t)
		end := make(chan struct{})
		s.tailnet.endInOrder.Store(&end)
		_, recorder := s.startAgent(t, nil)
		s.awaitCoordinated(t, recorder)
		close(end)
		expectEnding(t, recorder, lineCoordinator, disconnect.Graceful, disconnect.Server)
		require.NoError(t, s.tailnet.awaitAdmitted(testutil.Context(t, 20*time.Second), 2), "the agent coordinates again")
	})
}

func TestSeedS3(t *testing.T) { testStreamEnds(t, lineDERPMap) }

func testStreamEnds(t *testing.T, line string) {
	t.Run("the transport breaks without a word", func(t *testing.T) {
		s := newTestSite(t)
		_, recorder := s.startAgent(t, nil)
		s.awaitCoordinated(t, recorder)
		s.proxy.cut()
		expectEnding(t, recorder, line, disconnect.NetworkError, disconnect.Network)
	})
	t.Run("the server says why it leaves", func(t *testing.T) {
		s := newTestSite(t)
		_, recorder := s.startAgent(t, nil)
		s.awaitCoordinated(t, recorder)
		s.control.Close(testutil.Context(t, 5*time.Second),
			disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "upgrade"})
		attr := expectEnding(t, recorder, line, disconnect.ServerShutdown, disconnect.Server)
		require.Contains(t, attr.Detail, "upgrade")
	})
	t.Run("the agent is closed", func(t *testing.T) {
		s := newTestSite(t)
		a, recorder := s.startAgent(t, nil)
		s.awaitCoordinated(t, recorder)
		require.NoError(t, a.Close())
		expectEnding(t, recorder, line, disconnect.ServerShutdown, disconnect.Agent)
	})
}

// TestSeedS5: the agent is closed, and the coordination ends in order.
func TestSeedS5(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, func(o *Options) { o.ShutdownTimeout = time.Hour }) // nothing may wait for it
	s.awaitCoordinated(t, recorder)
	require.NoError(t, a.Close())
	expectEnding(t, recorder, "coordination RPC disconnected", disconnect.ServerShutdown, disconnect.Agent)
	require.Len(t, recorder.Endings(), 5, "with the coordination's own line, each stream ends once")
}

// TestSeedS4: the agent is closed while the server is silent.
func TestSeedS4(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, func(o *Options) { o.ShutdownTimeout = 50 * time.Millisecond })
	s.awaitCoordinated(t, recorder)
	s.proxy.stall()
	require.NoError(t, a.Close())
	attr := expectEnding(t, recorder, "timed out waiting for coordination RPC", disconnect.ServerShutdown, disconnect.Agent)
	require.Contains(t, attr.Detail, "timed out")
}

// TestSeedS11: no line for a coordination that never was.
func TestSeedS11(t *testing.T) {
	s := newTestSite(t)
	s.tailnet.refuse.Store(true)
	_, recorder := s.startAgent(t, nil)
	ctx := testutil.Context(t, 20*time.Second)
	recorder.WaitFor(ctx, func(e testutil.Ending) bool { return e.Message == lineLink && s.tailnet.coordinates.Load() > 3 })
	for _, e := range recorder.Endings() {
		require.NotEqual(t, lineCoordinator, e.Message)
	}
}

// TestSiblingFailureIsNoShutdown: a sibling RPC fails while the link breaks, 200
// times, and no ending ever reads as a shutdown.
func TestSiblingFailureIsNoShutdown(t *testing.T) {
	s := newTestSite(t)
	const times = 200
	rounds := make(chan struct{}, times+10)
	var n atomic.Int64
	fail := func() error {
		rounds <- struct{}{}
		if n.Add(1)%2 == 0 {
			s.proxy.cut()
			return status.Error(codes.Internal, "the sibling failed after the cut")
		}
		defer s.proxy.cut()
		return status.Error(codes.Internal, "the sibling failed before the cut")
	}
	s.tailnet.onDERPMaps.Store(&fail)
	_, recorder := s.startAgent(t, nil)
	ctx := testutil.Context(t, 2*time.Minute)
	for range times {
		select {
		case <-rounds:
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
	links := 0
	for _, e := range recorder.Endings() {
		require.NotEqual(t, disconnect.ServerShutdown, e.Attribution.Reason, "%s: %v", e.Message, e.Attribution)
		require.NotEqual(t, disconnect.Graceful, e.Attribution.Reason, "%s: %v", e.Message, e.Attribution)
		require.NotEqual(t, disconnect.Unknown, e.Attribution.Reason, "%s: %v", e.Message, e.Attribution)
		if e.Message == lineLink {
			links++
		}
	}
	require.GreaterOrEqual(t, links, times-1)
}

// TestWrongTokenIsFinal: the agent stops with one sentence instead of asking for ever.
func TestWrongTokenIsFinal(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, func(o *Options) { o.Token = "wrong" })
	err := a.Wait(testutil.Context(t, 20*time.Second))
	require.True(t, IsRefused(err), "%v", err)
	require.ErrorContains(t, err, "does not accept this agent's token")
	require.Empty(t, recorder.Endings(), "nothing was connected")
}

// TestRefusalBySomebodyElseIsNotFinal: a proxy that says no, as they do while the
// server behind them restarts, does not end the agent and its sessions.
func TestRefusalBySomebodyElseIsNotFinal(t *testing.T) {
	s := newTestSite(t)
	s.strangers.Store(3)
	_, recorder := s.startAgent(t, nil)
	s.awaitCoordinated(t, recorder)
	require.Negative(t, s.strangers.Load())
}

// TestInvalidManifest: what the server sends and cannot mean is not the network's fault.
func TestInvalidManifest(t *testing.T) {
	s := newTestSite(t)
	empty := func(context.Context) (*proto.Manifest, error) { return &proto.Manifest{}, nil }
	s.api.onManifest.Store(&empty)
	_, recorder := s.startAgent(t, nil)
	attr := expectEnding(t, recorder, lineLink, disconnect.ProtocolError, disconnect.Server)
	require.Contains(t, attr.Detail, "workspace id is missing")
}

// TestTurnedAwayAfterTheLink: a server that lets an agent in and refuses it then, as it
// does with one whose host key is not the pinned one, is asked ever less often.
func TestTurnedAwayAfterTheLink(t *testing.T) {
	s := newTestSite(t)
	asked := make(chan time.Time, 100)
	refuse := func(context.Context) (*proto.Manifest, error) {
		select {
		case asked <- time.Now():
		default:
		}
		return nil, status.Error(codes.PermissionDenied, "this workspace has another SSH host key")
	}
	s.api.onManifest.Store(&refuse)
	const first = 10 * time.Millisecond
	s.startAgent(t, func(o *Options) { o.retryFirst, o.retryLast = first, time.Hour })
	ctx := testutil.Context(t, 20*time.Second)
	var times []time.Time
	for len(times) < 8 {
		select {
		case at := <-asked:
			times = append(times, at)
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
	// Seven pauses of half the ceiling at least, each ceiling twice the last.
	require.GreaterOrEqual(t, times[7].Sub(times[0]), first/2*(1<<7-1))
}

// TestCloseBeforeTheManifest: a stop does not wait for a server that does not answer.
func TestCloseBeforeTheManifest(t *testing.T) {
	s := newTestSite(t)
	asked := make(chan struct{}, 1)
	never := func(ctx context.Context) (*proto.Manifest, error) {
		tell(asked)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	s.api.onManifest.Store(&never)
	a, recorder := s.startAgent(t, func(o *Options) { o.ShutdownTimeout = time.Hour }) // nothing may wait for it
	select {
	case <-asked:
	case <-testutil.Context(t, 20*time.Second).Done():
		t.Fatal("the agent did not ask for its manifest")
	}
	require.NoError(t, a.Close())
	expectEnding(t, recorder, lineLink, disconnect.ServerShutdown, disconnect.Agent)
}

// brokenStream is a coordination's stream that the server has failed.
type brokenStream struct{ grpc.ClientStream }

func (brokenStream) Send(*tailnetproto.CoordinateRequest) error { return nil }
func (brokenStream) CloseSend() error                           { return nil }
func (brokenStream) Recv() (*tailnetproto.CoordinateResponse, error) {
	return nil, status.Error(codes.Unavailable, "overloaded")
}

// TestLaterShutdownIsNotTheCause: row S2, when a shutdown begins while the end of the
// coordination is being judged.
func TestLaterShutdownIsNotTheCause(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, nil)
	s.awaitCoordinated(t, recorder)
	link, err := a.connect(testutil.Context(t, 20*time.Second))
	require.NoError(t, err)
	defer func() { _ = link.Close(disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Agent}) }()
	coordination := tailnet.NewBasicCoordination(tailnet.CoordinationConfig{
		Stream: brokenStream{}, Node: a.node, Key: a.state.nodeKey, Book: a.peers,
		ConnectType: disconnect.ServerToAgent, Initiator: disconnect.Agent,
	})
	waits := func(n int) func() bool { return func() bool { return len(coordination.Wait()) == n } }
	require.Eventually(t, waits(1), 20*time.Second, time.Millisecond)
	judged := make(chan disconnect.Attribution, 1)
	go func() {
		attr, _ := a.awaitCoordination(link, coordination)
		judged <- attr
	}()
	require.Eventually(t, waits(0), 20*time.Second, 20*time.Millisecond)
	a.gracefulCancel(nil)
	attr := <-judged
	require.Equal(t, disconnect.NetworkError, attr.Reason)
	require.Equal(t, disconnect.Network, attr.Initiator)
}
