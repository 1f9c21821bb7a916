// Package relay is the server side of relaying: a DERP server behind a WebSocket
// endpoint, who may use it, what it saw of each connection's life, and a STUN
// responder beside it. It relays sealed packets between nodes that cannot reach
// each other directly.
//
// It never is an open relay: every connection needs a token, and proves that it
// holds the node key that the token names. It does not decide who gets a token, does
// not know users, workspaces or which nodes may talk to each other, cannot read the
// packets, and keeps nothing on disk. Meshing several relays is not its business
// either.
package relay
