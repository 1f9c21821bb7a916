package tailnet_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/coordinator"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/testutil"
)

// site is a server of control links and its coordinator, behind one URL that stays
// when the server is replaced by a new one.
type site struct {
	t   *testing.T
	url *url.URL

	mu       sync.Mutex // guards all below
	control  *control.Server
	coord    *coordinator.Coordinator
	accepted []*control.Link // by the present server, oldest first
	status   int             // answer every dial with this; 0: accept
	rights   map[[2]string]bool
	derp     *proto.DERPMap
	relay    *relay.Relay
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, rights: make(map[[2]string]bool)}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	var err error
	s.url, err = url.Parse(h.URL)
	require.NoError(t, err)
	s.start()
	t.Cleanup(func() { s.stop(true) })
	return s
}

// start brings up a server that remembers nothing.
func (s *site) start() {
	coord := coordinator.New(coordinator.Config{
		Authorize: s.authorize, GrantKey: [32]byte{5},
		RelayToken: func(k proto.NodeKey, _ control.Identity, _ time.Time) string { return "relay:" + k.String() },
		DERPMap: func() *proto.DERPMap {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.derp
		},
	})
	s.serve(coord)
	s.mu.Lock()
	s.coord = coord
	s.mu.Unlock()
}

// serve brings up a server with any tailnet service.
func (s *site) serve(svc proto.TailnetServiceServer) {
	server := control.NewServer(control.ServerOptions{
		Instance: "server",
		Register: func(r grpc.ServiceRegistrar) { proto.RegisterTailnetServiceServer(r, svc) },
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.control, s.accepted = server, nil
}

// stop ends the server: in order, or as kill -9 would.
func (s *site) stop(polite bool) {
	s.mu.Lock()
	server, coord, links := s.control, s.coord, s.accepted
	s.control, s.coord, s.accepted = nil, nil, nil
	s.mu.Unlock()
	if server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if !polite {
		for _, l := range links {
			l.Abort(disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network, Detail: "killed"})
		}
	}
	server.Close(ctx, disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "restart"})
	if coord != nil {
		require.NoError(s.t, coord.Close(ctx))
	}
}

// ServeHTTP accepts links. The bearer token is "agent:<workspace>" or "client:<user>".
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	server, status, relay := s.control, s.status, s.relay
	s.mu.Unlock()
	if relay != nil && r.URL.Path != control.Path {
		relay.ServeHTTP(w, r)
		return
	}
	if server == nil && status == 0 {
		status = http.StatusBadGateway
	}
	if status != 0 {
		http.Error(w, "not now", status)
		return
	}
	id := control.Identity{Kind: control.ClientPeer}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	kind, name, _ := strings.Cut(token, ":")
	id.ID, id.Principal = name, name+"-name"
	if kind == "agent" {
		id.Kind = control.AgentPeer
	}
	link, err := server.Accept(w, r, id)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = append(s.accepted, link)
}

func (s *site) authorize(_ context.Context, client control.Identity, workspace string) (coordinator.Right, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.rights[[2]string{client.ID, workspace}] {
		return coordinator.Right{}, coordinator.ErrNotFound
	}
	return coordinator.Right{WorkspaceID: workspace, HostKey: "ssh-ed25519 key-of-" + workspace}, nil
}

func (s *site) allow(user, workspace string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rights[[2]string{user, workspace}] = yes
}

func (s *site) refuse(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// latest returns the newest link that the server accepted from a user or workspace.
func (s *site) latest(id string) *control.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.accepted) - 1; i >= 0; i-- {
		if s.accepted[i].Peer().ID == id {
			return s.accepted[i]
		}
	}
	return nil
}

func (s *site) dialer(token, instance string, client *http.Client) func(context.Context) (*control.Link, error) {
	opts := control.DialOptions{
		AccessURL: s.url, Token: token, Instance: instance, HTTPClient: client,
		ConnectType: disconnect.ClientToServer, Self: disconnect.Client, Peer: disconnect.Server,
	}
	if strings.HasPrefix(token, "agent:") {
		opts.ConnectType, opts.Self = disconnect.ServerToAgent, disconnect.Agent
	}
	return func(ctx context.Context) (*control.Link, error) { return control.Dial(ctx, opts) }
}

// fakeNode is a node without a packet engine, as a struct of funcs; newFakeNode gives
// them sensible ones.
type fakeNode struct {
	self           func() *proto.Node
	setCallback    func(func(*proto.Node))
	upsert         func(*proto.Node) error
	remove         func(proto.NodeKey)
	setCoordinated func(bool)
	setDERPMap     func(*proto.DERPMap, string)

	key    tailnet.PrivateKey
	public proto.NodeKey // of key; making it is slow under the race detector

	mu          sync.Mutex // guards all below
	version     byte
	callback    func(*proto.Node)
	installed   map[proto.NodeKey]*proto.Node
	events      []string // "upsert <short key>" and "remove <short key>"
	coordinated bool
	derp        *proto.DERPMap
	changed     chan struct{} // closed and replaced on every change
}

func newFakeNode() *fakeNode {
	key := tailnet.NewPrivateKey()
	n := &fakeNode{key: key, public: key.Public(), version: 1, installed: make(map[proto.NodeKey]*proto.Node), changed: make(chan struct{})}
	n.self = func() *proto.Node {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.selfLocked()
	}
	n.setCallback = func(f func(*proto.Node)) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.callback = f
	}
	n.upsert = func(p *proto.Node) error {
		n.change(func() {
			key := proto.NodeKey(p.GetKey())
			n.installed[key] = p
			n.events = append(n.events, "upsert "+key.Short())
		})
		return nil
	}
	n.remove = func(key proto.NodeKey) {
		n.change(func() {
			delete(n.installed, key)
			n.events = append(n.events, "remove "+key.Short())
		})
	}
	n.setCoordinated = func(up bool) { n.change(func() { n.coordinated = up }) }
	n.setDERPMap = func(m *proto.DERPMap, _ string) { n.change(func() { n.derp = m }) }
	return n
}

func (n *fakeNode) Self() *proto.Node                            { return n.self() }
func (n *fakeNode) SetSelfCallback(f func(*proto.Node))          { n.setCallback(f) }
func (n *fakeNode) UpsertPeer(p *proto.Node) error               { return n.upsert(p) }
func (n *fakeNode) RemovePeer(k proto.NodeKey)                   { n.remove(k) }
func (n *fakeNode) SetCoordinated(up bool)                       { n.setCoordinated(up) }
func (n *fakeNode) SetDERPMap(m *proto.DERPMap, stunHost string) { n.setDERPMap(m, stunHost) }

func (n *fakeNode) selfLocked() *proto.Node {
	disco := [32]byte{n.version, 1}
	return &proto.Node{Key: n.public.Bytes(), DiscoKey: disco[:], Endpoints: []string{"192.0.2.1:9"}, HomeRelay: 1}
}

func (n *fakeNode) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// move changes what the node says of itself.
func (n *fakeNode) move() {
	n.mu.Lock()
	n.version++
	f, self := n.callback, n.selfLocked()
	n.mu.Unlock()
	f(self)
}

// await waits until what is true of the node, under its lock.
func (n *fakeNode) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := testutil.Context(t, 10*time.Second)
	for {
		n.mu.Lock()
		yes, changed := ok(), n.changed
		n.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			require.FailNow(t, "waited in vain", what)
		}
	}
}

// awaitPeer waits until the node has the peer's present version installed.
func (n *fakeNode) awaitPeer(t *testing.T, peer *fakeNode) {
	t.Helper()
	want := peer.Self().GetDiscoKey()
	n.await(t, "peer "+peer.public.Short(), func() bool {
		p := n.installed[peer.public]
		return p != nil && string(p.GetDiscoKey()) == string(want)
	})
}

func (n *fakeNode) awaitGone(t *testing.T, peer *fakeNode) {
	t.Helper()
	n.await(t, "no peer "+peer.public.Short(), func() bool { return n.installed[peer.public] == nil })
}

func (n *fakeNode) history() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.events...)
}

// member is a node with its book, and one control link at a time.
type member struct {
	t      *testing.T
	site   *site
	node   *fakeNode
	book   *tailnet.PeerBook
	token  string
	logger *slog.Logger
	rec    *testutil.Recorder

	link  *control.Link
	coord *tailnet.BasicCoordination
}

func (s *site) member(token string) *member {
	s.t.Helper()
	m := &member{t: s.t, site: s, node: newFakeNode(), token: token}
	m.book = tailnet.NewPeerBook(tailnet.PeerBookOptions{Remove: m.node.RemovePeer})
	m.logger, m.rec = testutil.NewLogRecorder(s.t)
	s.t.Cleanup(m.leave)
	return m
}

// connect dials and coordinates, as an agent's run loop does for each link.
func (m *member) connect(instance string) {
	m.t.Helper()
	ctx := testutil.Context(m.t, 10*time.Second)
	link, err := m.site.dialer(m.token, instance, nil)(ctx)
	require.NoError(m.t, err)
	cfg := tailnet.CoordinationConfig{
		Logger: m.logger, Node: m.node, Key: m.node.key, Book: m.book,
		ConnectType: disconnect.ClientToServer, Initiator: disconnect.Client,
	}
	if strings.HasPrefix(m.token, "agent:") {
		cfg.ConnectType, cfg.Initiator = disconnect.ServerToAgent, disconnect.Agent
	}
	coord, err := tailnet.StartCoordination(context.Background(), proto.NewTailnetServiceClient(link.RPC()), cfg)
	require.NoError(m.t, err)
	m.link, m.coord = link, coord
}

// leave ends the member in order, if it is connected.
func (m *member) leave() {
	if m.coord != nil {
		_ = m.coord.Close(nil)
		_ = m.link.Close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client})
		m.coord, m.link = nil, nil
	}
}

// lose ends the member's link as the loss of its network would.
func (m *member) lose() {
	m.link.Abort(disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
	_ = m.coord.Close(errors.New("the network is gone"))
	_ = m.link.Close(disconnect.Goodbye{})
	m.coord, m.link = nil, nil
}

func (m *member) key() proto.NodeKey { return m.node.public }
