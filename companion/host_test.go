package companion

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

func flowAddr(port uint16) netip.AddrPort { return netip.AddrPortFrom(clientAddr, port) }

// script is a client that does as it is told.
type script struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialScript(t *testing.T, n *network) *script {
	t.Helper()
	conn, err := n.dial(t.Context())
	require.NoError(t, err)
	s := &script{t: t, conn: conn, in: bufio.NewReader(conn)}
	require.Equal(t, uint32(protocolVersion), s.next().GetHello().GetProtocol(), "the agent speaks first")
	return s
}

func (s *script) next() *proto.CompanionFrame {
	s.t.Helper()
	for {
		frame, err := readFrame(s.in)
		require.NoError(s.t, err)
		if frame.GetHeartbeat() == nil {
			return frame
		}
	}
}

// say writes while it reads nothing, which a net.Pipe allows: the host reads.
func (s *script) say(frame *proto.CompanionFrame) {
	s.t.Helper()
	buf, err := appendFrame(nil, frame)
	require.NoError(s.t, err)
	_, err = s.conn.Write(buf)
	require.NoError(s.t, err)
}

func (s *script) requireGoodbye(r disconnect.Reason, i disconnect.Initiator) {
	s.t.Helper()
	g := s.next().GetGoodbye()
	require.NotNil(s.t, g)
	require.Equal(s.t, r, wire.ToGoodbye(g).Reason)
	require.Equal(s.t, i, wire.ToGoodbye(g).Initiator)
	_, err := readFrame(s.in)
	require.ErrorIs(s.t, err, io.EOF, "a goodbye is the last frame")
}

func hosted(t *testing.T, f func(t *testing.T, n *network, h *testHost)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		h := startHost(n, "agent-1")
		defer h.stop(t)
		f(t, n, h)
		n.cut()
	})
}

func TestFlowAndEndingBeforeTheHello(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		h.Flow(flowAddr(1), "conn-1")
		h.Flow(flowAddr(2), "conn-2")
		h.Ended(flowAddr(1), "conn-1", disconnect.Attribution{Reason: disconnect.Graceful}, 0)
		h.Ended(flowAddr(9), "conn-9", disconnect.Attribution{Reason: disconnect.Graceful}, 0)
		w := startWatch(n)
		defer w.Close()
		a, code, ok := w.WaitEnded(t.Context(), 1)
		require.True(t, ok)
		require.Zero(t, code)
		require.Equal(t, disconnect.Graceful, a.Reason)
		elapse(0)
		_, ok = w.Connection(2)
		require.True(t, ok)
	})
}

// TestConnectionInUse: of several things that run on one connection of the client, the
// last that is open has its name, and the ending of one is not the connection's.
func TestConnectionInUse(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		w := startWatch(n)
		defer w.Close()
		over := func(id string) {
			h.Ended(flowAddr(1), id, disconnect.Attribution{Reason: disconnect.Graceful, Detail: id}, 0)
		}
		is := func(name string, ended bool) {
			t.Helper()
			elapse(0)
			got, _ := w.Connection(1)
			require.Equal(t, name, got)
			_, _, ok := w.Ended(1)
			require.Equal(t, ended, ok, name)
		}
		h.Hold(flowAddr(1), "forward-1")
		is("forward-1", false)
		h.Flow(flowAddr(1), "session-1")
		is("session-1", false)
		h.Flow(flowAddr(1), "session-2")
		is("session-2", false)
		over("session-2")
		is("session-1", false)
		over("session-1")
		is("forward-1", false)
		h.Hold(flowAddr(1), "forward-2")
		h.Release(flowAddr(1), "forward-1")
		is("forward-2", false)
		h.Release(flowAddr(1), "forward-2")
		is("session-1", true)
		h.Release(flowAddr(1), "forward-2") // nothing
		h.mu.Lock()
		defer h.mu.Unlock()
		require.Empty(t, h.peers[clientAddr].flows)
	})
}

func TestClientWithoutCompanionIsGivenUp(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		start := time.Now()
		h.Flow(flowAddr(1), "conn-1")
		a := <-h.silences
		require.Equal(t, disconnect.NetworkTimeout, a.Reason)
		require.Equal(t, testLimit, time.Since(start))
		got, ok := h.Ending(clientAddr)
		require.True(t, ok)
		require.Equal(t, a, got)
	})
}

func TestClientWithoutCompanionThatLeftIsForgotten(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		h.Flow(flowAddr(1), "conn-1")
		h.Ended(flowAddr(1), "conn-1", disconnect.Attribution{Reason: disconnect.Graceful}, 0)
		elapse(2 * testLimit)
		require.Empty(t, h.silences)
		h.mu.Lock()
		defer h.mu.Unlock()
		require.Empty(t, h.peers)
	})
}

func TestSilenceClockRunsAcrossStreams(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		elapse(time.Second)
		start := time.Now()
		n.cut()
		elapse(40 * time.Second)
		s = dialScript(t, n)
		elapse(5 * time.Second) // a stream without a hello is no sign of life
		require.Empty(t, h.silences)
		_ = s.conn.Close()
		<-h.silences
		require.InDelta(t, 60, time.Since(start).Seconds(), 2)

		// The client learns what was decided when it comes back.
		s = dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		s.requireGoodbye(disconnect.NetworkTimeout, disconnect.Network)
		require.Empty(t, h.silences)
		require.Empty(t, h.goodbyes)
	})
}

func TestSilentButConnectedClientIsTold(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		start := time.Now()
		s.requireGoodbye(disconnect.NetworkTimeout, disconnect.Network)
		require.Equal(t, testLimit+goodbyeTimeout, time.Since(start), "cut although the client does not close")
		require.Len(t, h.silences, 1)
	})
}

func TestNewerStreamReplacesTheOld(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		first := dialScript(t, n)
		first.say(helloFrame("client-1", "", 0))
		second := dialScript(t, n)
		second.say(helloFrame("client-1", "", 0))
		_, err := readFrame(first.in)
		require.Error(t, err)
		h.Flow(flowAddr(7), "conn-7")
		require.Equal(t, "conn-7", second.next().GetFlow().GetConnectionId())
		second.say(goodbyeFrame(leaving))
		require.Equal(t, leaving, <-h.goodbyes)
	})
}

// TestConfessionOverADeadStream: what an end said of its standstill over a stream that was
// dead for the other one, it says again over the next.
func TestConfessionOverADeadStream(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		first := dialScript(t, n)
		first.say(helloFrame("client-1", "", 0))
		h.Flow(flowAddr(7), "conn-7")
		h.clock.freeze()
		elapse(9 * time.Second)
		h.clock.thaw(false)
		first.say(heartbeatFrame(1, 0, nil, DefaultHeartbeat)) // the client's last before it gave the stream up
		require.Equal(t, disconnect.HostPaused, (<-h.interruptions).Attribution.Reason)
		second := dialScript(t, n)
		second.say(helloFrame("client-1", "", 0))
		told := second.next().GetExplanation().GetAttribution()
		require.Equal(t, disconnect.HostPaused, wire.ToAttribution(told).Reason)

		elapse(explainWait) // nobody asks any more
		_ = second.conn.Close()
		third := dialScript(t, n)
		third.say(helloFrame("client-1", "", 0))
		require.NotNil(t, third.next().GetFlow())
	})
}

func TestAnotherProcessTakesTheAddress(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		s.say(goodbyeFrame(leaving))
		<-h.goodbyes
		h.Flow(flowAddr(8), "conn-8")
		s = dialScript(t, n)
		s.say(helloFrame("client-2", "", 0))
		require.Equal(t, "conn-8", s.next().GetFlow().GetConnectionId())
		_, ended := h.Ending(clientAddr)
		require.False(t, ended)
		s.say(goodbyeFrame(leaving))
		require.Equal(t, leaving, <-h.goodbyes)
	})
}

func TestGarbageToTheHost(t *testing.T) {
	for name, first := range map[string]*proto.CompanionFrame{
		"before the hello": heartbeatFrame(1, 1, nil, beat),
		"after the hello":  helloFrame("client-1", "", 0),
	} {
		t.Run(name, func(t *testing.T) {
			hosted(t, func(t *testing.T, n *network, h *testHost) {
				s := dialScript(t, n)
				s.say(first)
				if first.GetHello() != nil {
					_, err := s.conn.Write([]byte("\x00GET / HTTP/1.1\r\n\r\n"))
					require.NoError(t, err)
				}
				s.requireGoodbye(disconnect.ProtocolError, disconnect.Client)
				a, ended := h.Ending(clientAddr)
				require.Equal(t, first.GetHello() != nil, ended)
				if ended {
					require.Equal(t, disconnect.ProtocolError, a.Reason)
					require.Equal(t, a, <-h.silences)
				}
			})
		})
	}
}

func TestStreamWithoutHelloIsClosed(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		start := time.Now()
		for {
			if _, err := readFrame(s.in); err != nil {
				break
			}
		}
		require.Equal(t, helloTimeout, time.Since(start))
		require.Empty(t, h.silences)
	})
}

func TestStreamsOfOneAddressAreBounded(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		for range maxStreams {
			dialScript(t, n)
		}
		conn, err := n.dial(t.Context())
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestClientThatDoesNotReadLosesTheStream(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		elapse(0)
		for i := range 3 * maxQueue {
			h.Flow(flowAddr(uint16(i)), "conn")
		}
		elapse(0)
		h.mu.Lock()
		require.Empty(t, h.streams)
		h.mu.Unlock()
	})
}

func TestCloseSaysGoodbyeLast(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		fresh := dialScript(t, n) // has not said hello
		elapse(0)
		h.Flow(flowAddr(1), "conn-1")
		h.Ended(flowAddr(1), "conn-1", stopping.On(disconnect.AgentToClient), -1)
		closed := make(chan struct{})
		go func() { defer close(closed); h.Close(t.Context(), stopping) }()
		require.NotNil(t, s.next().GetFlow())
		require.Equal(t, "SIGTERM", s.next().GetEnded().GetAttribution().GetDetail())
		require.NotNil(t, s.next().GetGoodbye())
		require.NotNil(t, fresh.next().GetGoodbye())
		_ = s.conn.Close()
		_ = fresh.conn.Close()
		<-closed
		require.Empty(t, h.silences)
		h.Flow(flowAddr(2), "conn-2") // ignored
		h.mu.Lock()
		defer h.mu.Unlock()
		require.Empty(t, h.streams)
	})
}

func TestCloseIsBounded(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		s := dialScript(t, n)
		s.say(helloFrame("client-1", "", 0))
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		h.Close(ctx, stopping)
		require.LessOrEqual(t, time.Since(start), 300*time.Millisecond)
	})
}

func TestServeReportsABrokenListener(t *testing.T) {
	h := NewHost(HostConfig{Instance: "agent-1"})
	broken := errors.New("broken")
	require.ErrorIs(t, h.Serve(brokenListener{broken}), broken)
	h.Close(t.Context(), stopping)
	require.NoError(t, h.Serve(brokenListener{broken}), "a closed host serves nothing")
}

type brokenListener struct{ err error }

func (l brokenListener) Accept() (net.Conn, error) { return nil, l.err }
func (brokenListener) Close() error                { return nil }
func (brokenListener) Addr() net.Addr              { return &net.TCPAddr{} }

func TestEndedPeersAreForgotten(t *testing.T) {
	hosted(t, func(t *testing.T, n *network, h *testHost) {
		h.Flow(flowAddr(1), "conn-1")
		<-h.silences
		elapse(retainEnded + time.Second)
		h.Flow(netip.MustParseAddrPort("[fd66::1]:1"), "conn-2")
		_, ended := h.Ending(clientAddr)
		require.False(t, ended)
	})
}
