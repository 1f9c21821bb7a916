package server

import (
	"context"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

const (
	// relayGrace is how long a relay stays in the map after its link was only lost,
	// which does not prove it dead; and after a start of the server, until it is back.
	relayGrace = 2 * time.Minute
	// relayWatch is how often the server looks whose grace is over.
	relayWatch = 5 * time.Second
	// maxNotices bounds what waits to be told to one relay. One that lags further loses
	// its link, and asks for everything again on the next.
	maxNotices = 4096
)

// relays knows which relays, of those that are processes of their own, belong in the
// map, and tells them what they must know of nodes' rights.
type relays struct {
	store   *store.Store
	logger  *slog.Logger
	now     func() time.Time
	changed func() // the map did; not called with a lock held

	recording sync.Mutex // serializes who comes and goes with its record; taken before mu
	mu        sync.Mutex // guards byID; never held while the database works
	byID      map[string]*relayState
}

// relayState is one relay in the map.
type relayState struct {
	row  store.Relay
	link *control.Link           // nil: away
	last *control.Link           // of one that is away: the one it had
	out  chan *proto.RelayNotice // to that link
	gone time.Time               // when it leaves the map unless it comes back
}

// load takes the relays that the former life of the server had in its map, so that no
// node drops one that it uses.
func (r *relays) load(ctx context.Context) error {
	all, err := r.store.Relays(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range all {
		if row.InMap {
			r.byID[row.ID] = &relayState{row: row, gone: r.now().Add(relayGrace)}
		}
	}
	return nil
}

// regions returns the relays as the map has them, in the order of their numbers.
func (r *relays) regions() []*proto.DERPRegion {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*proto.DERPRegion
	for _, s := range r.byID {
		u, err := url.Parse(s.row.AccessURL)
		if err != nil {
			continue // was checked when it registered
		}
		all = append(all, &proto.DERPRegion{
			Id: s.row.Region, Code: s.row.Code, Name: s.row.Name,
			RelayUrl: u.JoinPath(relay.Path).String(), StunHost: u.Hostname(), StunPort: uint32(s.row.STUNPort),
		})
	}
	slices.SortFunc(all, func(a, b *proto.DERPRegion) int { return int(a.GetId() - b.GetId()) })
	return all
}

// status tells how a relay does, in the words of the API.
func (r *relays) status(row store.Relay) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch s := r.byID[row.ID]; {
	case s != nil && s.link != nil:
		return "online"
	case s != nil:
		return "lost"
	case row.SeenAt.IsZero():
		return "never"
	}
	return "offline"
}

// rival returns the link of another process than link's that counts now for the same
// relay; nil: there is none.
func (r *relays) rival(link *control.Link) *control.Link {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.byID[link.Peer().ID]
	if s == nil || s.link == nil || s.link == link || s.link.PeerInstance() == link.PeerInstance() {
		return nil
	}
	return s.link
}

// registered reports whether link is the one that counts for its relay.
func (r *relays) registered(link *control.Link) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.byID[link.Peer().ID]
	return s != nil && s.link == link
}

// register puts a relay into the map, and returns what is to be told to it over link.
func (r *relays) register(ctx context.Context, link *control.Link, row store.Relay) (<-chan *proto.RelayNotice, error) {
	out, err := r.enter(ctx, link, row)
	if err == nil {
		r.changed()
	}
	return out, err
}

func (r *relays) enter(ctx context.Context, link *control.Link, row store.Relay) (<-chan *proto.RelayNotice, error) {
	r.recording.Lock()
	defer r.recording.Unlock()
	now := r.now()
	if err := r.store.RelayRegistered(ctx, row.ID, row.AccessURL, row.STUNPort, now); err != nil {
		return nil, err
	}
	out := make(chan *proto.RelayNotice, maxNotices)
	row.InMap, row.SeenAt = true, now
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[row.ID] = &relayState{row: row, link: link, out: out}
	return out, nil
}

// ended takes note that a link is no longer its relay's. A relay that said goodbye
// leaves the map at once. One whose link was lost, or which this server leaves, stays.
func (r *relays) ended(link *control.Link, ending control.Ending) {
	left := r.leave(func() []*relayState {
		s := r.byID[link.Peer().ID]
		if s == nil || s.link != link && (s.link != nil || s.last != link) {
			return nil
		}
		s.link, s.last, s.out, s.gone = nil, link, nil, r.now().Add(relayGrace)
		if ending.Goodbye && ending.Initiator == disconnect.Relay {
			return []*relayState{s}
		}
		return nil
	})
	if len(left) > 0 {
		r.changed()
	}
}

// remove takes a relay that was deleted out of the map.
func (r *relays) remove(id string) {
	r.recording.Lock() // one that is just entering is in the map then, and goes
	r.mu.Lock()
	delete(r.byID, id)
	r.mu.Unlock()
	r.recording.Unlock()
	r.changed()
}

// leave takes out of the map what choose returns, which it calls with mu held, and
// records that.
func (r *relays) leave(choose func() []*relayState) (left []*relayState) {
	r.recording.Lock()
	defer r.recording.Unlock()
	r.mu.Lock()
	left = choose()
	for _, s := range left {
		delete(r.byID, s.row.ID)
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout) // perhaps while the server stops
	defer cancel()
	for _, s := range left {
		if err := r.store.RelayLeft(ctx, s.row.ID, r.now()); err != nil {
			r.logger.WarnContext(ctx, "cannot record that a relay left", "relay", s.row.Name, "error", err)
		}
	}
	return left
}

// watch removes relays whose grace is over, until ctx ends.
func (r *relays) watch(ctx context.Context) {
	tick := time.NewTicker(relayWatch)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.expire()
		}
	}
}

func (r *relays) expire() {
	over := r.leave(func() (over []*relayState) {
		for _, s := range r.byID {
			if s.link == nil && !r.now().Before(s.gone) {
				over = append(over, s)
			}
		}
		return over
	})
	for _, s := range over {
		r.logger.Warn("relay out of the map: it did not come back", "relay", s.row.Name, "region", int(s.row.Region))
	}
	if len(over) > 0 {
		r.changed()
	}
}

// tell sends a notice to every relay that is here. It does not block.
func (r *relays) tell(notice *proto.RelayNotice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.byID {
		if s.link == nil {
			continue
		}
		select {
		case s.out <- notice:
		default:
			s.link.Abort(disconnect.Attribution{
				Reason: disconnect.SlowPeer, Initiator: disconnect.Relay, Detail: "too many notices wait to be read",
			})
		}
	}
}

func (r *relays) end(tag string, g disconnect.Goodbye) {
	r.tell(&proto.RelayNotice{Notice: &proto.RelayNotice_End{
		End: &proto.RelayEnd{Tag: tag, Goodbye: wire.FromGoodbye(g)},
	}})
}

func (r *relays) extend(node proto.NodeKey, expires time.Time, tokenHash [32]byte) {
	r.tell(&proto.RelayNotice{Notice: &proto.RelayNotice_Extend{
		Extend: &proto.RelayExtend{NodeKey: node.Bytes(), ExpiresAt: timestamppb.New(expires), TokenHash: tokenHash[:]},
	}})
}
