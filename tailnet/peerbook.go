package tailnet

import (
	"bytes"
	"context"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

// lapseInterval is how often lapsed peers are looked for. Whether a peer has lapsed
// is decided by the wall clock, which goes on while the host sleeps.
const lapseInterval = time.Minute

// PeerBookOptions are the options of [NewPeerBook].
type PeerBookOptions struct {
	// Remove takes a lapsed peer out of the packet engine; required for Run.
	Remove func(proto.NodeKey)
	// OnRemoved hears of every peer that left the book, just before it leaves the
	// packet engine: why is the server's word that what is open with it ends, or that
	// its grant ran out; zero when the peer was given back, or has left or changed. It
	// must not wait for the network, nor call back into the book's coordination. May
	// be nil.
	OnRemoved func(key proto.NodeKey, why disconnect.Goodbye)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// PeerBook holds the peers that a node has installed by the server's word, with the
// user behind each and the grant that permits it. It outlives the connections to the
// server: a peer leaves it only when the server drops it, or when no new grant came
// for 24 hours. Safe for concurrent use.
type PeerBook struct {
	opts PeerBookOptions

	// changing serialises changes, so that the book and the packet engine agree. It is
	// taken before mu and held over calls into the engine.
	changing sync.Mutex

	mu    sync.Mutex // guards peers
	peers map[proto.NodeKey]*bookPeer
}

type bookPeer struct {
	principal string
	grant     []byte
	grantedAt time.Time // when this grant first arrived
}

// NewPeerBook returns an empty book.
func NewPeerBook(opts PeerBookOptions) *PeerBook {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &PeerBook{opts: opts, peers: make(map[proto.NodeKey]*bookPeer)}
}

// Principal returns the user behind a peer, an opaque word. It reports false for a
// node that is no peer, or whose grant has lapsed.
func (b *PeerBook) Principal(key proto.NodeKey) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[key]
	if p == nil || b.lapsedLocked(p) {
		return "", false
	}
	return p.principal, true
}

// Len returns how many peers the book has.
func (b *PeerBook) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.peers)
}

// Announce returns what to tell the server after a reconnect; nil for an empty book.
func (b *PeerBook) Announce() *proto.Announce {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.peers) == 0 {
		return nil
	}
	a := &proto.Announce{Peers: make([]*proto.AnnouncedPeer, 0, len(b.peers))}
	for key, p := range b.peers {
		a.Peers = append(a.Peers, &proto.AnnouncedPeer{NodeKey: key.Bytes(), Grant: p.grant})
	}
	return a
}

// Run removes peers whose grants lapse, until ctx ends.
func (b *PeerBook) Run(ctx context.Context) {
	ticker := time.NewTicker(lapseInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.removeLapsed()
		}
	}
}

func (b *PeerBook) removeLapsed() {
	b.changing.Lock()
	defer b.changing.Unlock()
	var lapsed []proto.NodeKey
	b.mu.Lock()
	for key, p := range b.peers {
		if b.lapsedLocked(p) {
			lapsed = append(lapsed, key)
		}
	}
	b.mu.Unlock()
	for _, key := range lapsed {
		b.dropChanging(key, b.opts.Remove, disconnect.Goodbye{
			Reason: disconnect.AuthExpired, Initiator: disconnect.Server,
			Detail: "the server has not renewed the permission for " + proto.GrantLife.String(),
		})
	}
}

func (b *PeerBook) lapsedLocked(p *bookPeer) bool {
	// Round strips the monotonic clock, which stops while the host sleeps.
	return b.opts.Now().Round(0).Sub(p.grantedAt) >= proto.GrantLife
}

// upsert enters the peer of an update and installs its node, if the update has more
// of it than its key. It reports false, and installs nothing, for an update that has
// only the key of a node that is no peer.
func (b *PeerBook) upsert(key proto.NodeKey, u *proto.PeerUpdate, install func(*proto.Node) error) (bool, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	full := len(u.GetNode().GetDiscoKey()) > 0
	old, existed := b.enter(key, u, full)
	if !full {
		return existed, nil
	}
	if err := install(u.GetNode()); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if existed {
			*b.peers[key] = old
		} else {
			delete(b.peers, key)
		}
		return false, err
	}
	return true, nil
}

// enter writes an update into the book before the engine can deliver the peer's
// first packet, so that its user is known by then.
func (b *PeerBook) enter(key proto.NodeKey, u *proto.PeerUpdate, full bool) (old bookPeer, existed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[key]
	if p == nil {
		if !full {
			return bookPeer{}, false
		}
		p = &bookPeer{}
		b.peers[key] = p
	} else {
		old, existed = *p, true
	}
	p.principal = u.GetPrincipal()
	if !bytes.Equal(p.grant, u.GetGrant()) || p.grantedAt.IsZero() {
		p.grant, p.grantedAt = bytes.Clone(u.GetGrant()), b.opts.Now().Round(0)
	}
	return old, existed
}

// drop takes a peer out of the book and the packet engine.
func (b *PeerBook) drop(key proto.NodeKey, remove func(proto.NodeKey), why disconnect.Goodbye) {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.dropChanging(key, remove, why)
}

// dropChanging needs b.changing held. The user goes first, so that a connection that
// still gets through belongs to nobody.
func (b *PeerBook) dropChanging(key proto.NodeKey, remove func(proto.NodeKey), why disconnect.Goodbye) {
	b.mu.Lock()
	_, existed := b.peers[key]
	delete(b.peers, key)
	b.mu.Unlock()
	if existed && b.opts.OnRemoved != nil {
		b.opts.OnRemoved(key, why) // the cause is recorded before anything breaks
	}
	if remove != nil {
		remove(key)
	}
}
