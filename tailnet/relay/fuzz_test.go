package relay

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"tailscale.com/derp"

	"fairlead.dev/fairlead/tailnet/proto"
)

// FuzzFirstFrame: the head of the first frame is client info for exactly the admitted
// key, or nothing of it gets on.
func FuzzFirstFrame(f *testing.F) {
	key := proto.NodeKey(bytes.Repeat([]byte{7}, 32))
	good := append([]byte{byte(derp.FrameClientInfo), 0, 0, 0, 99}, key[:]...)
	f.Add(good)
	f.Add(append([]byte{byte(derp.FrameClientInfo), 0xff, 0xff, 0xff, 0xff}, key[:]...))
	f.Add(append([]byte{byte(derp.FrameSendPacket), 0, 0, 0, 99}, key[:]...))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		head := make([]byte, helloLen)
		copy(head, b)
		got, ok := helloKey(head)
		if !ok {
			require.True(t, got.IsZero())
			return
		}
		require.EqualValues(t, derp.FrameClientInfo, head[0])
		require.Equal(t, head[derp.FrameHeaderLen:], got.Bytes())
	})
}
