package tailnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/envknob"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

const relayTestToken = "the-token"

var shimTestTiming = shimTiming{
	header: 300 * time.Millisecond, hold: 5 * time.Second, redial: 20 * time.Millisecond,
	penalty: 100 * time.Millisecond, doubt: 50 * time.Millisecond, ping: 20 * time.Millisecond, silence: 300 * time.Millisecond,
}

// wsRelay is upstream's relay behind a WebSocket below a path prefix, for one token.
// (The real one is on the same floor as this package; tests/cluster puts both
// together.)
type wsRelay struct {
	access   *url.URL
	accepted chan *wsconn.Conn
}

func newWSRelay(t testing.TB) *wsRelay {
	t.Helper()
	derps := derpserver.New(key.NewNode(), logger.Discard)
	r := &wsRelay{accepted: make(chan *wsconn.Conn, 64)}
	var serving sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("GET /team/api/v1/relay", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+relayTestToken {
			wsconn.ErrorHeader(w.Header(), disconnect.AuthFailed)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		ws, err := wsconn.Accept(w, req, wsconn.AcceptOptions{Subprotocols: []string{"derp"}})
		if err != nil {
			return
		}
		r.accepted <- ws
		serving.Go(func() {
			derps.Accept(context.Background(), ws, bufio.NewReadWriter(bufio.NewReader(ws), bufio.NewWriter(ws)), "")
		})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		require.NoError(t, derps.Close())
		serving.Wait()
		server.Close()
	})
	r.access = parseURL(t, server.URL+"/team/")
	return r
}

func parseURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

// next returns the relay's end of the connection that was accepted next.
func (r *wsRelay) next(t testing.TB) *wsconn.Conn {
	t.Helper()
	select {
	case ws := <-r.accepted:
		return ws
	case <-testContext(t).Done():
		require.Fail(t, "no relay connection came")
		return nil
	}
}

func (r *wsRelay) dialer() *RelayDialer {
	d := NewRelayDialer(r.access, nil)
	d.SetToken(relayTestToken)
	return d
}

// shimBench is a shim, and the endings that it told.
type shimBench struct {
	*shim
	log  *testutil.Recorder
	ends chan disconnect.Attribution
}

const testRegion = 7

func newTestShim(t testing.TB, dial RelayDialFunc) *shimBench {
	t.Helper()
	log, rec := testutil.NewLogRecorder(t)
	s, err := newShim(log, dial)
	require.NoError(t, err)
	b := &shimBench{shim: s, log: rec, ends: make(chan disconnect.Attribution, 64)}
	s.timing = shimTestTiming
	s.onEnd = func(region *proto.DERPRegion, a disconnect.Attribution) {
		if region.GetId() == testRegion {
			b.ends <- a
		}
	}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return b
}

func (b *shimBench) end(t testing.TB) disconnect.Attribution {
	t.Helper()
	select {
	case a := <-b.ends:
		return a
	case <-testContext(t).Done():
		require.Fail(t, "no relay connection ended")
		return disconnect.Attribution{}
	}
}

func (b *shimBench) port(t testing.TB) int {
	t.Helper()
	port, err := b.Port(&proto.DERPRegion{Id: testRegion, Code: "test"})
	require.NoError(t, err)
	return port
}

func (b *shimBench) node(t testing.TB) *tailcfg.DERPNode {
	return &tailcfg.DERPNode{
		Name: "7-relay", RegionID: testRegion, HostName: "127.0.0.1", IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: b.port(t), CertName: b.CertName(),
	}
}

func (b *shimBench) region(t testing.TB) *tailcfg.DERPRegion {
	return &tailcfg.DERPRegion{RegionID: testRegion, RegionCode: "test", Nodes: []*tailcfg.DERPNode{b.node(t)}}
}

// engine is the real relay client of the packet engine, pointed at the shim.
func (b *shimBench) engine(t testing.TB, k key.NodePrivate) *derphttp.Client {
	t.Helper()
	envknob.Setenv("TS_DEBUG_USE_DERP_HTTP", "true")
	region := b.region(t)
	c := derphttp.NewRegionClient(k, logger.Discard, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	t.Cleanup(func() { c.Close() })
	return c
}

// join connects the engine and waits until the relay knows it.
func join(t testing.TB, c *derphttp.Client) {
	t.Helper()
	require.NoError(t, c.Connect(testContext(t)))
	m, err := c.Recv()
	require.NoError(t, err)
	require.IsType(t, derp.ServerInfoMessage{}, m)
}

func sendOver(t testing.TB, from, to *derphttp.Client, packet []byte) {
	t.Helper()
	require.NoError(t, from.Send(to.SelfPublicKey(), packet))
	m, err := to.Recv()
	require.NoError(t, err)
	got, ok := m.(derp.ReceivedPacket)
	require.True(t, ok, "%T", m)
	require.Equal(t, from.SelfPublicKey(), got.Source)
	require.Equal(t, packet, got.Data)
}

func TestShimCarriesDERP(t *testing.T) {
	relay := newWSRelay(t)
	agents := relay.dialer()
	agents.SetRole(disconnect.ServerToAgent, disconnect.Agent)
	atAgent, atClient := newTestShim(t, agents.Dial), newTestShim(t, relay.dialer().Dial)
	a, c := atAgent.engine(t, key.NewNode()), atClient.engine(t, key.NewNode())
	join(t, a)
	relayed := relay.next(t)
	join(t, c)
	for _, size := range []int{1, 1280, derp.MaxPacketSize} {
		sendOver(t, a, c, make([]byte, size))
		sendOver(t, c, a, make([]byte, size))
	}

	// The engine's close is an act of ours, and the relay is told so.
	require.NoError(t, a.Close())
	ended := atAgent.end(t)
	require.Equal(t, disconnect.ServerToAgent, ended.ConnectType)
	require.Equal(t, disconnect.Graceful, ended.Reason)
	require.Equal(t, disconnect.Agent, ended.Initiator)
	require.Eventually(t, func() bool { return relayed.Ending().Code == 4010 }, 5*time.Second, time.Millisecond)
}

func TestShimTellsHowRelayConnectionsEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  func(t *testing.T, shim *shimBench, relayed *wsconn.Conn, proxy *proxy)
		reason disconnect.Reason
		by     disconnect.Initiator
		last   bool // nothing comes after it
	}{
		"goodbye": {
			fault: func(t *testing.T, _ *shimBench, relayed *wsconn.Conn, _ *proxy) {
				g := disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "upgrade"}
				require.NoError(t, relayed.CloseWith(g.CloseCode()))
			},
			reason: disconnect.ServerShutdown, by: disconnect.Server,
		},
		"cut": {
			fault:  func(t *testing.T, _ *shimBench, relayed *wsconn.Conn, _ *proxy) { require.NoError(t, relayed.Close()) },
			reason: disconnect.NetworkError, by: disconnect.Network,
		},
		"proxy dies": {
			fault:  func(_ *testing.T, _ *shimBench, _ *wsconn.Conn, proxy *proxy) { proxy.cut() },
			reason: disconnect.NetworkError, by: disconnect.Network,
		},
		"silence": {
			fault:  func(_ *testing.T, _ *shimBench, _ *wsconn.Conn, proxy *proxy) { proxy.freeze() },
			reason: disconnect.NetworkTimeout, by: disconnect.Network,
		},
		"refused afterwards": {
			fault: func(t *testing.T, _ *shimBench, relayed *wsconn.Conn, _ *proxy) {
				g := disconnect.Goodbye{Reason: disconnect.AuthFailed, Initiator: disconnect.Server}
				require.NoError(t, relayed.CloseWith(g.CloseCode()))
			},
			reason: disconnect.AuthFailed, by: disconnect.Server,
		},
		"own close": {
			fault:  func(t *testing.T, shim *shimBench, _ *wsconn.Conn, _ *proxy) { require.NoError(t, shim.Close()) },
			reason: disconnect.ClientClosed, by: disconnect.Client, last: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			relay := newWSRelay(t)
			proxy := newProxy(t, relay.access.Host)
			dialer := NewRelayDialer(parseURL(t, "http://"+proxy.addr()+"/team"), nil)
			dialer.SetToken(relayTestToken)
			shim := newTestShim(t, dialer.Dial)
			c := shim.engine(t, key.NewNode())
			join(t, c)

			started := time.Now()
			tc.fault(t, shim, relay.next(t), proxy)
			ended := shim.end(t)
			require.Equal(t, tc.reason, ended.Reason, ended.Detail)
			require.Equal(t, tc.by, ended.Initiator)
			require.Equal(t, disconnect.ClientToServer, ended.ConnectType)
			if tc.reason == disconnect.NetworkTimeout {
				require.GreaterOrEqual(t, time.Since(started), shimTestTiming.silence-shimTestTiming.ping)
			}
			_, err := c.Recv()
			require.Error(t, err, "the engine must hear of it")
			lines := shim.log.Endings()
			require.Len(t, lines, 1, "an ending is logged once")
			require.Equal(t, ended, lines[0].Attribution)
			if !tc.last {
				proxy.thaw()
				join(t, c)
			}
		})
	}
}

func TestShimHoldsTheUpgradeUntilTheRelayIsBack(t *testing.T) {
	relay := newWSRelay(t)
	dialer := relay.dialer()
	var dials atomic.Int32
	shim := newTestShim(t, func(ctx context.Context, region *proto.DERPRegion) (net.Conn, error) {
		if n := dials.Add(1); n < 5 {
			return nil, fmt.Errorf("dial relay from port %d: %w", 40000+n, errors.New("no luck"))
		}
		return dialer.Dial(ctx, region)
	})
	join(t, shim.engine(t, key.NewNode()))
	require.EqualValues(t, 5, dials.Load())
	require.Empty(t, shim.messages("relay cannot be reached"), "it was only held up")
}

func (b *shimBench) messages(msg string) (found []testutil.Record) {
	for _, r := range b.log.Records() {
		if r.Message == msg {
			found = append(found, r)
		}
	}
	return found
}

func TestShimLogsADialFailureOncePerChange(t *testing.T) {
	var failure atomic.Pointer[error]
	shim := newTestShim(t, func(context.Context, *proto.DERPRegion) (net.Conn, error) { return nil, *failure.Load() })
	shim.timing.hold = 50 * time.Millisecond
	shim.timing.penalty = time.Millisecond
	fail := func(reason disconnect.Reason) {
		var err error = &disconnect.EndedError{Attribution: disconnect.Attribution{Reason: reason}, Err: errors.New("exactly this")}
		failure.Store(&err)
		for range 3 {
			require.Equal(t, http.StatusBadGateway, shim.upgrade(t))
		}
	}
	fail(disconnect.ConnectionRefused)
	fail(disconnect.AuthFailed)
	fail(disconnect.ConnectionRefused)
	lines := shim.messages("relay cannot be reached")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0].Attrs["error"], "exactly this")
}

// upgrade asks the shim for a relay connection and returns the status.
func (b *shimBench) upgrade(t testing.TB) int {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.port(t)))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return resp.StatusCode
}

func TestHungDialDoesNotHoldUpTheNext(t *testing.T) {
	relay := newWSRelay(t)
	dialer := relay.dialer()
	var dials, hung atomic.Int32
	shim := newTestShim(t, func(ctx context.Context, region *proto.DERPRegion) (net.Conn, error) {
		if dials.Add(1) <= maxDials+2 {
			hung.Add(1)
			defer hung.Add(-1)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		assert.LessOrEqual(t, hung.Load(), int32(maxDials))
		return dialer.Dial(ctx, region)
	})
	join(t, shim.engine(t, key.NewNode()))
	require.Eventually(t, func() bool { return hung.Load() == 0 }, 5*time.Second, time.Millisecond)
}

func TestRefusalIsAnsweredAtOnceAndNotRepeatedSoon(t *testing.T) {
	relay := newWSRelay(t)
	dialer := NewRelayDialer(relay.access, nil)
	dialer.SetToken("another")
	shim := newTestShim(t, dialer.Dial)
	require.Equal(t, http.StatusBadGateway, shim.upgrade(t))
	started := time.Now()
	dialer.SetToken(relayTestToken)
	join(t, shim.engine(t, key.NewNode()))
	require.GreaterOrEqual(t, time.Since(started), shimTestTiming.penalty/2)
	require.Len(t, shim.messages("relay cannot be reached"), 1)
	require.Len(t, shim.messages("relay reached again"), 1)
}

func TestShimAnswersProbes(t *testing.T) {
	shim := newTestShim(t, func(context.Context, *proto.DERPRegion) (net.Conn, error) { panic("no dial is needed") })
	base := fmt.Sprintf("http://127.0.0.1:%d", shim.port(t))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, status := range map[string]int{
		"/derp/probe": 200, "/derp/latency-check": 200, "/derp": 426, "/": 404, "/etc/passwd": 404,
	} {
		resp, err := client.Get(base + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, status, resp.StatusCode, path)
	}

	// The engine's latency probe is TLS whatever the relay connection is.
	probe := derphttp.NewNetcheckClient(logger.Discard, netmon.NewStatic())
	defer probe.Close()
	conn, _, _, err := probe.DialRegionTLS(testContext(t), shim.region(t))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /derp/latency-check HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
}

func TestShimFastStartSkipsTheAnswer(t *testing.T) {
	relay := newWSRelay(t)
	shim := newTestShim(t, relay.dialer().Dial)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shim.port(t)))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n")
	require.NoError(t, err)
	first := make([]byte, derp.FrameHeaderLen+len(derp.Magic))
	_, err = io.ReadFull(conn, first)
	require.NoError(t, err)
	require.Equal(t, byte(derp.FrameServerKey), first[0])
	require.Equal(t, derp.Magic, string(first[derp.FrameHeaderLen:]))
}

func TestShimDropsGarbage(t *testing.T) {
	var dials atomic.Int32
	shim := newTestShim(t, func(context.Context, *proto.DERPRegion) (net.Conn, error) {
		dials.Add(1)
		return nil, errors.New("no")
	})
	for name, garbage := range map[string]string{
		"nothing":      "",
		"half a line":  "GET /derp",
		"binary":       "\x00\x01\x02\xff\xfe\r\n\r\n",
		"bad tls":      "\x16\x03\x01\x00\x05hello",
		"huge header":  "GET /derp HTTP/1.1\r\nUpgrade: DERP\r\nX: " + strings.Repeat("x", 2*maxLocalHeader) + "\r\n\r\n",
		"endless line": strings.Repeat("G", 2*maxLocalHeader),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", shim.port(t)))
			require.NoError(t, err)
			defer conn.Close()
			_, _ = io.WriteString(conn, garbage)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
			_, err = io.Copy(io.Discard, conn)
			require.False(t, isTimeout(err), "it must be dropped")
		})
	}
	require.Zero(t, dials.Load(), "garbage costs the relay nothing")
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestShimBoundsLocalConnections(t *testing.T) {
	shim := newTestShim(t, func(context.Context, *proto.DERPRegion) (net.Conn, error) { return nil, errors.New("no") })
	shim.timing.header = time.Minute
	addr := fmt.Sprintf("127.0.0.1:%d", shim.port(t))
	held := make([]net.Conn, maxLocal)
	var err error
	for i := range held {
		held[i], err = net.Dial("tcp", addr)
		require.NoError(t, err)
	}
	surplus, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer surplus.Close()
	require.NoError(t, surplus.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = surplus.Read(make([]byte, 1))
	require.Error(t, err)
	require.False(t, isTimeout(err))
	for _, c := range held {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /derp/probe HTTP/1.0\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && resp.StatusCode == 200
	}, 5*time.Second, time.Millisecond, "there must be room again")
}

func TestShimPortStaysAndCloseFreesIt(t *testing.T) {
	shim := newTestShim(t, func(context.Context, *proto.DERPRegion) (net.Conn, error) { return nil, errors.New("no") })
	port := shim.port(t)
	require.Equal(t, port, shim.port(t))
	other, err := shim.Port(&proto.DERPRegion{Id: testRegion + 1})
	require.NoError(t, err)
	require.NotEqual(t, port, other)

	require.NoError(t, shim.Close())
	_, err = shim.Port(&proto.DERPRegion{Id: testRegion})
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	require.Error(t, err)
}

// BenchmarkRelay is one stream of full packets from engine to engine: two shims, two
// WebSockets and the relay, all in this process.
func BenchmarkRelay(b *testing.B) {
	relay := newWSRelay(b)
	from, to := newTestShim(b, relay.dialer().Dial), newTestShim(b, relay.dialer().Dial)
	from.timing, to.timing = defaultShimTiming, defaultShimTiming
	x, y := from.engine(b, key.NewNode()), to.engine(b, key.NewNode())
	join(b, x)
	join(b, y)
	packet, dst := make([]byte, 1312), y.SelfPublicKey()
	b.SetBytes(int64(len(packet)))
	// A window like that of the TCP inside keeps the relay's queue (32 packets) from
	// overflowing.
	window := make(chan struct{}, 24)
	var receive sync.WaitGroup
	receive.Go(func() {
		for {
			if _, err := y.Recv(); err != nil {
				return // closed below
			}
			<-window
		}
	})
	for b.Loop() {
		window <- struct{}{}
		if err := x.Send(dst, packet); err != nil {
			b.Fatal(err)
		}
	}
	for range cap(window) {
		window <- struct{}{} // waits for the last packets
	}
	require.NoError(b, y.Close())
	receive.Wait()
}
