// Package proto holds the messages with which tailnet nodes and the server find
// peers for each other, and the identity of a node: its key, and the address that
// follows from it. It opens no connection and keeps no state.
package proto

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
)

// Prefix is the unique local /48 of every Fairlead tailnet (RFC 4193); its
// 40 bits after fd spell "fairl".
var Prefix = netip.MustParsePrefix("fd66:6169:726c::/48")

// NodeKey is a node's public key (X25519). It names the node.
type NodeKey [32]byte

// ParseNodeKey reads the 32 bytes of a key from the wire.
func ParseNodeKey(b []byte) (NodeKey, error) {
	var k NodeKey
	if len(b) != len(k) {
		return k, fmt.Errorf("parse node key: %d bytes, want %d", len(b), len(k))
	}
	copy(k[:], b)
	if k == (NodeKey{}) {
		return k, fmt.Errorf("parse node key: the key is zero")
	}
	return k, nil
}

// Bytes returns the key as it crosses the wire.
func (k NodeKey) Bytes() []byte { return k[:] }

// IsZero reports whether k is no key.
func (k NodeKey) IsZero() bool { return k == NodeKey{} }

// String returns the key in base64.
func (k NodeKey) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// Short returns the first 8 hex digits, for logs.
func (k NodeKey) Short() string { return hex.EncodeToString(k[:4]) }

// Address returns the node's tailnet address: [Prefix] and the first 80 bits of the
// SHA-256 of the key. Nothing allocates addresses, and nobody can take another's
// without finding a second key with the same hash.
func (k NodeKey) Address() netip.Addr {
	sum := sha256.Sum256(append([]byte("fairlead address v1\x00"), k[:]...))
	addr := Prefix.Addr().As16()
	copy(addr[6:], sum[:10])
	return netip.AddrFrom16(addr)
}
