package agent

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	pb "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// openSession runs command in an SSH session of a, and returns its output.
func openSession(t *testing.T, a *agent, command string) io.Reader {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	a.routines.Go(func() { _ = a.ssh.Serve(listener) })
	client, err := ssh.Dial("tcp", listener.Addr().String(), &ssh.ClientConfig{
		User: "somebody", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	session, err := client.NewSession()
	require.NoError(t, err)
	out, err := session.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, session.Start(command))
	return out
}

// TestSessionsInheritNoToken: neither the agent's own nor a login that happened to be
// in its environment.
func TestSessionsInheritNoToken(t *testing.T) {
	t.Setenv(EnvToken, "secret-agent")
	t.Setenv("FAIRLEAD_TOKEN", "secret-login")
	s := newTestSite(t)
	a, _ := s.startAgent(t, nil)
	out, err := io.ReadAll(openSession(t, a, "env"))
	require.NoError(t, err)
	require.Contains(t, string(out), "SSH_CONNECTION=")
	require.NotContains(t, string(out), "secret-")
}

// companionStream opens a companion stream to a, and says hello on it.
func companionStream(t *testing.T, a *agent) net.Conn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	a.routines.Go(func() { _ = a.companion.Serve(listener) })
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	hello, err := pb.Marshal(&proto.CompanionFrame{Frame: &proto.CompanionFrame_Hello{
		Hello: &proto.CompanionHello{Protocol: 1, InstanceId: "client-1"},
	}})
	require.NoError(t, err)
	_, err = conn.Write(append(binary.AppendUvarint(nil, uint64(len(hello))), hello...))
	require.NoError(t, err)
	return conn
}

// awaitGoodbye reads frames until the agent's goodbye, and closes conn as a client
// that has heard it does.
func awaitGoodbye(conn net.Conn) (disconnect.Goodbye, error) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		size, err := binary.ReadUvarint(in)
		if err != nil {
			return disconnect.Goodbye{}, err
		}
		buf := make([]byte, size)
		if _, err := io.ReadFull(in, buf); err != nil {
			return disconnect.Goodbye{}, err
		}
		frame := new(proto.CompanionFrame)
		if err := pb.Unmarshal(buf, frame); err != nil {
			return disconnect.Goodbye{}, err
		}
		if g := frame.GetGoodbye(); g != nil {
			return wire.ToGoodbye(g), nil
		}
	}
}

// TestStubbornProcessTakesNobodysGoodbye: a session's process that does not end when
// asked to leaves time for what is still to be said, to clients and to the server.
func TestStubbornProcessTakesNobodysGoodbye(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, func(o *Options) { o.ShutdownTimeout = 3 * time.Second })
	s.awaitCoordinated(t, recorder)
	out := openSession(t, a, "trap '' HUP; echo ready; exec sleep 600")
	_, err := io.ReadFull(out, make([]byte, len("ready\n")))
	require.NoError(t, err)
	conn := companionStream(t, a)
	type heard struct {
		goodbye disconnect.Goodbye
		err     error
	}
	said := make(chan heard, 1)
	go func() {
		g, err := awaitGoodbye(conn)
		said <- heard{g, err}
	}()
	require.NoError(t, a.Close())
	got := <-said
	require.NoError(t, got.err)
	require.Equal(t, disconnect.ServerShutdown, got.goodbye.Reason)
	require.Equal(t, disconnect.Agent, got.goodbye.Initiator)
	expectEnding(t, recorder, "coordination RPC disconnected", disconnect.ServerShutdown, disconnect.Agent)
	for _, r := range recorder.Records() {
		require.NotEqual(t, "connection reports were not delivered before the shutdown", r.Message)
	}
	require.Zero(t, a.reportsPending(), "the session's end was reported")
}

// TestCloseWhileTheServerIsSilent: row S4 also when the coordination gives up waiting
// before the shutdown does; that is no clean disconnect.
func TestCloseWhileTheServerIsSilent(t *testing.T) {
	s := newTestSite(t)
	a, recorder := s.startAgent(t, func(o *Options) { o.ShutdownTimeout = time.Hour })
	s.awaitCoordinated(t, recorder)
	s.proxy.stall()
	require.NoError(t, a.Close())
	for _, e := range recorder.Endings() {
		require.NotEqual(t, "coordination RPC disconnected", e.Message)
	}
	attr := expectEnding(t, recorder, "coordination RPC did not disconnect in order", disconnect.ServerShutdown, disconnect.Agent)
	require.Contains(t, attr.Detail, "did not end the stream")
}
