package tailnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

// Ping asks a peer for a sign of life through the WireGuard session, over the path
// that everything else takes now, and returns the time until the answer and the path
// that the answer found. It waits until ctx ends; the error then is the context's
// cause. What is lost is not sent again.
func (n *Node) Ping(ctx context.Context, peer proto.NodeKey) (time.Duration, Path, error) {
	p := n.peers.get(peer)
	switch {
	case n.closed.Load():
		return 0, Path{}, fmt.Errorf("ping: %w", net.ErrClosed)
	case p == nil:
		return 0, Path{}, fmt.Errorf("ping: peer %s is not installed", peer.Short())
	}
	type answer struct {
		at  time.Time
		err string
	}
	answers := make(chan answer, 1)
	sent := time.Now()
	n.engine.pingSession(p, func(err string) {
		select {
		case answers <- answer{time.Now(), err}:
		default:
		}
	})
	n.paths.nudge()
	select {
	case a := <-answers:
		if a.err != "" {
			return 0, Path{}, errors.New("ping: " + a.err)
		}
		return a.at.Sub(sent), n.Path(peer), nil
	case <-ctx.Done():
		return 0, Path{}, context.Cause(ctx)
	}
}
