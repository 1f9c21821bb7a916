package coordinator

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"

	"fairlead.dev/fairlead/tailnet/proto"
)

// Bounds on what a node may say of itself and ask for.
const (
	maxEndpointText = 64 // bytes; the longest IPv6 address and port have 47
	maxHomeRelay    = 1<<16 - 1
	maxAnnounced    = 4096 // peers in one announcement
)

// challenge is one stream's question to a node, good for one answer.
type challenge struct {
	private [32]byte
	public  [32]byte
	nonce   [proto.NonceSize]byte
}

func newChallenge() (challenge, error) {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		return challenge{}, fmt.Errorf("make challenge: %w", err)
	}
	ch := challenge{private: *private, public: *public}
	_, _ = rand.Read(ch.nonce[:]) // never fails (crypto/rand)
	return ch, nil
}

// verify returns the node key that the proof shows possession of.
func (ch *challenge) verify(p *proto.Proof) (proto.NodeKey, error) {
	key, err := proto.ParseNodeKey(p.GetNodeKey())
	if err != nil {
		return proto.NodeKey{}, fmt.Errorf("verify proof: %w", err)
	}
	// A key of low order gives everyone the same shared secret: it proves nothing.
	// NaCl does not look; X25519 does.
	if _, err := curve25519.X25519(ch.private[:], key[:]); err != nil {
		return proto.NodeKey{}, fmt.Errorf("verify proof: the node key is weak")
	}
	sealed := p.GetSealed()
	want := proto.ProofMessage(ch.nonce)
	if len(sealed) != 24+box.Overhead+len(want) {
		return proto.NodeKey{}, fmt.Errorf("verify proof: %d bytes, want %d", len(sealed), 24+box.Overhead+len(want))
	}
	nonce, node := [24]byte(sealed), [32]byte(key)
	got, ok := box.Open(nil, sealed[24:], &nonce, &node, &ch.private)
	if !ok || subtle.ConstantTimeCompare(got, want) != 1 {
		return proto.NodeKey{}, fmt.Errorf("verify proof: the node key was not proved")
	}
	return key, nil
}

// checkSelf returns a clean copy of what the node key says of itself.
func checkSelf(n *proto.Node, key proto.NodeKey) (*proto.Node, error) {
	if got, err := proto.ParseNodeKey(n.GetKey()); err != nil || got != key {
		return nil, fmt.Errorf("check node: the key is not the proved one")
	}
	if disco := n.GetDiscoKey(); len(disco) != 32 || [32]byte(disco) == ([32]byte{}) {
		return nil, fmt.Errorf("check node: the disco key is not valid")
	}
	if n.GetHomeRelay() < 0 || n.GetHomeRelay() > maxHomeRelay {
		return nil, fmt.Errorf("check node: home relay %d is out of range", n.GetHomeRelay())
	}
	if len(n.GetEndpoints()) > proto.MaxEndpoints {
		return nil, fmt.Errorf("check node: %d endpoints, at most %d", len(n.GetEndpoints()), proto.MaxEndpoints)
	}
	clean := &proto.Node{Key: key.Bytes(), DiscoKey: n.GetDiscoKey(), HomeRelay: n.GetHomeRelay()}
	for _, text := range n.GetEndpoints() {
		if len(text) > maxEndpointText {
			return nil, fmt.Errorf("check node: an endpoint is too long")
		}
		ep, err := netip.ParseAddrPort(text)
		addr := ep.Addr().Unmap()
		if err != nil || ep.Port() == 0 || addr.IsUnspecified() || addr.IsMulticast() {
			return nil, fmt.Errorf("check node: an endpoint is not an address and port")
		}
		clean.Endpoints = append(clean.Endpoints, ep.String())
	}
	return clean, nil
}
