package coordinator

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	protobuf "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/tailnet/proto"
)

// FuzzRequest reads bytes as a node's request: a node can say nothing of itself but
// what its proved key allows, and prove no key that it does not have.
func FuzzRequest(f *testing.F) {
	k := key{public: [32]byte{9}} // each process of the fuzzer must have the same
	for _, req := range []*proto.CoordinateRequest{
		{},
		{Request: &proto.CoordinateRequest_Self{Self: k.self(1)}},
		{Request: &proto.CoordinateRequest_Self{Self: &proto.Node{Key: k.public[:], Endpoints: []string{"224.0.0.1:9"}}}},
		proofRequest(k.public[:], make([]byte, 72)),
	} {
		b, err := protobuf.Marshal(req)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var req proto.CoordinateRequest
		if protobuf.Unmarshal(b, &req) != nil {
			return
		}
		ch, err := newChallenge()
		require.NoError(t, err)
		_, err = ch.verify(req.GetProof())
		require.Error(t, err, "a proof without the challenge")

		n, err := checkSelf(req.GetSelf(), k.node())
		if err != nil {
			return
		}
		require.Equal(t, k.public[:], n.GetKey())
		require.LessOrEqual(t, len(n.GetEndpoints()), proto.MaxEndpoints)
		for _, ep := range n.GetEndpoints() {
			ep, err := netip.ParseAddrPort(ep)
			require.NoError(t, err)
			addr := ep.Addr().Unmap()
			require.False(t, addr.IsUnspecified() || addr.IsMulticast() || ep.Port() == 0, "%s", ep)
		}
		again, err := checkSelf(n, k.node())
		require.NoError(t, err)
		require.True(t, protobuf.Equal(n, again))
	})
}

// FuzzGrant: no bytes but those that were sealed are a grant, and even with a right
// signature the form is checked.
func FuzzGrant(f *testing.F) {
	key, now := [32]byte{1}, time.Unix(1_800_000_000, 0)
	g := grant{client: proto.NodeKey{1}, agent: proto.NodeKey{2}, user: "u", principal: "ada", workspace: "w", issued: now, expires: now.Add(proto.GrantLife)}
	good := g.seal(key)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(g.seal([32]byte{2}))
	f.Add(good[:81])
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := openGrant(key, b, now); err == nil {
			require.Equal(t, good, b)
			require.Equal(t, g, got)
		}
		signed := append(append([]byte{}, b...), grantMAC(key, b)...)
		if got, err := openGrant(key, signed, time.Unix(0, 0)); err == nil {
			require.Equal(t, signed, got.seal(key), "one grant, one form")
		}
	})
}
