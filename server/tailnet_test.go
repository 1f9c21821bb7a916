package server

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/nacl/box"

	agentproto "fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
)

// node is one node's coordination stream, as far as the server's plugs need it.
type node struct {
	t      *testing.T
	stream proto.TailnetService_CoordinateClient
	key    proto.NodeKey
	token  string // for the relay
}

// coordinate opens a stream on a link and proves a new node key.
func coordinate(t *testing.T, link *control.Link) *node {
	t.Helper()
	stream, err := proto.NewTailnetServiceClient(link.RPC()).Coordinate(testutil.Context(t, patience))
	require.NoError(t, err)
	n := &node{t: t, stream: stream}
	challenge := n.recv().GetChallenge()
	public, private, err := box.GenerateKey(rand.Reader)
	require.NoError(t, err)
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	to := [32]byte(challenge.GetKey())
	message := proto.ProofMessage([proto.NonceSize]byte(challenge.GetNonce()))
	n.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Proof{Proof: &proto.Proof{
		NodeKey: public[:], Sealed: box.Seal(nonce[:], message, &nonce, &to, private),
	}}})
	n.key = proto.NodeKey(public[:])
	n.token = n.recv().GetAdmitted().GetRelayToken()
	n.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_Self{Self: &proto.Node{Key: public[:], DiscoKey: public[:]}}})
	return n
}

func (n *node) send(req *proto.CoordinateRequest) {
	n.t.Helper()
	require.NoError(n.t, n.stream.Send(req))
}

func (n *node) recv() *proto.CoordinateResponse {
	n.t.Helper()
	resp, err := n.stream.Recv()
	require.NoError(n.t, err)
	return resp
}

// tunnel asks for a tunnel and returns the answer.
func (n *node) tunnel(workspace string) *proto.TunnelReply {
	n.t.Helper()
	n.send(&proto.CoordinateRequest{Request: &proto.CoordinateRequest_AddTunnel{AddTunnel: &proto.AddTunnel{Workspace: workspace}}})
	for {
		if reply := n.recv().GetTunnelReply(); reply != nil {
			return reply
		}
	}
}

// TestTunnelsThroughTheServer: the coordinator asks the server's own answers: who may,
// which host key is pinned, since when and why an agent is away.
func TestTunnelsThroughTheServer(t *testing.T) {
	dir := t.TempDir()
	s := run(t, func(o *Options) { o.StateDir, o.STUNListen = dir, "127.0.0.1:0" })
	ada, adaToken := s.addUser(t, "ada", store.RoleMember)
	_, bobToken := s.addUser(t, "bob", store.RoleMember)
	agentLink, _, _ := s.agentLink(t, ada, "dev")
	key := hostKey(t)
	_, err := agentproto.NewAgentServiceClient(agentLink.RPC()).GetManifest(t.Context(), &agentproto.GetManifestRequest{SshHostKey: key})
	require.NoError(t, err)
	coordinate(t, agentLink)

	clientOf := func(s *running, token string) *node {
		link, err := s.dial(t, disconnect.Client, token, uuid.NewString())
		require.NoError(t, err)
		return coordinate(t, link)
	}
	reply := clientOf(s, adaToken).tunnel("dev")
	require.Nil(t, reply.GetRefusal())
	require.Equal(t, key, reply.GetSshHostKey())
	require.Len(t, reply.GetNodeKey(), 32)

	bob := clientOf(s, bobToken)
	foreign, absent := bob.tunnel("ada/dev").GetRefusal(), bob.tunnel("ada/nothing").GetRefusal()
	require.Equal(t, proto.Refusal_NOT_FOUND, foreign.GetCode())
	require.Equal(t, absent.GetMessage(), foreign.GetMessage())

	conn, err := s.dialRelay(t, bob.token)
	require.NoError(t, err, "the token that the coordinator gives is the relay's")
	require.NoError(t, conn.Close())

	maps, err := proto.NewTailnetServiceClient(agentLink.RPC()).StreamDERPMaps(testutil.Context(t, patience), &proto.StreamDERPMapsRequest{})
	require.NoError(t, err)
	m, err := maps.Recv()
	require.NoError(t, err)
	require.Len(t, m.GetRegions(), 1)
	require.Equal(t, "embedded", m.GetRegions()[0].GetCode())
	require.EqualValues(t, s.stun.Addr().Port(), m.GetRegions()[0].GetStunPort())
	s.stop()

	s = run(t, func(o *Options) { o.StateDir = dir }) // a new life that never saw the agent
	away := clientOf(s, adaToken).tunnel("dev").GetRefusal()
	require.Equal(t, proto.Refusal_AGENT_OFFLINE, away.GetCode())
	require.WithinDuration(t, time.Now(), away.GetOfflineSince().AsTime(), time.Minute)
	require.Equal(t, disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.ServerShutdown,
		Initiator: disconnect.Server, Detail: "the server is stopping"}, wire.ToAttribution(away.GetEnding()))
}
