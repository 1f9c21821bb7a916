package tailnet

import (
	"context"
	"time"
)

// After a change of the host's links every peer is asked for a sign of life, so that a
// path is found before anybody has something to say. The new link may need a moment, and
// so may the server, who tells the peers of it.
const (
	linkKicks     = 8
	linkKickEvery = 500 * time.Millisecond
)

// linkChanged is told of changes by the engine. It does not wait.
func (n *Node) linkChanged() {
	select {
	case n.linkTurn <- struct{}{}:
	default:
	}
}

// Refresh looks for paths anew: at what this host's addresses are from outside, and for a
// while at every peer. It is for who knows that the host slept, stood still or has its
// link back; the node itself sees changes of the links only. It waits for nothing.
func (n *Node) Refresh(why string) {
	n.change.Lock()
	defer n.change.Unlock()
	if n.closed.Load() {
		return
	}
	n.engine.lookAround(why)
	n.linkChanged()
}

// kickPeers kicks every peer.
func (n *Node) kickPeers() {
	for _, peer := range n.peers.keys() {
		n.Kick(peer)
	}
}

// followLinks calls kick for a while after each turn, until ctx ends.
func followLinks(ctx context.Context, turn <-chan struct{}, kick func()) {
	var tick <-chan time.Time
	for left := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-turn:
			left = linkKicks
		case <-tick:
		}
		tick = nil
		if left > 0 {
			kick()
			left--
			tick = time.After(linkKickEvery)
		}
	}
}
