package companion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

func TestWatchLivesOnHeartbeats(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		elapse(10 * time.Minute)
		requireAlive(t, w)
		_, interrupted := w.Interrupted()
		require.False(t, interrupted)
		_, ended := h.Ending(clientAddr)
		require.False(t, ended)
		n.mu.Lock()
		defer n.mu.Unlock()
		require.Len(t, n.conns, 2, "one stream served all the time")
	})
}

func TestWatchHearsTheAgentsGoodbye(t *testing.T) {
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		h.Close(t.Context(), stopping)
		requireEnded(t, w, disconnect.ServerShutdown, disconnect.Agent, "SIGTERM")
		a, ended := h.Ending(clientAddr)
		require.True(t, ended)
		require.Equal(t, stopping.On(disconnect.AgentToClient), a)
		require.Empty(t, h.goodbyes)
		require.Empty(t, h.silences)
	})
}

func TestSilenceBeyondTheLimitEndsBothSides(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		elapse(time.Second)
		start := time.Now()
		n.hole.Store(true)
		elapse(5 * time.Second)
		since, interrupted := w.Interrupted()
		require.True(t, interrupted)
		require.WithinDuration(t, start, since, 2*time.Second)
		elapse(50 * time.Second)
		requireAlive(t, w)
		requireEnded(t, w, disconnect.NetworkTimeout, disconnect.Network, "1m0s")
		require.InDelta(t, 60, time.Since(start).Seconds(), 3)
		a := <-h.silences
		require.Equal(t, disconnect.NetworkTimeout, a.Reason)
		require.Equal(t, disconnect.Network, a.Initiator)
		require.InDelta(t, 60, time.Since(start).Seconds(), 3)
		require.Empty(t, h.goodbyes)
	})
}

func TestOutageWithinTheLimitIsSurvived(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		for range 3 {
			n.hole.Store(true)
			elapse(50 * time.Second)
			requireAlive(t, w)
			n.hole.Store(false)
			elapse(10 * time.Second)
			_, interrupted := w.Interrupted()
			require.False(t, interrupted)
		}
		requireAlive(t, w)
		require.Empty(t, h.silences)
	})
}

func TestBrokenStreamIsDialledAnew(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		for range 5 {
			n.cut()
			elapse(3 * time.Second)
			_, interrupted := w.Interrupted()
			require.False(t, interrupted)
		}
		requireAlive(t, w)
		require.Empty(t, h.silences)
	})
}

// TestNewAgentInstance kills the agent, starts another one in its place, and lets
// the server say this or that about the old one, before or after.
func TestNewAgentInstance(t *testing.T) {
	tell := func(online, goodbye bool, a disconnect.Attribution) func(*Watch) {
		return func(w *Watch) { w.Presence("agent-1", online, goodbye, a) }
	}
	nothing := func(*Watch) {}
	crashed := tell(false, false, ending(disconnect.NetworkError, disconnect.Network))
	stopped := tell(false, true, ending(disconnect.ServerShutdown, disconnect.Agent))
	for name, test := range map[string]struct {
		before, after func(*Watch)
		want          disconnect.Reason
		who           disconnect.Initiator
		detail        string
	}{
		"crash told before":  {crashed, nothing, disconnect.PeerCrashed, disconnect.Agent, "without a goodbye"},
		"crash told after":   {nothing, crashed, disconnect.PeerCrashed, disconnect.Agent, "new agent process"},
		"stop told before":   {stopped, nothing, disconnect.ServerShutdown, disconnect.Agent, "told"},
		"stop told after":    {nothing, stopped, disconnect.ServerShutdown, disconnect.Agent, "told"},
		"nothing told":       {nothing, nothing, disconnect.NetworkError, disconnect.Network, "has not said"},
		"loss told":          {tell(false, false, ending(disconnect.NetworkTimeout, disconnect.Network)), nothing, disconnect.NetworkTimeout, disconnect.Network, "lost touch"},
		"server restarted":   {tell(false, true, ending(disconnect.ServerShutdown, disconnect.Server)), nothing, disconnect.NetworkError, disconnect.Network, "has not said"},
		"nonsense of others": {func(w *Watch) { w.Presence("x", false, false, ending(disconnect.NetworkError, disconnect.Network)) }, nothing, disconnect.NetworkError, disconnect.Network, "has not said"},
	} {
		t.Run(name, func(t *testing.T) {
			session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
				h.kill(t, n)
				test.before(w)
				elapse(2 * time.Second)
				requireAlive(t, w)
				next := startHost(n, "agent-2")
				defer next.stop(t)
				for met := false; !met; {
					elapse(100 * time.Millisecond)
					w.mu.Lock()
					met = !w.replaced.IsZero() || w.ended
					w.mu.Unlock()
				}
				test.after(w)
				requireEnded(t, w, test.want, test.who, test.detail)
				require.Equal(t, "agent-1", w.AgentInstance())
				elapse(2 * testLimit)
				require.Empty(t, next.goodbyes, "the new agent never met this client")
				require.Empty(t, next.silences)
			})
		})
	}
}

// TestServerNamesASuccessor: the server's word of a new instance makes the watch
// ask at once instead of waiting for its next attempt.
func TestServerNamesASuccessor(t *testing.T) {
	session(t, func(t *testing.T, n *network, _ *testHost, w *Watch) {
		elapse(time.Second)
		n.hole.Store(true) // the old stream stays open and silent
		defer n.hole.Store(false)
		next := startHost(n, "agent-2")
		defer next.stop(t)
		n.hole.Store(false)
		w.Presence("agent-1", false, false, ending(disconnect.NetworkError, disconnect.Network))
		elapse(0)
		requireAlive(t, w)
		start := time.Now()
		w.Presence("agent-2", true, false, disconnect.Attribution{})
		requireEnded(t, w, disconnect.PeerCrashed, disconnect.Agent, "new agent process")
		require.Less(t, time.Since(start), time.Second)
	})
}

func TestServerNamesASuccessorThatCannotBeReached(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		h.kill(t, n)
		start := time.Now()
		w.Presence("agent-1", false, false, ending(disconnect.NetworkError, disconnect.Network))
		w.Presence("agent-2", true, false, disconnect.Attribution{})
		requireEnded(t, w, disconnect.PeerCrashed, disconnect.Agent, "new agent process")
		require.LessOrEqual(t, time.Since(start), staleBeats*DefaultHeartbeat)
	})
}

func TestCrashWithoutSuccessorTakesTheLimit(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		start := time.Now()
		h.kill(t, n)
		w.Presence("agent-1", false, false, ending(disconnect.ConnectionReset, disconnect.Network))
		requireEnded(t, w, disconnect.PeerCrashed, disconnect.Agent, "silent for 1m0s")
		require.InDelta(t, 60, time.Since(start).Seconds(), 3)
	})
}

func TestAgentThatComesBackOnlineWasNoCrash(t *testing.T) {
	session(t, func(t *testing.T, n *network, _ *testHost, w *Watch) {
		n.hole.Store(true)
		w.Presence("agent-1", false, false, ending(disconnect.NetworkError, disconnect.Network))
		elapse(10 * time.Second)
		w.Presence("agent-1", true, false, disconnect.Attribution{})
		requireEnded(t, w, disconnect.NetworkTimeout, disconnect.Network, "nothing heard")
	})
}

func TestAgentThatAnswersIsAliveWhateverTheServerSays(t *testing.T) {
	session(t, func(t *testing.T, _ *network, _ *testHost, w *Watch) {
		for _, a := range []disconnect.Attribution{
			ending(disconnect.ServerShutdown, disconnect.Agent), ending(disconnect.NetworkError, disconnect.Network),
		} {
			w.Presence("agent-1", false, a.Reason == disconnect.ServerShutdown, a)
			elapse(5 * time.Minute)
			requireAlive(t, w)
		}
		w.Presence("agent-2", true, false, disconnect.Attribution{})
		elapse(5 * time.Minute)
		requireAlive(t, w)
	})
}

func TestDeclaredStopAndSilenceNeedNotWaitForTheLimit(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		h.kill(t, n)
		w.Presence("agent-1", false, true, ending(disconnect.ServerShutdown, disconnect.Agent))
		start := time.Now()
		requireEnded(t, w, disconnect.ServerShutdown, disconnect.Agent, "told")
		require.LessOrEqual(t, time.Since(start), staleBeats*DefaultHeartbeat)
	})
}

func TestManyPresencesKeepOurOwn(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		w.Presence("agent-1", false, false, ending(disconnect.NetworkError, disconnect.Network))
		for i := range 100 {
			w.Presence("other-"+string(rune('a'+i%26))+strings.Repeat("x", i), false, false, disconnect.Attribution{})
		}
		w.mu.Lock()
		require.Less(t, len(w.presences), 20)
		require.Contains(t, w.presences, "agent-1")
		w.mu.Unlock()
		w.Presence("bad\x1b", true, false, disconnect.Attribution{})
		w.mu.Lock()
		require.Empty(t, w.successor)
		w.mu.Unlock()
	})
}

func TestClientGoodbyeComesFirst(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		start := time.Now()
		w.Goodbye(t.Context(), leaving)
		require.Zero(t, time.Since(start), "the agent closes as soon as it has read the goodbye")
		require.Equal(t, leaving, <-h.goodbyes)
		a, ended := h.Ending(clientAddr)
		require.True(t, ended)
		require.Equal(t, leaving.On(disconnect.AgentToClient), a)
		// Nothing that follows replaces it, on either side.
		w.Presence("agent-1", false, true, ending(disconnect.ServerShutdown, disconnect.Agent))
		h.Close(t.Context(), stopping)
		elapse(2 * time.Minute)
		requireEnded(t, w, disconnect.ClientClosed, disconnect.Client, "~.")
		a, _ = h.Ending(clientAddr)
		require.Equal(t, disconnect.ClientClosed, a.Reason)
		require.Empty(t, h.goodbyes)
		require.Empty(t, h.silences)
		w.Goodbye(t.Context(), disconnect.Goodbye{Reason: disconnect.Graceful})
		requireEnded(t, w, disconnect.ClientClosed, disconnect.Client, "~.")
	})
}

func TestClientGoodbyeIntoAHoleIsBounded(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		n.hole.Store(true)
		start := time.Now()
		w.Goodbye(t.Context(), leaving)
		require.Equal(t, goodbyeTimeout, time.Since(start))
		requireEnded(t, w, disconnect.ClientClosed, disconnect.Client, "~.")
		<-h.silences
	})
}

func TestGoodbyesThatCross(t *testing.T) {
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		closed := make(chan struct{})
		go func() { defer close(closed); h.Close(t.Context(), stopping) }()
		w.Goodbye(t.Context(), leaving)
		<-closed
		a, b := w.Ending().Reason, disconnect.Unknown
		if e, ok := h.Ending(clientAddr); ok {
			b = e.Reason
		}
		require.Contains(t, []disconnect.Reason{disconnect.ClientClosed, disconnect.ServerShutdown}, a)
		require.Contains(t, []disconnect.Reason{disconnect.ClientClosed, disconnect.ServerShutdown}, b)
	})
}

func TestGoodbyeNamesWhoSaysIt(t *testing.T) {
	accusing := func(i disconnect.Initiator) disconnect.Goodbye {
		return disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: i, Detail: "it was you"}
	}
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		w.Goodbye(t.Context(), accusing(disconnect.Agent))
		require.Equal(t, disconnect.Client, (<-h.goodbyes).Initiator)
		a, _ := h.Ending(clientAddr)
		require.Equal(t, disconnect.Client, a.Initiator)
	})
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		h.Close(t.Context(), accusing(disconnect.Client))
		requireEnded(t, w, disconnect.ServerShutdown, disconnect.Agent, "it was you")
	})
}

func TestCloseAloneIsOurs(t *testing.T) {
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		w.Close()
		requireEnded(t, w, disconnect.ClientClosed, disconnect.Client, "without a goodbye")
		_, ended := h.Ending(clientAddr)
		require.False(t, ended, "nobody told the agent")
		a := <-h.silences
		require.Equal(t, disconnect.NetworkTimeout, a.Reason)
	})
}

func TestWatchKnowsItsConnections(t *testing.T) {
	session(t, func(t *testing.T, n *network, h *testHost, w *Watch) {
		_, ok := w.Connection(50001)
		require.False(t, ok)
		h.Flow(flowAddr(50001), "conn-1")
		h.Flow(flowAddr(50002), "conn-2")
		elapse(0)
		id, ok := w.Connection(50001)
		require.True(t, ok)
		require.Equal(t, "conn-1", id)
		time.AfterFunc(time.Second, func() { h.Flow(flowAddr(50009), "conn-9") })
		id, ok = w.WaitConnection(t.Context(), 50009)
		require.True(t, ok)
		require.Equal(t, "conn-9", id)
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, ok = w.WaitConnection(short, 50010)
		require.False(t, ok)
		_, code, ok := w.Ended(50001)
		require.False(t, ok)
		require.Equal(t, -1, code)

		exited := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ProcessExited, Initiator: disconnect.Agent, Detail: "process exited with error status: 3"}
		time.AfterFunc(time.Second, func() { h.Ended(flowAddr(50001), "conn-1", exited, 3) })
		a, code, ok := w.WaitEnded(t.Context(), 50001)
		require.True(t, ok)
		require.Equal(t, 3, code)
		require.Equal(t, exited, a)

		// A second account does not replace the first.
		h.Ended(flowAddr(50001), "conn-1", exited, 9)
		elapse(0)
		_, code, _ = w.Ended(50001)
		require.Equal(t, 3, code)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, ok = w.WaitEnded(ctx, 50002)
		require.False(t, ok)

		// What happens while the stream is down is told when it is back.
		n.hole.Store(true)
		elapse(10 * time.Second)
		h.Ended(flowAddr(50002), "conn-2", exited, -1)
		h.Flow(flowAddr(50003), "conn-3")
		elapse(time.Second)
		n.hole.Store(false)
		a, code, ok = w.WaitEnded(t.Context(), 50002)
		require.True(t, ok)
		require.Equal(t, -1, code)
		require.Equal(t, exited, a)
		elapse(0)
		_, ok = w.Connection(50003)
		require.True(t, ok)
	})
}

func TestWaitEndedStopsWithTheWatch(t *testing.T) {
	session(t, func(t *testing.T, _ *network, h *testHost, w *Watch) {
		h.Flow(flowAddr(50001), "conn-1")
		time.AfterFunc(time.Second, func() { w.Goodbye(context.Background(), leaving) })
		_, _, ok := w.WaitEnded(t.Context(), 50001)
		require.False(t, ok)
		w.Goodbye(t.Context(), leaving) // waits for the other
	})
}

func TestHeard(t *testing.T) {
	session(t, func(t *testing.T, n *network, _ *testHost, w *Watch) {
		require.True(t, w.Heard(t.Context(), time.Now().Add(-3*time.Second)))
		now := time.Now()
		require.True(t, w.Heard(t.Context(), now))
		require.InDelta(t, 2, time.Since(now).Seconds(), 2)
		n.hole.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.False(t, w.Heard(ctx, time.Now()))
		require.False(t, w.Heard(t.Context(), time.Now()), "the watch ended")
	})
}

func TestWaitHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(network)
		w := startWatch(n)
		defer w.Close()
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		require.ErrorIs(t, w.WaitHello(ctx), cause)
		a, ok := disconnect.FromError(w.WaitHello(t.Context()))
		require.True(t, ok)
		require.Equal(t, disconnect.NetworkTimeout, a.Reason)
		require.Contains(t, a.Detail, "did not answer")
	})
}

// TestInvalidBytesFromTheAgent: what answers on the companion port is something
// else, or says something invalid later.
func TestInvalidBytesFromTheAgent(t *testing.T) {
	hello, err := appendFrame(nil, helloFrame("agent-1", "v1", 0))
	require.NoError(t, err)
	for name, bytes := range map[string]string{
		"before the hello": "SSH-2.0-OpenSSH_9.2\r\n" + strings.Repeat("\xff", 100),
		"after the hello":  string(hello) + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := NewWatch(WatchConfig{Instance: "client-1", OutageLimit: testLimit, Dial: func(context.Context) (net.Conn, error) {
					a, b := net.Pipe()
					go func() {
						_, _ = b.Write([]byte(bytes))
						<-t.Context().Done()
						_ = b.Close()
					}()
					return a, nil
				}})
				defer w.Close()
				requireEnded(t, w, disconnect.ProtocolError, disconnect.Agent, "invalid companion frame")
			})
		})
	}
}

func TestAgentCannotFillTheClient(t *testing.T) {
	session(t, func(t *testing.T, _ *network, _ *testHost, w *Watch) {
		for i := range 2 * maxConnections {
			w.heard(flowFrame(uint16(i), "id"))
			w.heard(endedFrame("id"+strings.Repeat("x", i%120)+string(rune('a'+i/120)), disconnect.Attribution{}, 0))
		}
		w.heard(flowFrame(1, "bad\n"))
		w.heard(&proto.CompanionFrame{Frame: &proto.CompanionFrame_Flow{Flow: &proto.CompanionFlow{ClientPort: 70000, ConnectionId: "x"}}})
		w.mu.Lock()
		defer w.mu.Unlock()
		require.LessOrEqual(t, len(w.connections), maxConnections)
		require.LessOrEqual(t, len(w.endings), maxConnections)
		require.Equal(t, "id", w.connections[1])
	})
}

// TestManyConnectionsOneAfterTheOther: a client that lives long still hears of its
// newest connections, and of the one that it has had all the time.
func TestManyConnectionsOneAfterTheOther(t *testing.T) {
	session(t, func(t *testing.T, _ *network, _ *testHost, w *Watch) {
		w.heard(flowFrame(1, "first"))
		for i := range 3 * maxConnections {
			port, id := uint16(2+i), fmt.Sprintf("conn-%d", i)
			w.heard(flowFrame(port, id))
			w.heard(endedFrame(id, disconnect.Attribution{Reason: disconnect.Graceful, Initiator: disconnect.Agent}, 0))
			a, code, ok := w.Ended(port)
			require.True(t, ok, id)
			require.Zero(t, code)
			require.Equal(t, disconnect.Graceful, a.Reason)
		}
		w.heard(endedFrame("first", disconnect.Attribution{Reason: disconnect.Graceful, Initiator: disconnect.Agent}, 7))
		_, code, ok := w.Ended(1)
		require.True(t, ok)
		require.Equal(t, 7, code)
	})
}
