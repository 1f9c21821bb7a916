// Package auth says who is behind a token and which workspace they may reach. It makes
// tokens and the one-time code for the first user, and stores only their hashes.
//
// It knows nothing of HTTP or RPC: the server hands it the bearer string and asks
// before it acts. It is not the place for proving a node's key (tailnet/coordinator)
// nor for admission to the relay.
package auth
