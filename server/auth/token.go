package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// Prefixes of tokens: they tell a leaked token's kind to people and scanners.
const (
	userPrefix  = "fl_u_"
	agentPrefix = "fl_a_"
	relayPrefix = "fl_r_"
)

// tokenBytes is the randomness of a token.
const tokenBytes = 32

// newToken returns a new token with that prefix: 256 random bits in base64url. Since
// nobody can guess them, a plain SHA-256 is enough to store it.
func newToken(prefix string) string {
	var b [tokenBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on supported systems
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// NewAgentToken returns a new token for a workspace's agent, and its hash to store.
func NewAgentToken() (token, hash string) {
	token = newToken(agentPrefix)
	return token, hashText(token)
}

// NewRelayToken returns a new token for a relay, and its hash to store.
func NewRelayToken() (token, hash string) {
	token = newToken(relayPrefix)
	return token, hashText(token)
}

// hashText returns the hex SHA-256 of s.
func hashText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// KindOf tells a token's kind from its form alone, so that noise costs no database query.
func KindOf(token string) (Kind, bool) {
	for kind, prefix := range map[Kind]string{KindUser: userPrefix, KindAgent: agentPrefix, KindRelay: relayPrefix} {
		rest, ok := strings.CutPrefix(token, prefix)
		if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
			continue
		}
		_, err := base64.RawURLEncoding.DecodeString(rest)
		return kind, err == nil
	}
	return 0, false
}
