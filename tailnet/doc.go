// Package tailnet moves packets between peers: a [Node] is one member of an
// encrypted network, with a WireGuard engine (tailscale's, unforked), a userspace
// TCP stack of its own, the peers that it may talk to, and the paths that reach
// them, relayed or direct. It also holds what keeps a node's peers current: the
// coordination with the server.
//
// It knows nothing of workspaces, SSH or users: a peer's user is an opaque word to
// it. It touches nothing of the host (no TUN device, no routes, no DNS, no root),
// and the host's loopback cannot be reached through it. It decides no access: whose
// peer a node may be is the server's business.
package tailnet
