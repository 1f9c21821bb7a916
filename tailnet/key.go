package tailnet

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"

	"fairlead.dev/fairlead/tailnet/proto"
)

// privateKeyPrefix marks a private key's text, so that a secret found in the wrong
// place is recognised for what it is.
const privateKeyPrefix = "fairlead-node-private:"

// PrivateKey is a node's secret (X25519, clamped). Whoever has it is the node. It
// prints and logs as a placeholder; only [PrivateKey.MarshalText] shows it.
type PrivateKey [32]byte

// NewPrivateKey returns a fresh random key.
func NewPrivateKey() PrivateKey {
	var k PrivateKey
	_, _ = rand.Read(k[:]) // never fails (crypto/rand)
	k.clamp()
	return k
}

// clamp makes k a valid X25519 scalar (RFC 7748 section 5); WireGuard wants its keys so.
func (k *PrivateKey) clamp() {
	k[0] &= 248
	k[31] = k[31]&127 | 64
}

// IsZero reports whether k is no key.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }

// Public returns the name of the node that has k; the zero key for the zero key.
func (k PrivateKey) Public() proto.NodeKey {
	if k.IsZero() {
		return proto.NodeKey{}
	}
	private, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("tailnet: X25519 refuses 32 bytes: " + err.Error()) // cannot happen: length is fixed
	}
	return proto.NodeKey(private.PublicKey().Bytes())
}

// Seal encrypts msg from k to the X25519 public key to, with NaCl box: the 24 bytes
// of nonce, then the box. Only the holder of to's secret can open it, and opening it
// proves that the sealer had k.
func (k PrivateKey) Seal(to [32]byte, msg []byte) []byte {
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	private := [32]byte(k)
	return box.Seal(nonce[:], msg, &nonce, &to, &private)
}

// MarshalText returns the key as one line of text, the form to keep on disk.
func (k PrivateKey) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return nil, errors.New("marshal private key: the key is zero")
	}
	return []byte(privateKeyPrefix + base64.RawURLEncoding.EncodeToString(k[:])), nil
}

// UnmarshalText is the inverse of [PrivateKey.MarshalText]. Its errors never quote the text.
func (k *PrivateKey) UnmarshalText(text []byte) error {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(string(text)), privateKeyPrefix)
	if !ok {
		return errors.New("parse private key: the prefix is missing")
	}
	b, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return errors.New("parse private key: not base64")
	}
	if len(b) != curve25519.ScalarSize {
		return fmt.Errorf("parse private key: %d bytes, want %d", len(b), curve25519.ScalarSize)
	}
	var parsed PrivateKey
	copy(parsed[:], b)
	if parsed.IsZero() {
		return errors.New("parse private key: the key is zero")
	}
	parsed.clamp()
	*k = parsed
	return nil
}

// Format prints a placeholder for every verb, so that no format string can leak the key.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[private key]")) }

// LogValue logs a placeholder.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue("[private key]") }
