package tailnet

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"tailscale.com/net/netmon"

	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
)

// selfState is what peers must know of this node, and who is told of its changes.
type selfState struct {
	key     tailnetproto.NodeKey
	hideUDP bool // publish no endpoints

	changed chan struct{} // of size 1: look whether there is something to tell

	mu        sync.Mutex // guards disco, endpoints, home, callback, told
	disco     [32]byte
	endpoints []string
	home      int32
	callback  func(*tailnetproto.Node)
	told      *tailnetproto.Node // what callback got last; nil: nothing yet
}

func newSelfState(key tailnetproto.NodeKey, hideUDP bool) *selfState {
	return &selfState{key: key, hideUDP: hideUDP, changed: make(chan struct{}, 1)}
}

// start fills in what the running engine knows. Until its first check of the network
// is over (up to 3 s where UDP is blocked) the host's own addresses have to do.
func (s *selfState) start(disco [32]byte, port uint16) {
	regular, loopback, err := netmon.LocalAddresses()
	if err != nil {
		regular = nil // the engine will find out
	} else if len(regular) == 0 {
		regular = loopback
	}
	s.mu.Lock()
	s.disco = disco
	early := s.endpoints == nil
	s.mu.Unlock()
	if early {
		eps := make([]netip.AddrPort, len(regular))
		for i, addr := range regular {
			eps[i] = netip.AddrPortFrom(addr, port)
		}
		s.setEndpoints(eps)
	}
}

// setEndpoints takes the UDP addresses on which the node may be reached.
func (s *selfState) setEndpoints(eps []netip.AddrPort) {
	if s.hideUDP {
		return
	}
	texts := make([]string, 0, len(eps))
	for _, ep := range eps {
		if len(texts) < tailnetproto.MaxEndpoints {
			texts = append(texts, ep.String())
		}
	}
	s.mu.Lock()
	s.endpoints = texts
	s.mu.Unlock()
	s.notify()
}

func (s *selfState) setHome(region int) {
	s.mu.Lock()
	s.home = int32(region)
	s.mu.Unlock()
	s.notify()
}

func (s *selfState) homeRegion() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.home)
}

func (s *selfState) setCallback(f func(*tailnetproto.Node)) {
	s.mu.Lock()
	s.callback, s.told = f, nil
	s.mu.Unlock()
	s.notify()
}

func (s *selfState) node() *tailnetproto.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeLocked()
}

func (s *selfState) nodeLocked() *tailnetproto.Node {
	return &tailnetproto.Node{
		Key:       slices.Clone(s.key.Bytes()),
		DiscoKey:  slices.Clone(s.disco[:]),
		Endpoints: slices.Clone(s.endpoints),
		HomeRelay: s.home,
	}
}

func (s *selfState) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// run tells the callback of every change until ctx ends.
func (s *selfState) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		if f, node := s.untold(); f != nil {
			f(node)
		}
	}
}

// untold returns the callback and what it does not know yet, or nil.
func (s *selfState) untold() (func(*tailnetproto.Node), *tailnetproto.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := s.nodeLocked()
	if s.callback == nil || proto.Equal(node, s.told) {
		return nil, nil
	}
	s.told = node
	return s.callback, proto.CloneOf(node)
}
