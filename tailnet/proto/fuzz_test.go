package proto

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseNodeKey(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 32))
	f.Add([]byte("0123456789abcdef0123456789abcdef"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseNodeKey(b)
		if err != nil {
			require.True(t, k.IsZero())
			return
		}
		require.Equal(t, b, k.Bytes())
		require.True(t, Prefix.Contains(k.Address()), "the address follows from the key")
		other := k
		other[31] ^= 1
		require.NotEqual(t, k.Address(), other.Address())
	})
}
