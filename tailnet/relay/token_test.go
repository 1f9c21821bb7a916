package relay

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tailnet/proto"
)

func newSigner() *TokenSigner {
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	return NewTokenSigner(secret)
}

func randomKey() (k proto.NodeKey) {
	_, _ = rand.Read(k[:])
	return k
}

func TestTokenAdmitsItsKeyUntilItExpires(t *testing.T) {
	s, key := newSigner(), randomKey()
	expiry := time.Unix(1_800_000_000, 0)
	token := s.Sign(Claims{Node: key, Expires: expiry, Subject: "whoever it is"})
	require.LessOrEqual(t, len(token), maxToken)

	got, err := s.Verify(token, expiry.Add(-time.Nanosecond))
	require.NoError(t, err)
	require.Equal(t, Claims{Node: key, Expires: expiry, Subject: "whoever it is"}, got)

	_, err = s.Verify(token, expiry)
	require.ErrorIs(t, err, ErrTokenExpired)
	_, err = s.Verify(token, expiry.Add(100*365*24*time.Hour))
	require.ErrorIs(t, err, ErrTokenExpired)
}

func TestTokenOfAnotherSignerIsInvalid(t *testing.T) {
	now := time.Now()
	token := newSigner().Sign(Claims{Node: randomKey(), Expires: now.Add(time.Hour)})
	_, err := newSigner().Verify(token, now)
	require.ErrorIs(t, err, ErrTokenInvalid)
}

func TestTokenForNoKeyIsInvalid(t *testing.T) {
	s, now := newSigner(), time.Now()
	_, err := s.Verify(s.Sign(Claims{Node: proto.NodeKey{}, Expires: now.Add(time.Hour)}), now)
	require.ErrorIs(t, err, ErrTokenInvalid)
}

func TestEveryDamagedTokenIsInvalid(t *testing.T) {
	s, now := newSigner(), time.Now()
	token := s.Sign(Claims{Node: randomKey(), Expires: now.Add(time.Hour)})
	for i := range token {
		for bit := range 8 {
			b := []byte(token)
			b[i] ^= 1 << bit
			_, err := s.Verify(string(b), now)
			require.ErrorIs(t, err, ErrTokenInvalid, "byte %d bit %d", i, bit)
		}
	}
	for _, bad := range []string{
		"", tokenPrefix, token[:len(token)-1], token + "A", token + "AAAA", token + "\n", token + "=",
		strings.TrimPrefix(token, tokenPrefix), "flr1_" + strings.TrimPrefix(token, tokenPrefix),
		token[:40] + "\n" + token[40:], token[:40] + "\r\n" + token[42:],
	} {
		_, err := s.Verify(bad, now)
		require.ErrorIs(t, err, ErrTokenInvalid, "%q", bad)
	}
}

func TestSubjectIsBounded(t *testing.T) {
	s, now := newSigner(), time.Now()
	longest := Claims{Node: randomKey(), Expires: time.Unix(now.Unix()+60, 0), Subject: strings.Repeat("x", maxSubject)}
	token := s.Sign(longest)
	require.LessOrEqual(t, len(token), maxToken)
	got, err := s.Verify(token, now)
	require.NoError(t, err)
	require.Equal(t, longest, got)
	require.NotEqual(t, s.Tag("user a"), s.Tag("user b"))
	require.NotEqual(t, s.Tag("user a"), newSigner().Tag("user a"))
}

func FuzzVerifyTakesOnlyWhatItSigned(f *testing.F) {
	s, key, now := newSigner(), randomKey(), time.Now()
	token := s.Sign(Claims{Node: key, Expires: now.Add(time.Hour)})
	f.Add(token)
	f.Add(tokenPrefix)
	f.Add(newSigner().Sign(Claims{Node: key, Expires: now.Add(time.Hour)}))
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := s.Verify(text, now); err == nil && text != token {
			t.Errorf("took %q", text)
		}
	})
}
