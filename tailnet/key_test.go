package tailnet

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"
)

func TestPrivateKeyText(t *testing.T) {
	k := NewPrivateKey()
	text, err := k.MarshalText()
	require.NoError(t, err)
	var back PrivateKey
	require.NoError(t, back.UnmarshalText(append(text, '\n')))
	require.Equal(t, [32]byte(k), [32]byte(back))
	require.Equal(t, k.Public(), back.Public())

	_, err = PrivateKey{}.MarshalText()
	require.Error(t, err)
	for _, bad := range []string{"", "x", string(text[1:]), string(text) + "AAAA", privateKeyPrefix + "!", privateKeyPrefix + "AAAA"} {
		err := back.UnmarshalText([]byte(bad))
		require.Error(t, err)
		if len(bad) > 30 {
			require.NotContains(t, err.Error(), bad[25:])
		}
	}
	require.True(t, PrivateKey{}.Public().IsZero())
}

func TestPrivateKeyIsX25519(t *testing.T) {
	k := NewPrivateKey()
	want, err := curve25519.X25519(k[:], curve25519.Basepoint)
	require.NoError(t, err)
	require.Equal(t, want, k.Public().Bytes())
}

func TestPrivateKeyNeverPrints(t *testing.T) {
	k := NewPrivateKey()
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, nil))
	logger.Info("x", slog.Any("key", k), slog.Any("in", Options{PrivateKey: k}))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&out, verb, k)
		fmt.Fprintf(&out, verb, &k)
	}
	text, err := k.MarshalText()
	require.NoError(t, err)
	require.NotContains(t, out.String(), string(text[len(privateKeyPrefix):]))
	require.NotContains(t, out.String(), fmt.Sprintf("%x", k[:]))
	require.NotContains(t, out.String(), fmt.Sprintf("%d", k[:4])[1:])
}

func TestSeal(t *testing.T) {
	k, server := NewPrivateKey(), NewPrivateKey()
	to := [32]byte(server.Public())
	sealed := k.Seal(to, []byte("nonce of the challenge"))
	require.NotEqual(t, sealed, k.Seal(to, []byte("nonce of the challenge")), "a fresh nonce each time")
	var nonce [24]byte
	copy(nonce[:], sealed)
	from, secret := [32]byte(k.Public()), [32]byte(server)
	opened, ok := box.Open(nil, sealed[24:], &nonce, &from, &secret)
	require.True(t, ok)
	require.Equal(t, "nonce of the challenge", string(opened))
	other := [32]byte(NewPrivateKey().Public())
	_, ok = box.Open(nil, sealed[24:], &nonce, &other, &secret)
	require.False(t, ok)
}
