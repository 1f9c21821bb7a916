package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"tailscale.com/derp"
	"tailscale.com/types/key"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

// bench is a relay behind a real HTTP server, and what it witnessed.
type bench struct {
	t      *testing.T
	relay  *Relay
	server *httptest.Server
	signer *TokenSigner
	events chan Event
	ended  map[proto.NodeKey][]disconnect.Attribution // seen by await, not returned yet
}

var farewell = disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "test is over"}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := &bench{t: t, signer: newSigner(), events: make(chan Event, 256), ended: map[proto.NodeKey][]disconnect.Attribution{}}
	if cfg.Admit == nil {
		cfg.Admit = b.signer.Admit
	}
	cfg.Witness = func(e Event) { b.events <- e }
	b.relay = New(cfg)
	b.server = httptest.NewServer(b.relay)
	t.Cleanup(func() {
		b.relay.Close(testutil.Context(t, 5*time.Second), farewell)
		b.server.Close()
	})
	return b
}

// node is one relay connection, as far as its test has taken it.
type node struct {
	private key.NodePrivate
	ws      *wsconn.Conn
	*derp.Client
}

func publicKey(k key.NodePrivate) proto.NodeKey { return proto.NodeKey(k.Public().AppendTo(nil)) }

// dial opens the WebSocket with a token for k.
func (b *bench) dial(k proto.NodeKey) *wsconn.Conn {
	b.t.Helper()
	ws, err := wsconn.Dial(testutil.Context(b.t, 5*time.Second), b.server.URL, wsconn.DialOptions{
		Header:       http.Header{"Authorization": {"Bearer " + b.signer.Sign(Claims{Node: k, Expires: time.Now().Add(time.Minute)})}},
		Subprotocols: []string{Subprotocol},
	})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { ws.Close() })
	return ws
}

// handshake speaks DERP as far as the client's part goes.
func (b *bench) handshake(ws *wsconn.Conn, private key.NodePrivate) *node {
	b.t.Helper()
	brw := bufio.NewReadWriter(bufio.NewReader(ws), bufio.NewWriter(ws))
	client, err := derp.NewClient(private, ws, brw, func(string, ...any) {})
	require.NoError(b.t, err)
	return &node{private: private, ws: ws, Client: client}
}

// join brings a node with a fresh key to the relay and waits until it is known there.
func (b *bench) join() *node {
	b.t.Helper()
	private := key.NewNode()
	return b.joinAs(private)
}

func (b *bench) joinAs(private key.NodePrivate) *node {
	b.t.Helper()
	n := b.handshake(b.dial(publicKey(private)), private)
	m, err := n.Recv()
	require.NoError(b.t, err)
	require.IsType(b.t, derp.ServerInfoMessage{}, m)
	return n
}

// await returns the next ending of k's connections.
func (b *bench) await(k proto.NodeKey) disconnect.Attribution {
	b.t.Helper()
	ctx := testutil.Context(b.t, 10*time.Second)
	for len(b.ended[k]) == 0 {
		select {
		case e := <-b.events:
			require.NotZero(b.t, e.ID)
			require.NotEmpty(b.t, e.RemoteAddr)
			require.False(b.t, e.At.IsZero())
			if e.Kind == Ended {
				b.ended[e.Key] = append(b.ended[e.Key], e.Ending)
			}
		case <-ctx.Done():
			require.NoError(b.t, context.Cause(ctx), "no ending of %s", k.Short())
		}
	}
	first := b.ended[k][0]
	b.ended[k] = b.ended[k][1:]
	return first
}

// drain reads to the end and returns it; after 10 s the end is its own.
func drain(ws *wsconn.Conn) wsconn.Ending {
	_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.Copy(io.Discard, ws)
	return ws.Ending()
}

// code reads to the end and returns how the relay closed.
func code(t *testing.T, ws *wsconn.Conn) wsconn.Ending {
	t.Helper()
	ending := drain(ws)
	require.False(t, ending.Local, "the relay did not close")
	return ending
}

func TestNodesExchangePackets(t *testing.T) {
	b := newBench(t, Config{})
	alice, bob := b.join(), b.join()
	require.True(t, b.relay.Connected(publicKey(alice.private)))
	require.False(t, b.relay.Connected(randomKey()))

	for _, way := range [][2]*node{{alice, bob}, {bob, alice}} {
		from, to := way[0], way[1]
		for _, size := range []int{1, 1280, derp.MaxPacketSize} {
			packet := make([]byte, size)
			require.NoError(t, from.Send(to.private.Public(), packet))
			m, err := to.Recv()
			require.NoError(t, err)
			got, ok := m.(derp.ReceivedPacket)
			require.True(t, ok, "%T", m)
			require.Equal(t, from.private.Public(), got.Source)
			require.Equal(t, packet, append([]byte{}, got.Data...))
		}
	}
}

func TestTokenOfAnotherNodeIsRefused(t *testing.T) {
	b := newBench(t, Config{})
	victim, thief := key.NewNode(), key.NewNode()
	n := b.handshake(b.dial(publicKey(victim)), thief)
	require.Equal(t, 4030, code(t, n.ws).Code)
	a := b.await(publicKey(victim))
	require.Equal(t, disconnect.AuthFailed, a.Reason)
	require.Equal(t, disconnect.Server, a.Initiator)
	require.Contains(t, a.Detail, "another node key")
	require.False(t, b.relay.Connected(publicKey(victim)))
	require.False(t, b.relay.Connected(publicKey(thief)))
}

// claim returns client info that names k but was not sealed by its holder.
func claim(k proto.NodeKey) []byte {
	box := key.NewNode().SealTo(key.NewNode().Public(), []byte(`{"version":2}`))
	frame := []byte{byte(derp.FrameClientInfo)}
	frame = binary.BigEndian.AppendUint32(frame, uint32(derp.KeyLen+len(box)))
	frame = append(frame, k[:]...)
	return append(frame, box...)
}

func TestClaimedKeyMustBeProved(t *testing.T) {
	// The thief has the victim's token and public key, but not the secret.
	b := newBench(t, Config{})
	k := randomKey()
	ws := b.dial(k)
	_, err := ws.Write(claim(k))
	require.NoError(t, err)
	require.Equal(t, 4060, code(t, ws).Code)
	a := b.await(k)
	require.Equal(t, disconnect.ProtocolError, a.Reason)
	require.Contains(t, a.Detail, "cannot open")
}

func TestClaimsDisplaceNobody(t *testing.T) {
	b := newBench(t, Config{})
	private := key.NewNode()
	k := publicKey(private)
	first := b.joinAs(private)
	for range maxConnsPerNode {
		ws := b.dial(k)
		_, err := ws.Write(claim(k))
		require.NoError(t, err)
		require.Equal(t, 4060, code(t, ws).Code)
	}
	unfinished := make([]*wsconn.Conn, maxConnsPerNode)
	for i := range unfinished {
		unfinished[i] = b.dial(k)
		_, err := io.CopyN(io.Discard, unfinished[i], 1) // the relay knows it, before the next one comes
		require.NoError(t, err)
		_, err = unfinished[i].Write(claim(k)[:helloLen])
		require.NoError(t, err)
	}
	b.dial(k) // makes the oldest of them go
	require.Equal(t, 4031, code(t, unfinished[0]).Code)
	require.NoError(t, first.SendPing([8]byte{1}))
	m, err := first.Recv()
	require.NoError(t, err)
	require.IsType(t, derp.PongMessage{}, m)
}

func TestNeverAnOpenRelay(t *testing.T) {
	b := newBench(t, Config{})
	k := randomKey()
	good := b.signer.Sign(Claims{Node: k, Expires: time.Now().Add(time.Minute)})
	expired := b.signer.Sign(Claims{Node: k, Expires: time.Now().Add(-time.Second)})
	foreign := newSigner().Sign(Claims{Node: k, Expires: time.Now().Add(time.Minute)})
	for name, tc := range map[string]struct {
		method, auth, protocol string
		status                 int
		reason                 disconnect.Reason
	}{
		"no token":      {"GET", "", "derp", 401, disconnect.AuthFailed},
		"empty token":   {"GET", "Bearer ", "derp", 401, disconnect.AuthFailed},
		"other scheme":  {"GET", "Basic " + good, "derp", 401, disconnect.AuthFailed},
		"junk":          {"GET", "Bearer x", "derp", 401, disconnect.AuthFailed},
		"expired":       {"GET", "Bearer " + expired, "derp", 401, disconnect.AuthFailed},
		"forged":        {"GET", "Bearer " + foreign, "derp", 401, disconnect.AuthFailed},
		"post":          {"POST", "Bearer " + good, "derp", 405, disconnect.ProtocolError},
		"no protocol":   {"GET", "Bearer " + good, "", 426, disconnect.VersionMismatch},
		"late protocol": {"GET", "Bearer " + good, "derp2, der", 426, disconnect.VersionMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, b.server.URL, nil)
			require.NoError(t, err)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "websocket")
			req.Header.Set("Sec-WebSocket-Version", "13")
			req.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
			if tc.auth != "" {
				req.Header.Set("Authorization", tc.auth)
			}
			if tc.protocol != "" {
				req.Header.Set("Sec-WebSocket-Protocol", tc.protocol)
			}
			resp, err := b.server.Client().Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, tc.status, resp.StatusCode)
			require.Equal(t, strconv.Itoa(int(tc.reason)), resp.Header.Get(wsconn.HTTPReason))
			var body struct {
				Error struct{ Code, Message string }
			}
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&body))
			require.Equal(t, tc.reason.String(), body.Error.Code)
			require.NotEmpty(t, body.Error.Message)
		})
	}
	require.Empty(t, b.events, "none of them may become a connection")
}

func TestRefuseIsTheServers(t *testing.T) {
	b := newBench(t, Config{Refuse: func(w http.ResponseWriter, _ *http.Request, status int, reason disconnect.Reason, message string) {
		assert.NotEmpty(t, message)
		http.Error(w, reason.String(), status)
	}})
	resp, err := b.server.Client().Get(b.server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "auth_failed\n", string(body))
}

func TestGarbageIsAProtocolError(t *testing.T) {
	b := newBench(t, Config{})
	for name, bytes := range map[string][]byte{
		"text":       []byte("GET / HTTP/1.1\r\nHost: relay.example.com\r\n\r\n"),
		"wrong type": append([]byte{4, 0, 0, 0, 100}, make([]byte, 100)...),
		"too short":  append([]byte{2, 0, 0, 0, 10}, make([]byte, 100)...),
		"too long":   append([]byte{2, 0xff, 0xff, 0xff, 0xff}, make([]byte, 100)...),
	} {
		t.Run(name, func(t *testing.T) {
			k := randomKey()
			ws := b.dial(k)
			_, err := ws.Write(bytes)
			require.NoError(t, err)
			require.Equal(t, 4060, code(t, ws).Code)
			a := b.await(k)
			require.Equal(t, disconnect.ProtocolError, a.Reason)
			require.Equal(t, disconnect.Client, a.Initiator)
		})
	}
}

func TestInvalidFrameAfterTheHandshake(t *testing.T) {
	b := newBench(t, Config{})
	n := b.join()
	_, err := n.ws.Write([]byte{byte(derp.FrameWatchConns), 0, 0, 0, 0}) // only for other relays
	require.NoError(t, err)
	require.Equal(t, 4060, code(t, n.ws).Code)
	a := b.await(publicKey(n.private))
	require.Equal(t, disconnect.ProtocolError, a.Reason)
	require.Contains(t, a.Detail, "insufficient permissions")
}

func TestClosePolitely(t *testing.T) {
	b := newBench(t, Config{})
	alice, bob := b.join(), b.join()
	endings := make([]wsconn.Ending, 2)
	var read sync.WaitGroup
	for i, n := range []*node{alice, bob} {
		read.Go(func() { endings[i] = drain(n.ws) })
	}
	b.relay.Close(testutil.Context(t, 5*time.Second), farewell)
	read.Wait()
	for i, n := range []*node{alice, bob} {
		require.Equal(t, 4020, endings[i].Code)
		told := wsconn.Judge(endings[i], disconnect.ClientToServer, disconnect.Client, disconnect.Server)
		require.Equal(t, farewell.On(disconnect.ClientToServer), told)
		require.Equal(t, farewell.On(disconnect.ClientToServer), b.await(publicKey(n.private)))
	}
	_, err := wsconn.Dial(t.Context(), b.server.URL, wsconn.DialOptions{
		Header:       http.Header{"Authorization": {"Bearer " + b.signer.Sign(Claims{Node: randomKey(), Expires: time.Now().Add(time.Minute)})}},
		Subprotocols: []string{Subprotocol},
	})
	var refused *wsconn.DialError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	reason, _ := refused.Reason()
	require.Equal(t, disconnect.ServerShutdown, reason)
}

func TestCloseDoesNotWaitForTheDead(t *testing.T) {
	b := newBench(t, Config{})
	b.join() // answers nothing, not even a close frame, for nobody reads
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.relay.Close(ctx, farewell)
}

func TestNodesGoodbyeAndCut(t *testing.T) {
	signer := newSigner()
	b := newBench(t, Config{Admit: func(ctx context.Context, token string) (Admission, error) {
		a, err := signer.Admit(ctx, token)
		a.Agent = true
		return a, err
	}})
	b.signer = signer
	polite, cut := b.join(), b.join()
	g := disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Agent, Detail: "home relay moved"}
	require.NoError(t, polite.ws.CloseWith(g.CloseCode()))
	require.Equal(t, g.On(disconnect.ServerToAgent), b.await(publicKey(polite.private)))

	require.NoError(t, cut.ws.Close())
	a := b.await(publicKey(cut.private))
	require.Equal(t, disconnect.ServerToAgent, a.ConnectType)
	require.Equal(t, disconnect.NetworkError, a.Reason)
	require.Equal(t, disconnect.Network, a.Initiator)
}

func TestSilentNodeIsCut(t *testing.T) {
	b := newBench(t, Config{PingInterval: 20 * time.Millisecond, Silence: 200 * time.Millisecond})
	silent, alive := b.join(), b.join()
	var read sync.WaitGroup
	read.Go(func() { drain(alive.ws) }) // a reader answers pings
	a := b.await(publicKey(silent.private))
	require.Equal(t, disconnect.NetworkTimeout, a.Reason)
	require.Equal(t, disconnect.Network, a.Initiator)
	require.True(t, b.relay.Connected(publicKey(alive.private)))
	b.relay.Close(testutil.Context(t, 5*time.Second), farewell)
	read.Wait()
	require.Equal(t, disconnect.ServerShutdown, b.await(publicKey(alive.private)).Reason)
}

func TestHandshakeIsBounded(t *testing.T) {
	b := newBench(t, Config{PingInterval: 20 * time.Millisecond, handshake: 100 * time.Millisecond})
	k := randomKey()
	require.Equal(t, 4045, code(t, b.dial(k)).Code)
	require.Equal(t, disconnect.SlowPeer, b.await(k).Reason)

	ws := b.dial(k) // names its key, and then shows nothing
	_, err := ws.Write(claim(k)[:helloLen])
	require.NoError(t, err)
	require.Equal(t, 4045, code(t, ws).Code)
	require.Equal(t, disconnect.SlowPeer, b.await(k).Reason)
}

func TestNodeThatDoesNotReadIsSlow(t *testing.T) {
	b := newBench(t, Config{write: 100 * time.Millisecond})
	slow, fast := b.join(), b.join()
	ended := make(chan disconnect.Attribution, 1)
	var wait sync.WaitGroup
	wait.Go(func() {
		for e := range b.events {
			if e.Kind == Ended {
				ended <- e.Ending
				return
			}
		}
	})
	packet := make([]byte, derp.MaxPacketSize)
	for {
		select {
		case a := <-ended:
			wait.Wait()
			require.Equal(t, disconnect.SlowPeer, a.Reason, a.Detail)
			require.Equal(t, disconnect.Client, a.Initiator)
			return
		default:
			require.NoError(t, fast.Send(slow.private.Public(), packet))
		}
	}
}

func TestOneNodeHoldsFewConnections(t *testing.T) {
	b := newBench(t, Config{})
	private := key.NewNode()
	k := publicKey(private)
	first := b.joinAs(private)
	for range maxConnsPerNode - 1 {
		b.joinAs(private)
	}
	// Whoever has only the token displaces others like itself, not the node.
	for range 2 * maxConnsPerNode {
		b.dial(k)
	}
	for range maxConnsPerNode {
		require.Equal(t, disconnect.LimitExceeded, b.await(k).Reason)
	}
	require.NoError(t, first.SendPing([8]byte{1}))
	m, err := first.Recv()
	require.NoError(t, err)
	require.IsType(t, derp.PongMessage{}, m)

	b.joinAs(private)
	require.Equal(t, 4031, code(t, first.ws).Code)
	require.True(t, b.relay.Connected(k))
}

func TestFullRelayRefuses(t *testing.T) {
	b := newBench(t, Config{MaxConns: 1})
	b.join()
	_, err := wsconn.Dial(t.Context(), b.server.URL, wsconn.DialOptions{
		Header:       http.Header{"Authorization": {"Bearer " + b.signer.Sign(Claims{Node: randomKey(), Expires: time.Now().Add(time.Minute)})}},
		Subprotocols: []string{Subprotocol},
	})
	var refused *wsconn.DialError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusTooManyRequests, refused.Status)
}
