package companion

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFrameRoundTrip(t *testing.T) {
	a := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ProcessExited, Initiator: disconnect.Agent}
	frames := []*proto.CompanionFrame{
		helloFrame("instance", "v1", 0),
		heartbeatFrame(1<<40, 7, []string{"main"}, beat),
		goodbyeFrame(a.Goodbye()),
		flowFrame(65535, "id"),
		endedFrame("id", a, 0),
		endedFrame("id", a, -1),
	}
	var buf []byte
	for _, frame := range frames {
		var err error
		buf, err = appendFrame(buf, frame)
		require.NoError(t, err)
	}
	r := bufio.NewReader(bytes.NewReader(buf))
	for _, want := range frames {
		got, err := readFrame(r)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
	}
	_, err := readFrame(r)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, int32(0), frames[4].GetEnded().GetExitCode())
	require.NotNil(t, frames[4].GetEnded().ExitCode)
	require.Nil(t, frames[5].GetEnded().ExitCode)
}

func TestReadFrameRefusesWhatIsNone(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want error
	}{
		"nothing":         {"", io.EOF},
		"half a length":   {"\x80", io.ErrUnexpectedEOF},
		"no body":         {"\x05", io.ErrUnexpectedEOF},
		"half a body":     {"\x05\x0a\x03", io.ErrUnexpectedEOF},
		"length zero":     {"\x00", errBadFrame},
		"length too big":  {"\x81\x80\x04" + strings.Repeat("x", 100), errBadFrame},
		"length overflow": {strings.Repeat("\xff", 11), errBadFrame},
		"not protobuf":    {"\x04\xff\xff\xff\xff", errBadFrame},
		"another service": {"SSH-2.0-OpenSSH_9.2\r\n" + strings.Repeat("\xff", 100), errBadFrame},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readFrame(bufio.NewReader(strings.NewReader(test.in)))
			require.ErrorIs(t, err, test.want)
			require.Equal(t, test.want == errBadFrame, isBad(err))
		})
	}
}

func isBad(err error) bool { return err != nil && strings.Contains(err.Error(), errBadFrame.Error()) }

func TestCheckHello(t *testing.T) {
	_, err := checkHello(helloFrame("instance", "", 0))
	require.NoError(t, err)
	for name, frame := range map[string]*proto.CompanionFrame{
		"another frame": heartbeatFrame(1, 1, nil, beat),
		"empty":         {},
		"no instance":   helloFrame("", "v1", 0),
		"long instance": helloFrame(strings.Repeat("x", maxID+1), "v1", 0),
		"escape":        helloFrame("a\x1b[31m", "v1", 0),
		"no protocol":   {Frame: &proto.CompanionFrame_Hello{Hello: &proto.CompanionHello{InstanceId: "x"}}},
	} {
		_, err := checkHello(frame)
		require.ErrorIs(t, err, errBadFrame, name)
	}
}
