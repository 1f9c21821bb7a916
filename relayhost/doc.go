// Package relayhost is a relay as a process of its own. It keeps a control link to the
// server, which puts the relay into the map that nodes get, decides whom each relay
// token lets in, and says when a right is gone. Nodes connect to it as they do to the
// server's own relay.
//
// It holds no key that makes tokens, and cannot read what it passes on. While the server
// is away it lets back in whom it let in before. It is not the relay protocol (that is
// tailnet/relay), and decides nothing about rights.
package relayhost
