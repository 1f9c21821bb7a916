package relay

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

// Errors of [TokenSigner.Verify].
var (
	// ErrTokenInvalid: the token was not made with this key, or is damaged.
	ErrTokenInvalid = errors.New("verify relay token: not a valid token")
	// ErrTokenExpired: the token is genuine, but its time is over.
	ErrTokenExpired = errors.New("verify relay token: expired")
)

const (
	// tokenPrefix names the kind and the version of the token. It is covered by the
	// MAC through tokenDomain, which changes with it.
	tokenPrefix = "flr1_"
	tokenDomain = "fairlead relay token v1\x00"

	payloadLen = len(proto.NodeKey{}) + 8
	tokenLen   = payloadLen + sha256.Size
)

// tokenEncoding is strict: each token has exactly one spelling.
var tokenEncoding = base64.RawURLEncoding.Strict()

// TokenSigner makes and checks relay tokens: a node key and an expiry under an
// HMAC-SHA256. Whoever issues tokens and the relay share the key and nothing else.
// It is safe for concurrent use.
type TokenSigner struct {
	secret [32]byte
}

// NewTokenSigner returns a signer with the given key, which must be secret and random.
func NewTokenSigner(secret [32]byte) *TokenSigner { return &TokenSigner{secret: secret} }

// Sign returns a token that admits the holder of key, and nobody else, until expiry
// (in whole seconds).
func (s *TokenSigner) Sign(key proto.NodeKey, expiry time.Time) string {
	buf := make([]byte, 0, tokenLen)
	buf = append(buf, key[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(expiry.Unix()))
	buf = append(buf, s.mac(buf)...)
	return tokenPrefix + tokenEncoding.EncodeToString(buf)
}

// Verify returns the node key that token admits at the time now. The error is
// [ErrTokenInvalid] or [ErrTokenExpired].
func (s *TokenSigner) Verify(token string, now time.Time) (proto.NodeKey, error) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	// The length comes first: the decoder skips line ends, which would give one
	// token several spellings.
	if !ok || len(text) != tokenEncoding.EncodedLen(tokenLen) {
		return proto.NodeKey{}, ErrTokenInvalid
	}
	buf, err := tokenEncoding.DecodeString(text)
	if err != nil || len(buf) != tokenLen {
		return proto.NodeKey{}, ErrTokenInvalid
	}
	payload, mac := buf[:payloadLen], buf[payloadLen:]
	if !hmac.Equal(mac, s.mac(payload)) {
		return proto.NodeKey{}, ErrTokenInvalid
	}
	key, err := proto.ParseNodeKey(payload[:len(proto.NodeKey{})])
	if err != nil {
		return proto.NodeKey{}, ErrTokenInvalid
	}
	expiry := time.Unix(int64(binary.BigEndian.Uint64(payload[len(key):])), 0)
	if !now.Before(expiry) {
		return proto.NodeKey{}, ErrTokenExpired
	}
	return key, nil
}

func (s *TokenSigner) mac(payload []byte) []byte {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write([]byte(tokenDomain))
	h.Write(payload)
	return h.Sum(nil)
}
