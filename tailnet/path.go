package tailnet

import (
	"context"
	"maps"
	"sync"
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

// PathKind says how packets reach a peer.
type PathKind uint8

// Kinds of path.
const (
	// PathNone: no packet has a way, or nothing has been sent for a while.
	PathNone PathKind = iota
	// PathDirect: UDP between the two nodes.
	PathDirect
	// PathRelay: through a relay.
	PathRelay
)

// String returns the kind's word.
func (k PathKind) String() string {
	switch k {
	case PathDirect:
		return "direct"
	case PathRelay:
		return "relay"
	default:
		return "none"
	}
}

// Path is how packets reach a peer at one moment. It is a plain value, safe to compare.
type Path struct {
	Kind PathKind
	// Endpoint is the peer's UDP address (direct only).
	Endpoint string
	// Relay is the code of the peer's home relay (relay only).
	Relay string
}

// PathEvent is a change of the path to one peer.
type PathEvent struct {
	Peer proto.NodeKey
	Old  Path
	New  Path
	// At is when the change was noticed, by this host's clock.
	At time.Time
}

// How often paths are looked at: upstream has no event for a change, and the look is
// cheap. Soon after something happened they change quickly. A look is at all peers, so that
// a node of many looks less often: its cost per second stays the same.
const (
	pathPoll       = 500 * time.Millisecond
	pathPollEager  = 20 * time.Millisecond
	pathPollPeers  = 10 // as many as may be looked at so often
	pathEagerAfter = 2 * time.Second
)

// pathWatcher turns looks at the paths into events. One goroutine of the node runs it.
type pathWatcher struct {
	look func() map[proto.NodeKey]Path // the paths of the installed peers; none: not listed
	wake chan struct{}                 // of size 1: something happened, look eagerly

	mu       sync.Mutex // guards watchers, lastID
	watchers map[uint64]func(PathEvent)
	lastID   uint64
}

func newPathWatcher(look func() map[proto.NodeKey]Path) *pathWatcher {
	return &pathWatcher{look: look, wake: make(chan struct{}, 1), watchers: make(map[uint64]func(PathEvent))}
}

// nudge makes the watcher look at once, and often for a while.
func (w *pathWatcher) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *pathWatcher) watch(f func(PathEvent)) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastID++
	id := w.lastID
	w.watchers[id] = f
	w.nudge()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watchers, id)
	}
}

// run looks until ctx ends. It sleeps without a timer while there is nobody to tell
// or no peer to look at.
func (w *pathWatcher) run(ctx context.Context, peers func() int) {
	known := make(map[proto.NodeKey]Path)
	var eagerUntil time.Time
	for {
		var tick <-chan time.Time
		if w.watched() && (peers() > 0 || len(known) > 0) {
			tick = time.After(pollInterval(time.Until(eagerUntil), max(peers(), len(known))))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			eagerUntil = time.Now().Add(pathEagerAfter)
		case <-tick:
		}
		if w.watched() {
			known = w.compare(known, w.look(), time.Now())
		} else {
			clear(known) // the next watcher begins anew
		}
	}
}

func pollInterval(eager time.Duration, peers int) time.Duration {
	often := time.Duration(max(1, peers/pathPollPeers))
	if eager > 0 {
		return often * pathPollEager
	}
	return often * pathPoll
}

func (w *pathWatcher) watched() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.watchers) > 0
}

// compare tells the watchers every difference, and returns what is known now.
func (w *pathWatcher) compare(old, now map[proto.NodeKey]Path, at time.Time) map[proto.NodeKey]Path {
	for peer, path := range now {
		if path != old[peer] {
			w.tell(PathEvent{Peer: peer, Old: old[peer], New: path, At: at})
		}
	}
	for peer, path := range old {
		if _, ok := now[peer]; !ok {
			w.tell(PathEvent{Peer: peer, Old: path, At: at})
		}
	}
	return now
}

// tell calls the watchers without the lock, so that one may stop itself.
func (w *pathWatcher) tell(e PathEvent) {
	w.mu.Lock()
	watchers := maps.Clone(w.watchers)
	w.mu.Unlock()
	for _, f := range watchers {
		f(e)
	}
}
