package relay

import (
	"context"
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
	tokenPrefix = "flr2_"
	tokenDomain = "fairlead relay token v2\x00"

	// tagDomain keeps tags and tokens apart.
	tagDomain = "fairlead relay tag v1\x00"

	headLen    = len(proto.NodeKey{}) + 8
	minToken   = headLen + sha256.Size
	maxSubject = 256
)

// tokenEncoding is strict: each token has exactly one spelling.
var tokenEncoding = base64.RawURLEncoding.Strict()

// Claims is what a token says.
type Claims struct {
	// Node is the node key that the token admits.
	Node proto.NodeKey
	// Expires is when the token's time is over, in whole seconds.
	Expires time.Time
	// Subject says in the issuer's own words by whose right, in at most 256 bytes; it
	// is signed, and not hidden.
	Subject string
}

// TokenSigner makes and checks relay tokens: [Claims] under an HMAC-SHA256. Only the
// issuer of tokens has the key: a relay elsewhere asks it. It is safe for concurrent
// use.
type TokenSigner struct {
	secret [32]byte
}

// NewTokenSigner returns a signer with the given key, which must be secret and random.
func NewTokenSigner(secret [32]byte) *TokenSigner { return &TokenSigner{secret: secret} }

// Sign returns a token that makes the claims c. A subject that is too long is cut.
func (s *TokenSigner) Sign(c Claims) string {
	subject := c.Subject[:min(len(c.Subject), maxSubject)]
	buf := make([]byte, 0, minToken+len(subject))
	buf = append(buf, c.Node[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(c.Expires.Unix()))
	buf = append(buf, subject...)
	buf = append(buf, s.mac(buf)...)
	return tokenPrefix + tokenEncoding.EncodeToString(buf)
}

// Verify returns the claims of token at the time now. The error is [ErrTokenInvalid],
// or [ErrTokenExpired] with the claims.
func (s *TokenSigner) Verify(token string, now time.Time) (Claims, error) {
	buf, ok := decode(token)
	if !ok {
		return Claims{}, ErrTokenInvalid
	}
	payload, mac := buf[:len(buf)-sha256.Size], buf[len(buf)-sha256.Size:]
	if !hmac.Equal(mac, s.mac(payload)) {
		return Claims{}, ErrTokenInvalid
	}
	key, err := proto.ParseNodeKey(payload[:len(proto.NodeKey{})])
	if err != nil {
		return Claims{}, ErrTokenInvalid
	}
	c := Claims{
		Node: key, Subject: string(payload[headLen:]),
		Expires: time.Unix(int64(binary.BigEndian.Uint64(payload[len(key):headLen])), 0),
	}
	if !now.Before(c.Expires) {
		return c, ErrTokenExpired
	}
	return c, nil
}

// Admit is a [Config.Admit] that asks for nothing but a valid token.
func (s *TokenSigner) Admit(_ context.Context, token string) (Admission, error) {
	c, err := s.Verify(token, time.Now())
	return Admission{Node: c.Node, Expires: c.Expires}, err
}

// Tag turns words of the issuer into a tag for [Admission], which gives them away to
// nobody.
func (s *TokenSigner) Tag(words string) string {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write([]byte(tagDomain + words))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

func (s *TokenSigner) mac(payload []byte) []byte {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write([]byte(tokenDomain))
	h.Write(payload)
	return h.Sum(nil)
}

// LooksLikeToken reports whether text has the form of a token, so that a relay need not
// ask about noise.
func LooksLikeToken(text string) bool {
	_, ok := decode(text)
	return ok
}

// decode returns the bytes of a token, in which nothing has been checked.
func decode(token string) ([]byte, bool) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	// The line ends that the decoder skips would give one token several spellings.
	if !ok || strings.ContainsAny(text, "\r\n") || tokenEncoding.DecodedLen(len(text)) > minToken+maxSubject {
		return nil, false
	}
	buf, err := tokenEncoding.DecodeString(text)
	return buf, err == nil && len(buf) >= minToken
}
