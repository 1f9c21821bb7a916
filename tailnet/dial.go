package tailnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

const (
	// relayWait is how long a dial waits for the first relay map. The first packet to
	// a peer goes nowhere when neither a relay nor a direct path is known.
	relayWait = time.Second
	// firstHandshake is how long the first WireGuard handshake with a peer may take
	// before it is begun anew; each next one may take twice as long. WireGuard itself
	// repeats a lost one after 5 s only (REKEY_TIMEOUT), which a person would notice.
	firstHandshake = 300 * time.Millisecond
	lastHandshake  = 5 * time.Second
)

// errNoHandshake ends an attempt to dial so that a new handshake can begin.
var errNoHandshake = errors.New("no handshake with the peer yet")

// DialTCP connects to a port of an installed peer. It waits until the peer answers or
// ctx ends; the error then is the context's cause. A port that the peer does not
// allow never answers.
func (n *Node) DialTCP(ctx context.Context, peer proto.NodeKey, port uint16) (net.Conn, error) {
	p := n.peers.get(peer)
	switch {
	case n.closed.Load():
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: net.ErrClosed}
	case p == nil:
		return nil, fmt.Errorf("dial: peer %s is not installed", peer.Short())
	}
	n.awaitRelay(ctx)
	n.paths.nudge()
	c, err := n.dialUntilSession(ctx, p, port)
	if err != nil {
		return nil, err // it says "dial" itself
	}
	if n.peers.get(peer) == nil {
		c.abort(errPeerRemoved) // removed meanwhile: cut may have missed it
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: c.RemoteAddr(), Err: errPeerRemoved}
	}
	return c, nil
}

// awaitRelay waits until relays are known, for a node that has any.
func (n *Node) awaitRelay(ctx context.Context) {
	if n.opts.DialRelay == nil {
		return
	}
	late := time.NewTimer(relayWait)
	defer late.Stop()
	select {
	case <-n.haveRelay:
	case <-late.C: // a direct path may do
	case <-ctx.Done():
	}
}

// dialUntilSession dials, and begins the handshake anew while there is no session
// with the peer. Once there is one, only ctx bounds the dial.
func (n *Node) dialUntilSession(ctx context.Context, p *enginePeer, port uint16) (*conn, error) {
	for wait := firstHandshake; ; wait = min(2*wait, lastHandshake) {
		attempt, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(wait, func() {
			if _, ok := n.engine.sessionAge(p); !ok {
				cancel(errNoHandshake)
			}
		})
		c, err := n.stack.dial(attempt, netip.AddrPortFrom(p.route.Addr(), port), p.key)
		retry := err != nil && ctx.Err() == nil && context.Cause(attempt) == errNoHandshake
		timer.Stop()
		cancel(nil)
		if !retry || n.closed.Load() || n.peers.get(p.key) == nil {
			return c, err
		}
		n.renewSession(p, wait)
	}
}

// renewSession begins a new handshake with a peer unless that was done less than half
// of wait ago by another dial: a handshake under way must have its time.
func (n *Node) renewSession(p *enginePeer, wait time.Duration) {
	n.change.Lock()
	defer n.change.Unlock()
	if n.closed.Load() || time.Since(n.renewed[p.key]) < wait/2 {
		return
	}
	n.renewed[p.key] = time.Now()
	n.engine.renewSession(p)
}
