package tailnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/wgengine"

	"fairlead.dev/fairlead/tailnet/proto"
)

// maxRegion is the highest region id: the engine keeps it in a port number.
const maxRegion = 1<<16 - 1

// errPeerRemoved is what open flows of a removed peer give.
var errPeerRemoved = errors.New("the peer was removed")

// enginePeer is an installed peer.
type enginePeer struct {
	key   proto.NodeKey
	node  *tailcfg.Node
	route netip.Prefix
}

// peerTable is what the packet engine looks peers up in, from any of its goroutines
// and for every packet. It is the only list of peers: a peer that is not here does
// not exist for WireGuard.
type peerTable struct {
	mu     sync.RWMutex // guards byKey, byAddr, lastID
	byKey  map[proto.NodeKey]*enginePeer
	byAddr map[netip.Addr]*enginePeer
	lastID tailcfg.NodeID
}

func newPeerTable() *peerTable {
	return &peerTable{byKey: make(map[proto.NodeKey]*enginePeer), byAddr: make(map[netip.Addr]*enginePeer)}
}

// prepare makes the engine's form of a peer. An installed peer keeps its id.
func (t *peerTable) prepare(n *proto.Node) (*enginePeer, error) {
	nodeKey, err := proto.ParseNodeKey(n.GetKey())
	if err != nil {
		return nil, err
	}
	disco := n.GetDiscoKey()
	if len(disco) != 32 || [32]byte(disco) == ([32]byte{}) {
		return nil, errors.New("the disco key is not valid")
	}
	home := n.GetHomeRelay()
	if home < 0 || home > maxRegion {
		return nil, fmt.Errorf("home relay %d is not valid", home)
	}
	addr := nodeKey.Address()
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	id := t.idFor(nodeKey)
	return &enginePeer{key: nodeKey, route: prefix, node: &tailcfg.Node{
		ID:         id,
		StableID:   tailcfg.StableNodeID("n" + strconv.FormatInt(int64(id), 10)),
		Name:       nodeKey.Short() + ".", // without Name and Hostinfo a ping panics
		Hostinfo:   (&tailcfg.Hostinfo{}).View(),
		Key:        enginePublic(nodeKey),
		DiscoKey:   engineDisco([32]byte(disco)),
		Addresses:  []netip.Prefix{prefix},
		AllowedIPs: []netip.Prefix{prefix},
		HomeDERP:   int(home),
		Endpoints:  parseEndpoints(n.GetEndpoints()),
		Cap:        tailcfg.CurrentCapabilityVersion,
	}}, nil
}

// parseEndpoints keeps what is an address: one bad entry must not cost the others.
func parseEndpoints(texts []string) []netip.AddrPort {
	var eps []netip.AddrPort
	for _, text := range texts {
		ep, err := netip.ParseAddrPort(text)
		addr := ep.Addr().Unmap()
		if err != nil || ep.Port() == 0 || addr.IsUnspecified() || addr.IsMulticast() || proto.Prefix.Contains(addr) {
			continue
		}
		if eps = append(eps, netip.AddrPortFrom(addr, ep.Port())); len(eps) == proto.MaxEndpoints {
			break
		}
	}
	return eps
}

func (t *peerTable) idFor(k proto.NodeKey) tailcfg.NodeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.byKey[k]; p != nil {
		return p.node.ID
	}
	t.lastID++
	return t.lastID
}

func (t *peerTable) put(p *enginePeer) (old *enginePeer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old = t.byKey[p.key]
	t.byKey[p.key] = p
	t.byAddr[p.route.Addr()] = p
	return old
}

func (t *peerTable) remove(k proto.NodeKey) *enginePeer {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.byKey[k]
	if p != nil {
		delete(t.byKey, k)
		delete(t.byAddr, p.route.Addr())
	}
	return p
}

func (t *peerTable) get(k proto.NodeKey) *enginePeer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byKey[k]
}

func (t *peerTable) at(addr netip.Addr) *enginePeer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byAddr[addr]
}

func (t *peerTable) keys() []proto.NodeKey {
	t.mu.RLock()
	defer t.mu.RUnlock()
	keys := make([]proto.NodeKey, 0, len(t.byKey))
	for k := range t.byKey {
		keys = append(keys, k)
	}
	return keys
}

// The three look-ups of the engine. They run inside its locks and call nothing of it.

func (t *peerTable) keyForAddr(addr netip.Addr) (key.NodePublic, bool) {
	if p := t.at(addr); p != nil {
		return p.node.Key, true
	}
	return key.NodePublic{}, false
}

func (t *peerTable) allowedIPs(k key.NodePublic) ([]netip.Prefix, bool) {
	if p := t.get(nodeKeyOf(k)); p != nil {
		return p.node.AllowedIPs, true
	}
	return nil, false
}

func (t *peerTable) peerForAddr(addr netip.Addr) (wgengine.PeerForIP, bool) {
	if p := t.at(addr); p != nil {
		return wgengine.PeerForIP{Node: p.node.View(), Route: p.route}, true
	}
	return wgengine.PeerForIP{}, false
}
