package companion

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// FuzzFrames reads a stream of another process until it fails: no panic, no frame
// above the bound, and what was read can be written and read again.
func FuzzFrames(f *testing.F) {
	a := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ProcessExited, Initiator: disconnect.Agent}
	for _, frame := range []*proto.CompanionFrame{
		helloFrame("instance", "v1", 0), heartbeatFrame(1<<40, 7, []string{"main"}, beat), goodbyeFrame(a.Goodbye()), flowFrame(65535, "id"), endedFrame("id", a, 0),
	} {
		b, err := appendFrame(nil, frame)
		require.NoError(f, err)
		f.Add(b)
		f.Add(append(b, b...))
	}
	f.Add([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
	f.Add(bytes.Repeat([]byte{0xff}, 11))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bufio.NewReader(bytes.NewReader(stream))
		for {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			if hello, err := checkHello(frame); err == nil {
				require.True(t, validID(hello.GetInstanceId()))
			}
			b, err := appendFrame(nil, frame)
			require.NoError(t, err)
			if len(b) > maxFrame {
				continue // unknown fields may be encoded longer than they came
			}
			again, err := readFrame(bufio.NewReader(bytes.NewReader(b)))
			if len(b) == 1 { // a frame of nothing known: length 0 is no frame
				require.Error(t, err)
				continue
			}
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(frame, again, protocmp.Transform()))
		}
	})
}
