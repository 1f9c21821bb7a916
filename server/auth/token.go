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

// hashText returns the hex SHA-256 of s.
func hashText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// kindOf tells a token's kind from its form, so that noise costs no database query.
func kindOf(token string) (Kind, bool) {
	kind := KindUser
	rest, ok := strings.CutPrefix(token, userPrefix)
	if !ok {
		kind = KindAgent
		if rest, ok = strings.CutPrefix(token, agentPrefix); !ok {
			return 0, false
		}
	}
	if len(rest) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return 0, false
	}
	_, err := base64.RawURLEncoding.DecodeString(rest)
	return kind, err == nil
}
