package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	protobuf "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// link is one control link as the coordinator sees it.
type link struct {
	id       control.Identity
	instance string
	ctx      context.Context
	cut      context.CancelFunc // ends the link

	mu     sync.Mutex // guards ending
	ending control.Ending
}

func (l *link) Peer() control.Identity   { return l.id }
func (l *link) PeerInstance() string     { return l.instance }
func (l *link) Done() <-chan struct{}    { return l.ctx.Done() }
func (l *link) Context() context.Context { return l.ctx }
func (l *link) Ending() control.Ending {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

func agentLink(workspace, instance string) *link {
	return newLink(control.Identity{Kind: control.AgentPeer, ID: workspace}, instance)
}

func clientLink(user string) *link {
	id := control.Identity{Kind: control.ClientPeer, ID: user, Principal: user + "-name", TokenID: "token of " + user}
	return newLink(id, "client-"+user)
}

func newLink(id control.Identity, instance string) *link {
	l := &link{id: id, instance: instance}
	l.ctx, l.cut = context.WithCancel(context.Background())
	return l
}

// pipe is a Coordinate stream without a network: it works inside a synctest bubble,
// and its reader can be as slow as a test wants.
type pipe struct {
	grpc.ServerStream
	ctx        context.Context
	cancel     context.CancelFunc
	toServer   chan *proto.CoordinateRequest
	fromServer chan *proto.CoordinateResponse
	result     chan error // what the handler returned
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(m *proto.CoordinateResponse) error {
	wire, err := protobuf.Marshal(m) // what is shared is read here, where the race detector sees it
	if err != nil {
		return err
	}
	copied := &proto.CoordinateResponse{}
	if err := protobuf.Unmarshal(wire, copied); err != nil {
		return err
	}
	select {
	case p.fromServer <- copied:
		return nil
	case <-p.ctx.Done():
		return status.FromContextError(p.ctx.Err()).Err()
	}
}

func (p *pipe) Recv() (*proto.CoordinateRequest, error) {
	select {
	case m, ok := <-p.toServer:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-p.ctx.Done():
		return nil, status.FromContextError(p.ctx.Err()).Err()
	}
}

// key is a node's key pair.
type key struct{ private, public [32]byte }

func newKey() key {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key{private: *private, public: *public}
}

func (k key) node() proto.NodeKey { return proto.NodeKey(k.public) }

func (k key) proof(ch *proto.Challenge) *proto.CoordinateRequest {
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	server := [32]byte(ch.GetKey())
	sealed := box.Seal(nonce[:], proto.ProofMessage([32]byte(ch.GetNonce())), &nonce, &server, &k.private)
	return proofRequest(k.public[:], sealed)
}

func proofRequest(nodeKey, sealed []byte) *proto.CoordinateRequest {
	return &proto.CoordinateRequest{Request: &proto.CoordinateRequest_Proof{
		Proof: &proto.Proof{NodeKey: nodeKey, Sealed: sealed},
	}}
}

// self is what a node with this key says of itself; n tells its versions apart.
func (k key) self(n byte) *proto.Node {
	disco := [32]byte{n, 1}
	return &proto.Node{Key: k.public[:], DiscoKey: disco[:], Endpoints: []string{"192.0.2.7:41641"}, HomeRelay: 1}
}

// peer is a node's end of a stream.
type peer struct {
	t    *testing.T
	key  key
	link *link
	pipe *pipe
}

// world is a coordinator and the rights behind it.
type world struct {
	*Coordinator
	t *testing.T

	mu     sync.Mutex // guards all below
	rights map[[2]string]bool
	void   string // id of a revoked token
	until  time.Time
	failed error // what Authorize answers instead
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, rights: make(map[[2]string]bool)}
	cfg := Config{
		Logger:    slog.New(slog.NewTextHandler(t.Output(), nil)),
		Authorize: w.authorize,
		GrantKey:  [32]byte{1, 2, 3},
		RelayToken: func(k proto.NodeKey, _ control.Identity, expiry time.Time) string {
			return "relay token of " + k.Short() + " until " + expiry.UTC().Format(time.RFC3339)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	w.Coordinator = New(cfg)
	t.Cleanup(w.stop)
	return w
}

func (w *world) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(w.t, w.Close(ctx))
}

// authorize knows each workspace "x" also by the name "name-x".
func (w *world) authorize(_ context.Context, client control.Identity, workspace string) (Right, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return Right{}, w.failed
	}
	if len(workspace) > 5 && workspace[:5] == "name-" {
		workspace = workspace[5:]
	}
	late := !w.until.IsZero() && !time.Now().Before(w.until)
	if client.Kind != control.ClientPeer || client.TokenID == w.void || late || !w.rights[[2]string{client.ID, workspace}] {
		return Right{}, ErrNotFound
	}
	return Right{WorkspaceID: workspace, HostKey: "ssh-ed25519 key-of-" + workspace, Until: w.until}, nil
}

func (w *world) allow(user, workspace string, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rights[[2]string{user, workspace}] = yes
}

func (w *world) voidToken(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.void = id
}

func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
}

// open starts a stream; nothing has been read or sent.
func (w *world) open(l *link, k key) *peer {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &pipe{
		ctx: ctx, cancel: cancel, result: make(chan error, 1),
		toServer:   make(chan *proto.CoordinateRequest),
		fromServer: make(chan *proto.CoordinateResponse),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := w.coordinate(p, l)
		p.cancel() // as gRPC does when a handler returns
		p.result <- err
	}()
	w.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return &peer{t: w.t, key: k, link: l, pipe: p}
}

// join opens a stream, proves the key and says where the node is.
func (w *world) join(l *link, k key) *peer {
	w.t.Helper()
	p := w.admitted(l, k)
	p.self(1)
	return p
}

// admitted opens a stream and proves the key.
func (w *world) admitted(l *link, k key) *peer {
	w.t.Helper()
	p := w.open(l, k)
	p.send(k.proof(p.next().GetChallenge()))
	require.NotNil(w.t, p.next().GetAdmitted())
	return p
}

// cut ends the peer's link as ending, and with it the stream.
func (p *peer) cut(ending control.Ending) {
	p.link.mu.Lock()
	p.link.ending = ending
	p.link.mu.Unlock()
	p.pipe.cancel()
	p.link.cut()
}

func (p *peer) send(m *proto.CoordinateRequest) {
	p.t.Helper()
	select {
	case p.pipe.toServer <- m:
	case <-p.pipe.ctx.Done():
		require.FailNow(p.t, "the stream ended while the test sent")
	case <-time.After(5 * time.Second):
		require.FailNow(p.t, "the server does not receive")
	}
}

// self returns when the server has acted on it.
func (p *peer) self(n byte) {
	p.t.Helper()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Self{Self: p.key.self(n)}})
	p.send(&proto.CoordinateRequest{}) // means nothing, and is taken after what came before
}

func (p *peer) addTunnel(workspace string) {
	p.t.Helper()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_AddTunnel{
		AddTunnel: &proto.AddTunnel{Workspace: workspace},
	}})
}

func (p *peer) removeTunnel(k key) {
	p.t.Helper()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_RemoveTunnel{
		RemoveTunnel: &proto.RemoveTunnel{NodeKey: k.public[:]},
	}})
}

func (p *peer) announce(k key, grant []byte) {
	p.t.Helper()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Announce{Announce: &proto.Announce{
		Peers: []*proto.AnnouncedPeer{{NodeKey: k.public[:], Grant: grant}},
	}}})
}

func (p *peer) disconnect() {
	p.t.Helper()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Disconnect{Disconnect: &proto.Disconnect{}}})
}

func (p *peer) ack(u *proto.PeerUpdate) {
	p.t.Helper()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Installed{
		Installed: &proto.Installed{NodeKey: u.GetNode().GetKey(), Generation: u.GetGeneration()},
	}})
}

func (p *peer) next() *proto.CoordinateResponse {
	p.t.Helper()
	select {
	case m := <-p.pipe.fromServer:
		return m
	case err := <-p.pipe.result:
		require.FailNow(p.t, "the stream ended while the test waited for a message", "%v", err)
	case <-time.After(5 * time.Second):
		require.FailNow(p.t, "the server says nothing")
	}
	return nil
}

// upsert expects an update of the node k next.
func (p *peer) upsert(k key) *proto.PeerUpdate {
	p.t.Helper()
	return p.update(k, proto.PeerUpdate_UPSERT)
}

// drop expects the removal of the node k next, as no news of an ending.
func (p *peer) drop(k key) {
	p.t.Helper()
	require.Nil(p.t, p.update(k, proto.PeerUpdate_DROP).GetGoodbye())
}

// revoke expects the removal of the node k next, because a right was withdrawn.
func (p *peer) revoke(k key) {
	p.t.Helper()
	why := wire.ToGoodbye(p.update(k, proto.PeerUpdate_DROP).GetGoodbye())
	require.Equal(p.t, disconnect.AuthRevoked, why.Reason)
	require.Equal(p.t, disconnect.Server, why.Initiator)
}

func (p *peer) update(k key, kind proto.PeerUpdate_Kind) *proto.PeerUpdate {
	p.t.Helper()
	m := p.next()
	u := m.GetPeerUpdate()
	require.NotNil(p.t, u, "got %v", m)
	require.Equal(p.t, kind, u.GetKind())
	require.Equal(p.t, k.node().String(), proto.NodeKey(u.GetNode().GetKey()).String())
	return u
}

func (p *peer) presence() *proto.Presence {
	p.t.Helper()
	m := p.next()
	require.NotNil(p.t, m.GetPresence(), "got %v", m)
	return m.GetPresence()
}

func (p *peer) reply() *proto.TunnelReply {
	p.t.Helper()
	m := p.next()
	require.NotNil(p.t, m.GetTunnelReply(), "got %v", m)
	return m.GetTunnelReply()
}

func (p *peer) ready(k key) {
	p.t.Helper()
	m := p.next()
	require.NotNil(p.t, m.GetReady(), "got %v", m)
	require.Equal(p.t, k.public[:], m.GetReady().GetNodeKey())
}

// silent expects that no message waits. It syncs with the server by an answered
// request, so it works without a clock; for clients only.
func (p *peer) silent() {
	p.t.Helper()
	p.addTunnel("")
	require.Equal(p.t, proto.Refusal_INVALID, p.reply().GetRefusal().GetCode())
}

// ended expects the end of the stream; what it still says is skipped.
func (p *peer) ended() error {
	p.t.Helper()
	late := time.After(5 * time.Second)
	for {
		select {
		case <-p.pipe.fromServer:
		case err := <-p.pipe.result:
			return err
		case <-late:
			require.FailNow(p.t, "the stream did not end")
		}
	}
}

// tunnel makes a tunnel and returns the two grants, as the client and the agent have them.
func (w *world) tunnel(client, agent *peer, workspace string) (clientGrant, agentGrant []byte) {
	w.t.Helper()
	client.addTunnel(workspace)
	atClient := client.upsert(agent.key)
	require.Equal(w.t, agent.key.public[:], client.reply().GetNodeKey())
	require.True(w.t, client.presence().GetOnline())
	atAgent := agent.upsert(client.key)
	agent.ack(atAgent)
	client.ready(agent.key)
	return atClient.GetGrant(), atAgent.GetGrant()
}

func kill() control.Ending {
	return control.Ending{Attribution: disconnect.Attribution{
		ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkError, Initiator: disconnect.Network, Detail: "EOF",
	}}
}

func shutdown() control.Ending {
	return control.Ending{Goodbye: true, Attribution: disconnect.Attribution{
		ConnectType: disconnect.ServerToAgent, Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "SIGTERM",
	}}
}

func TestProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := newKey(), newKey()
	var overheard *proto.CoordinateRequest
	p := w.open(clientLink("alice"), k)
	ch := p.next().GetChallenge()
	overheard = k.proof(ch)
	p.send(overheard)
	require.Contains(t, p.next().GetAdmitted().GetRelayToken(), k.node().Short())

	zeroPoint := make([]byte, 32)
	zeroPoint[0] = 1 // order 1: everyone has the same secret with it
	cases := map[string]func(ch *proto.Challenge) *proto.CoordinateRequest{
		"replayed on another stream": func(*proto.Challenge) *proto.CoordinateRequest { return overheard },
		"another's key": func(ch *proto.Challenge) *proto.CoordinateRequest {
			return proofRequest(k.public[:], other.proof(ch).GetProof().GetSealed())
		},
		"nothing sealed": func(*proto.Challenge) *proto.CoordinateRequest { return proofRequest(k.public[:], nil) },
		"wrong size":     func(*proto.Challenge) *proto.CoordinateRequest { return proofRequest(k.public[:8], make([]byte, 99)) },
		"a weak key": func(ch *proto.Challenge) *proto.CoordinateRequest {
			var nonce [24]byte
			var shared [32]byte // the secret of a weak key, known to all
			sealed := box.SealAfterPrecomputation(nonce[:], proto.ProofMessage([32]byte(ch.GetNonce())), &nonce, &shared)
			return proofRequest(zeroPoint, sealed)
		},
	}
	for name, answer := range cases {
		p := w.open(clientLink("mallory"), other)
		p.send(answer(p.next().GetChallenge()))
		require.Equal(t, codes.Unauthenticated, status.Code(p.ended()), name)
	}
	_, err := curve25519.X25519(k.private[:], zeroPoint)
	require.Error(t, err)

	p = w.open(clientLink("mallory"), other)
	p.next()
	p.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Self{Self: other.self(1)}})
	require.Equal(t, codes.InvalidArgument, status.Code(p.ended()), "spoke before the proof")
}

var errDatabase = errors.New("the database is away")
