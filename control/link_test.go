package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"fairlead.dev/fairlead/control/proto"
	d "fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

func TestHello(t *testing.T) {
	w := newWorld(t, nil)
	dialled, accepted := w.dial(t, w.options("agent"))
	require.Equal(t, "server-1", dialled.PeerInstance())
	require.Equal(t, "v-server", dialled.PeerVersion())
	require.Equal(t, "agent-1", accepted.PeerInstance())
	receive(t, accepted.greeted.done())
	require.Equal(t, "v-agent", accepted.PeerVersion())
	require.Equal(t, Identity{Kind: AgentPeer, ID: "workspace-1", Principal: "alice", TokenID: "t1", ConnectionID: "c-1"}, accepted.Peer())
	require.Equal(t, "c-1", accepted.ConnectionID())
	require.Equal(t, "c-1", dialled.ConnectionID())
	require.Nil(t, accepted.RPC())
	require.NotEmpty(t, accepted.RemoteAddr())
	require.NoError(t, dialled.Err())
	require.Equal(t, Ending{}, dialled.Ending())
	require.Equal(t, []*Link{accepted}, w.server.Links())
}

// TestNudge: several that nobody took are one, and none is lost after that.
func TestNudge(t *testing.T) {
	w := newWorld(t, nil)
	dialled, accepted := w.dial(t, w.options("agent"))
	for range 2 {
		for range 3 {
			accepted.Nudge()
		}
		accepted.beatAndWait(t)
		receive(t, dialled.Nudged())
		require.Empty(t, dialled.Nudged())
	}
	dialled.Nudge() // either way
	receive(t, accepted.Nudged())
}

// beatAndWait waits until the other end has received everything that was sent.
func (l *Link) beatAndWait(t *testing.T) {
	t.Helper()
	require.True(t, l.Probe(testContext(t)))
}

func TestGoodbye(t *testing.T) {
	for name, tc := range map[string]struct {
		token        string
		serverCloses bool
		said, heard  d.Goodbye
	}{
		"server stops":  {"agent", true, goodbye(d.ServerShutdown, d.Server, "upgrade"), goodbye(d.ServerShutdown, d.Server, "upgrade")},
		"agent stops":   {"agent", false, goodbye(d.ServerShutdown, d.Agent, "SIGTERM"), goodbye(d.ServerShutdown, d.Agent, "SIGTERM")},
		"client leaves": {"client", false, goodbye(d.ClientClosed, d.Client, "window closed"), goodbye(d.ClientClosed, d.Client, "window closed")},
		"no accusation": {"client", false, goodbye(d.ServerShutdown, d.Server, "you did it"), goodbye(d.ServerShutdown, d.Client, "you did it")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			dialled, accepted := w.dial(t, w.options(tc.token))
			stream := hold(t, testContext(t), dialled)
			closer, other := dialled, accepted
			if tc.serverCloses {
				closer, other = accepted, dialled
			}
			start := time.Now()
			require.NoError(t, closer.Close(tc.said))
			took := time.Since(start)
			require.Less(t, took, 5*time.Second)

			require.Equal(t, Ending{tc.said.On(dialled.connectType), true}, ended(t, closer))
			require.Equal(t, Ending{tc.heard.On(dialled.connectType), true}, ended(t, other))
			select {
			case <-closer.acked.done():
			default:
				t.Error("the goodbye was not acknowledged")
			}
			a, ok := d.FromError(receive(t, w.held))
			require.True(t, ok, "the handler's context knows why")
			require.Equal(t, accepted.Ending().Attribution, a)

			a, ok = d.FromError(EndingOf(dialled, stream.RecvMsg(&emptypb.Empty{})))
			require.True(t, ok)
			require.Equal(t, dialled.Ending().Attribution, a)
			require.Equal(t, accepted.Ending(), receive(t, w.ended))

			require.NoError(t, other.Close(goodbye(d.InternalError, d.Server, "too late")))
			require.Equal(t, tc.heard.Reason, other.Ending().Reason)
			require.Empty(t, w.server.Links())
			require.Empty(t, w.ended, "each link ends once")
		})
	}
}

func TestBothSayGoodbye(t *testing.T) {
	for range 20 {
		w := newWorld(t, nil)
		dialled, accepted := w.dial(t, w.options("agent"))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _ = dialled.Close(goodbye(d.ServerShutdown, d.Agent, "")) })
			wg.Go(func() { _ = accepted.Close(goodbye(d.LimitExceeded, d.Server, "")) })
		}
		wg.Wait()
		for _, l := range []*Link{dialled, accepted} {
			e := l.Ending()
			require.True(t, e.Goodbye)
			require.Contains(t, []d.Reason{d.ServerShutdown, d.LimitExceeded}, e.Reason)
		}
	}
}

func TestHandlerMayCloseItsLink(t *testing.T) {
	w := newWorld(t, nil)
	dialled, _ := w.dial(t, w.options("agent"))
	stream := open(t, testContext(t), dialled, "Leave")
	require.NoError(t, stream.CloseSend())
	require.NoError(t, receive(t, w.held))
	require.Equal(t, d.AuthFailed, ended(t, dialled).Reason)
}

// TestFaults breaks a link in all ways that leave no goodbye frame; both ends must
// say what they saw, and none may call it expected.
func TestFaults(t *testing.T) {
	const silence = 400 * time.Millisecond
	network := func(r d.Reason) d.Attribution {
		return d.Attribution{ConnectType: d.ServerToAgent, Reason: r, Initiator: d.Network}
	}
	for name, tc := range map[string]struct {
		fault     func(w *world, dialled, accepted *Link)
		dialled   d.Attribution
		accepted  d.Attribution
		byGoodbye bool
	}{
		"cut":   {func(w *world, _, _ *Link) { w.proxy.cut() }, network(d.NetworkError), network(d.NetworkError), false},
		"reset": {func(w *world, _, _ *Link) { w.proxy.reset() }, network(d.ConnectionReset), network(d.ConnectionReset), false},
		"silence": {
			func(w *world, _, _ *Link) { w.proxy.freeze() },
			network(d.NetworkTimeout), network(d.NetworkTimeout), false,
		},
		"close code only": {
			func(_ *world, _, accepted *Link) {
				_ = accepted.latch(Ending{goodbye(d.ServerShutdown, d.Server, "").On(d.ServerToAgent), true})
				accepted.announce()
				accepted.hangUp()
			},
			d.Attribution{ConnectType: d.ServerToAgent, Reason: d.ServerShutdown, Initiator: d.Server},
			d.Attribution{ConnectType: d.ServerToAgent, Reason: d.ServerShutdown, Initiator: d.Server}, true,
		},
		"1000 without goodbye": {
			func(_ *world, _, accepted *Link) { _ = accepted.conn.CloseWith(1000, "bye") },
			network(d.NetworkError), network(d.NetworkError), false,
		},
		"1001 without goodbye": {
			func(_ *world, dialled, _ *Link) { _ = dialled.conn.CloseWith(1001, "") },
			network(d.NetworkError), network(d.NetworkError), false,
		},
		"abort": {
			func(_ *world, _, accepted *Link) {
				accepted.Abort(d.Attribution{Reason: d.InternalError, Initiator: d.Server})
			},
			network(d.NetworkError), d.Attribution{ConnectType: d.ServerToAgent, Reason: d.InternalError, Initiator: d.Server}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *ServerOptions) { o.Heartbeat, o.Silence = silence/5, silence })
			opts := w.options("agent")
			opts.Heartbeat, opts.Silence = silence/5, silence
			dialled, accepted := w.dial(t, opts)
			stream := hold(t, testContext(t), dialled)
			start := time.Now()
			tc.fault(w, dialled, accepted)
			rpcErr := stream.RecvMsg(&emptypb.Empty{})
			require.Error(t, rpcErr)
			a, ok := d.FromError(EndingOf(dialled, rpcErr))
			require.True(t, ok)
			require.ErrorIs(t, EndingOf(dialled, rpcErr), rpcErr)
			for l, want := range map[*Link]d.Attribution{dialled: tc.dialled, accepted: tc.accepted} {
				e := ended(t, l)
				if l == dialled {
					require.Equal(t, e.Attribution, a)
				}
				require.Equal(t, tc.byGoodbye, e.Goodbye, "dialled: %v, %v", l == dialled, e)
				e.Detail = ""
				require.Equal(t, want, e.Attribution)
			}
			handlerCause, ok := d.FromError(receive(t, w.held))
			require.True(t, ok)
			require.Equal(t, accepted.Ending().Attribution, handlerCause)
			if name == "silence" {
				require.GreaterOrEqual(t, time.Since(start), silence/2)
			}
			require.NoError(t, dialled.Close(goodbye(d.Graceful, d.Agent, "")))
			require.NoError(t, accepted.Close(goodbye(d.Graceful, d.Server, "")))
		})
	}
}

func TestHeartbeatsKeepAnIdleLink(t *testing.T) {
	const silence = 500 * time.Millisecond
	w := newWorld(t, func(o *ServerOptions) { o.Heartbeat, o.Silence = silence/10, silence })
	opts := w.options("agent")
	opts.Heartbeat, opts.Silence = silence/10, silence
	dialled, accepted := w.dial(t, opts)
	select {
	case <-dialled.Done():
	case <-accepted.Done():
	case <-time.After(2 * silence):
	}
	require.NoError(t, dialled.Err())
	require.NoError(t, accepted.Err())
	require.Positive(t, dialled.echo.Load())
	require.Positive(t, accepted.echo.Load())
}

// TestGoodbyeBeforeTheCutWins cuts the socket as soon as the goodbye has passed, when
// gRPC may still hold it.
func TestGoodbyeBeforeTheCutWins(t *testing.T) {
	for _, sender := range []string{"agent", "server"} {
		t.Run(sender, func(t *testing.T) {
			w := newWorld(t, nil)
			for range 50 {
				from, to := w.dial(t, w.options("agent"))
				receive(t, to.greeted.done())
				if sender == "server" {
					from, to = to, from
				}
				g := goodbye(d.ServerShutdown, from.self, "and killed at once, after many words"+strings.Repeat(".", 200))
				require.True(t, from.latch(Ending{g.On(d.ServerToAgent), true}))
				passed := w.proxy.nextLong()
				require.True(t, from.send(goodbyeFrame(g)))
				receive(t, passed)
				w.proxy.cut()
				from.announce()
				require.Equal(t, Ending{g.On(d.ServerToAgent), true}, ended(t, to))
			}
		})
	}
}

// TestClosedBeforeItsStream has the server end links while the dialling side sets gRPC
// up, with all that it can say by then: the close frame. That declares the ending.
func TestClosedBeforeItsStream(t *testing.T) {
	w := newWorld(t, nil)
	g := goodbye(d.AuthRevoked, d.Server, "the token was revoked")
	opts := w.options("client")
	for round := range 200 {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			l := <-w.links
			if round%4 > 0 {
				<-time.After(time.Duration(round%4) * 200 * time.Microsecond)
			}
			_ = l.Close(g)
		}()
		link, err := Dial(testContext(t), opts)
		attr := JudgeDial(err, opts.ConnectType, opts.Self, opts.Peer)
		if err == nil {
			attr = ended(t, link).Attribution
			require.NoError(t, link.Close(goodbye(d.ClientClosed, d.Client, "")))
		}
		require.Equal(t, []any{d.AuthRevoked, d.Server}, []any{attr.Reason, attr.Initiator}, "round %d: %s", round, attr)
		receive(t, closed)
	}
}

// TestSiblingRace breaks the link while an RPC is open, many times: the RPC's error
// must always be traced to the link's own ending.
func TestSiblingRace(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	w := newWorld(t, nil)
	for i := range rounds {
		dialled, accepted := w.dial(t, w.options("agent"))
		stream := hold(t, testContext(t), dialled)
		want := d.ConnectionReset
		if i%2 == 0 {
			want = d.ServerShutdown
			go func() { _ = accepted.Close(goodbye(d.ServerShutdown, d.Server, "")) }()
		} else {
			w.proxy.reset()
		}
		a, ok := d.FromError(EndingOf(dialled, stream.RecvMsg(&emptypb.Empty{})))
		require.True(t, ok)
		require.Equal(t, want, a.Reason, "round %d: %s", i, a)
		require.NoError(t, dialled.Close(goodbye(d.Graceful, d.Agent, "")))
	}
}

func TestEndingOfALivingLink(t *testing.T) {
	w := newWorld(t, nil)
	dialled, _ := w.dial(t, w.options("agent"))
	start := time.Now()
	a, ok := d.FromError(EndingOf(dialled, status.Error(codes.Unauthenticated, "no")))
	require.True(t, ok)
	require.Equal(t, d.AuthFailed, a.Reason)
	require.Less(t, time.Since(start), endingWait, "an answer needs no waiting")

	a, ok = d.FromError(EndingOf(dialled, io.EOF))
	require.True(t, ok)
	require.Equal(t, d.Graceful, a.Reason)
	require.Equal(t, d.Server, a.Initiator)
}

func TestRPCContextsEndAlone(t *testing.T) {
	w := newWorld(t, nil)
	dialled, accepted := w.dial(t, w.options("agent"))
	ctx, cancel := context.WithCancel(testContext(t))
	hold(t, ctx, dialled)
	cancel()
	require.ErrorIs(t, receive(t, w.held), context.Canceled)
	require.NoError(t, accepted.Err())
	require.NoError(t, dialled.Err())
}

func TestInvalidPeers(t *testing.T) {
	t.Run("garbage to the port", func(t *testing.T) {
		w := newWorld(t, nil)
		conn, err := net.Dial("tcp", w.proxy.addr())
		require.NoError(t, err)
		_, err = conn.Write(bytes.Repeat([]byte("\x16\x03\x01garbage\r\n"), 100))
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, conn)
		require.NoError(t, conn.Close())
		dialled, _ := w.dial(t, w.options("agent"))
		require.NoError(t, dialled.Err())
	})
	t.Run("no grpc at all", func(t *testing.T) {
		w := newWorld(t, nil)
		conn := w.rawUpgrade(t)
		accepted := receive(t, w.links)
		_, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n and more than a preface"))
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err)
		e := ended(t, accepted)
		require.Equal(t, d.ProtocolError, e.Reason)
		require.Equal(t, d.Agent, e.Initiator)
		require.Equal(t, 4060, conn.Ending().Code)
	})
	t.Run("silent after the upgrade", func(t *testing.T) {
		w := newWorld(t, func(o *ServerOptions) { o.Heartbeat, o.Silence = 20*time.Millisecond, 100*time.Millisecond })
		conn := w.rawUpgrade(t)
		_, err := io.Copy(io.Discard, conn)
		require.NoError(t, err)
		require.Equal(t, d.SlowPeer, ended(t, receive(t, w.links)).Reason)
	})
	t.Run("no hello", func(t *testing.T) {
		w := newWorld(t, nil)
		conn := w.rawUpgrade(t)
		accepted := receive(t, w.links)
		l := newLink(conn, 0, 0)
		cc, err := dialGRPC(l)
		require.NoError(t, err)
		defer cc.Close()
		stream, err := proto.NewControlServiceClient(cc).Link(testContext(t))
		require.NoError(t, err)
		require.NoError(t, stream.Send(&proto.LinkFrame{}))
		for err == nil {
			_, err = stream.Recv()
		}
		require.Equal(t, d.ProtocolError, ended(t, accepted).Reason)
		require.Equal(t, d.ProtocolError, ended(t, l).Reason)
	})
	t.Run("stream closed without goodbye", func(t *testing.T) {
		w := newWorld(t, nil)
		dialled, accepted := w.dial(t, w.options("agent"))
		dialled.sendMu.Lock()
		require.NoError(t, dialled.stream.(proto.ControlService_LinkClient).CloseSend())
		dialled.sendMu.Unlock()
		e := ended(t, accepted)
		require.False(t, e.Expected())
		require.Equal(t, d.ProtocolError, e.Reason)
		require.Equal(t, d.ProtocolError, ended(t, dialled).Reason)
	})
	t.Run("second stream", func(t *testing.T) {
		w := newWorld(t, nil)
		dialled, _ := w.dial(t, w.options("agent"))
		stream, err := proto.NewControlServiceClient(dialled.RPC()).Link(testContext(t))
		require.NoError(t, err)
		_, err = stream.Recv()
		require.Equal(t, codes.FailedPrecondition, status.Code(err))
		require.NoError(t, dialled.Err())
	})
}

func TestServerClose(t *testing.T) {
	w := newWorld(t, nil)
	var links []*Link
	for range 50 {
		dialled, _ := w.dial(t, w.options("agent"))
		hold(t, testContext(t), dialled)
		links = append(links, dialled)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
	defer cancel()
	w.server.Close(ctx, goodbye(d.ServerShutdown, d.Server, "upgrade"))
	for _, l := range links {
		require.Equal(t, Ending{goodbye(d.ServerShutdown, d.Server, "upgrade").On(d.ServerToAgent), true}, ended(t, l))
		require.Equal(t, d.ServerShutdown, receive(t, w.ended).Reason)
		receive(t, w.held)
	}
	_, err := Dial(testContext(t), w.options("agent"))
	require.Error(t, err)
	a := JudgeDial(err, d.ServerToAgent, d.Agent, d.Server)
	require.Equal(t, d.ServerShutdown, a.Reason)
	require.Equal(t, d.Server, a.Initiator)
}

func TestServerCloseIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	for range 5 {
		w.dial(t, w.options("agent"))
	}
	w.proxy.freeze()
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	start := time.Now()
	w.server.Close(ctx, goodbye(d.ServerShutdown, d.Server, ""))
	require.Less(t, time.Since(start), 5*time.Second)
}

func TestDialFailures(t *testing.T) {
	w := newWorld(t, nil)
	t.Run("wrong token", func(t *testing.T) {
		_, err := Dial(testContext(t), w.options("stolen"))
		a := JudgeDial(err, d.ServerToAgent, d.Agent, d.Server)
		require.Equal(t, d.AuthFailed, a.Reason)
		require.Equal(t, d.Server, a.Initiator)
		require.Contains(t, a.Detail, "unknown token")
	})
	t.Run("wrong path", func(t *testing.T) {
		opts := w.options("agent")
		opts.AccessURL.Path = ""
		_, err := Dial(testContext(t), opts)
		require.Equal(t, d.ProtocolError, JudgeDial(err, d.ServerToAgent, d.Agent, d.Server).Reason)
	})
	t.Run("another version", func(t *testing.T) {
		_, err := wsconn.Dial(testContext(t), w.http.URL+"/prefix"+Path, wsconn.DialOptions{
			Header: http.Header{"Authorization": {"Bearer agent"}}, Subprotocols: []string{"fairlead-control-v0"},
		})
		var failed *wsconn.DialError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, http.StatusUpgradeRequired, failed.Status)
		require.Equal(t, "32", failed.Header.Get(wsconn.HTTPReason))
		require.Equal(t, d.VersionMismatch, JudgeDial(err, d.ServerToAgent, d.Agent, d.Server).Reason)
	})
	t.Run("no hello", func(t *testing.T) {
		opts := w.options("agent")
		opts.AccessURL = newMuteServer(t)
		opts.Heartbeat, opts.Silence = 20*time.Millisecond, 100*time.Millisecond
		_, err := Dial(testContext(t), opts)
		require.Equal(t, d.SlowPeer, JudgeDial(err, d.ServerToAgent, d.Agent, d.Server).Reason, err)

		opts.Silence = time.Hour
		why := errors.New("the user gave up")
		ctx, cancel := context.WithCancelCause(testContext(t))
		time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
		_, err = Dial(ctx, opts)
		require.Error(t, err)
	})
}
