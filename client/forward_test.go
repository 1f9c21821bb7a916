package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// service is a program that listens, and says what it does with each connection.
func service(t *testing.T, network, address string, serve func(net.Conn)) Endpoint {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return Endpoint{network, l.Addr().String()}
}

func echoes(c net.Conn) { _, _ = io.Copy(c, c) }

// forwarding is a run of Forwards, and what it told.
type forwarding struct {
	t      *testing.T
	b      *bench
	events chan ForwardEvent
	leave  context.CancelFunc
	done   chan struct{}
	end    disconnect.Attribution
	err    error
}

// forward runs forwards until the test ends. Its first ways to the workspace are those of
// again, or b's.
func (b *bench) forward(t *testing.T, options ForwardOptions, again func(context.Context) (*Workspace, error), forwards ...Forward) *forwarding {
	t.Helper()
	fs, err := ListenForwards(t.Context(), forwards)
	require.NoError(t, err)
	r := &forwarding{t: t, b: b, events: make(chan ForwardEvent, 1000), done: make(chan struct{})}
	options.OnEvent = func(e ForwardEvent) { r.events <- e }
	ctx, cancel := context.WithCancel(t.Context())
	r.leave = cancel
	first := true
	reach := func(ctx context.Context) (*Workspace, error) {
		if first || again == nil {
			first = false
			return b.Workspace, nil
		}
		return again(ctx)
	}
	fs.logger = b.config.logger
	go func() {
		defer close(r.done)
		r.end, r.err = fs.run(ctx, reach, options)
	}()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// await returns the next event of that type.
func (r *forwarding) await(kind ForwardEventType) ForwardEvent {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-r.events:
			if e.Type == kind {
				return e
			}
		case <-deadline:
			r.t.Fatalf("no event %s", kind)
		}
	}
}

func (r *forwarding) listening() string {
	r.t.Helper()
	return r.await(ForwardListening).Forward.Listen.Address
}

// requireEvent waits for the end of a connection and compares it, and its log line.
func (r *forwarding) requireEvent(kind ForwardEventType, reason disconnect.Reason, i disconnect.Initiator, detail string) ForwardEvent {
	r.t.Helper()
	e := r.await(kind)
	require.Equal(r.t, reason.String(), e.Attribution.Reason.String(), e.Attribution.String())
	require.Equal(r.t, i, e.Attribution.Initiator, e.Attribution.String())
	require.Contains(r.t, e.Attribution.Detail, detail)
	require.Equal(r.t, disconnect.AgentToClient, e.Attribution.ConnectType)
	return e
}

func dialTo(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends a line and reads it back.
func exchange(t *testing.T, c net.Conn, line string) {
	t.Helper()
	_, err := io.WriteString(c, line+"\n")
	require.NoError(t, err)
	got, err := bufio.NewReaderSize(c, 16).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, line+"\n", got)
}

// requireReset checks that c ends in a way that no program takes for the end of the data.
func requireReset(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	require.Error(t, err, "a connection that was cut off looks whole")
}

// requireRefused checks that a connection to address is reset, which may already be so
// before it is used.
func requireRefused(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET)
		return
	}
	defer c.Close()
	requireReset(t, c)
}

func into(listen, target Endpoint) Forward { return Forward{Listen: listen, Target: target} }

var anyPort = Endpoint{"tcp", "127.0.0.1:0"}

// TestForward: both kinds of endpoints on both sides, both directions, and each half of a
// connection ends on its own.
func TestForward(t *testing.T) {
	b := open(t)
	dir, err := os.MkdirTemp("", "fwd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tcp, unix := service(t, "tcp", "127.0.0.1:0", echoes), service(t, "unix", filepath.Join(dir, "there"), echoes)
	forwards := []Forward{
		into(anyPort, tcp), into(Endpoint{"unix", filepath.Join(dir, "here")}, unix),
		{Remote: true, Listen: anyPort, Target: unix}, {Remote: true, Listen: Endpoint{"unix", filepath.Join(dir, "back")}, Target: tcp},
	}
	r := b.forward(t, ForwardOptions{}, nil, forwards...)
	var all []ForwardEvent
	for range forwards {
		all = append(all, r.await(ForwardListening))
	}
	for _, e := range all {
		c := dialTo(t, e.Forward.Listen.Network, e.Forward.Listen.Address)
		exchange(t, c, "to and fro")
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		begun := disconnect.Client
		if e.Forward.Remote {
			begun = disconnect.Agent
		}
		closed := r.requireEvent(ForwardClosed, disconnect.Graceful, begun, "both ends were done")
		require.Equal(t, []uint64{11, 11}, []uint64{closed.Sent, closed.Received})
		require.Equal(t, e.Forward.Target.String(), closed.Target)
		a := <-b.agent.ended // before anybody leaves, which would be the reason else
		require.Equal(t, disconnect.Graceful, a.Reason, a.String())
	}
	r.leave()
	<-r.done
	require.NoError(t, r.err)
	require.Equal(t, disconnect.ClientClosed, r.end.Reason)
	require.Len(t, b.log.of("forwarded connection closed"), len(forwards))
	_, err = os.Stat(filepath.Join(dir, "here"))
	require.ErrorIs(t, err, os.ErrNotExist, "the socket is gone with its listener")
}

// TestForwardedConnectionsEnd: who ended a connection, and that what was cut off does not
// look whole.
func TestForwardedConnectionsEnd(t *testing.T) {
	b := open(t)
	resets := service(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		reset(c)
	})
	closes := service(t, "tcp", "127.0.0.1:0", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	waits := service(t, "tcp", "127.0.0.1:0", echoes)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	dead := Endpoint{"tcp", nobody.Addr().String()}
	require.NoError(t, nobody.Close())
	r := b.forward(t, ForwardOptions{}, nil, into(anyPort, resets), into(anyPort, closes), into(anyPort, waits), into(anyPort, dead),
		Forward{Remote: true, Listen: anyPort, Target: dead})
	at := []string{r.listening(), r.listening(), r.listening(), r.listening()}
	back := r.listening()

	c := dialTo(t, "tcp", at[0])
	_, _ = io.WriteString(c, "x")
	requireReset(t, c)
	r.requireEvent(ForwardClosed, disconnect.ConnectionReset, disconnect.Agent, "")

	c = dialTo(t, "tcp", at[1])
	_, _ = io.WriteString(c, "x")
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_ = c.Close()
	r.requireEvent(ForwardClosed, disconnect.Graceful, disconnect.Agent, "")

	c = dialTo(t, "tcp", at[2])
	exchange(t, c, "hello")
	reset(c)
	r.requireEvent(ForwardClosed, disconnect.ConnectionReset, disconnect.Client, "was reset")

	requireRefused(t, at[3])
	e := r.requireEvent(ForwardRefused, disconnect.ConnectionRefused, disconnect.Agent, dead.Address)
	require.Equal(t, dead.Address, e.Target)

	requireRefused(t, back)
	r.requireEvent(ForwardRefused, disconnect.ConnectionRefused, disconnect.Client, dead.Address)
}

// TestForwardOutlivesTheAgent: a connection ends with the agent that served it, one that
// comes meanwhile is refused at once, and one that comes later reaches the next agent, by
// the same port.
func TestForwardOutlivesTheAgent(t *testing.T) {
	b := open(t)
	target := service(t, "tcp", "127.0.0.1:0", echoes)
	ready := make(chan *Workspace, 1)
	again := func(context.Context) (*Workspace, error) {
		select {
		case w := <-ready:
			return w, nil
		default:
			return nil, errors.New("the agent of workspace dev is offline")
		}
	}
	r := b.forward(t, ForwardOptions{}, again, into(anyPort, target), Forward{Remote: true, Listen: anyPort, Target: target})
	here, back := r.listening(), r.listening()
	c, from := dialTo(t, "tcp", here), dialTo(t, "tcp", back)
	exchange(t, c, "before")
	exchange(t, from, "before")
	b.agent.stop(stopping)
	requireReset(t, c)
	requireReset(t, from)
	for range 2 {
		r.requireEvent(ForwardClosed, disconnect.ServerShutdown, disconnect.Agent, "SIGTERM")
	}
	require.Equal(t, disconnect.ServerShutdown, r.await(ForwardAway).Attribution.Reason)
	requireRefused(t, here)
	r.await(ForwardRefused)

	next := startAgent(t, "agent-2")
	b.path.lead(next)
	config := testConfig(next, b.path, b.log)

	w, err := openWorkspace(t.Context(), config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { w.Goodbye(context.Background(), disconnect.Goodbye{}) })
	ready <- w
	r.await(ForwardBack)
	after := dialTo(t, "tcp", here)
	exchange(t, after, "after")
	require.Equal(t, back, r.listening(), "the port in the workspace is the same")
	exchange(t, dialTo(t, "tcp", back), "after")
}

// TestForwardIsSilent: while nothing is heard from the workspace a connection is refused
// at once; an open one goes on when the network is back.
func TestForwardIsSilent(t *testing.T) {
	b := open(t)
	target := service(t, "tcp", "127.0.0.1:0", echoes)
	r := b.forward(t, ForwardOptions{}, nil, into(anyPort, target))
	at := r.listening()
	c := dialTo(t, "tcp", at)
	exchange(t, c, "before")
	b.path.hole.Store(true)
	require.Eventually(t, func() bool {
		_, silent := b.Interrupted()
		return silent
	}, 5*time.Second, time.Millisecond)
	requireRefused(t, at)
	r.requireEvent(ForwardRefused, disconnect.NetworkTimeout, disconnect.Network, "nothing heard")
}

// TestForwardEndsLoudly: with ExitOnDisconnect the run ends as the workspace does, and
// nobody listens any more.
func TestForwardEndsLoudly(t *testing.T) {
	b := open(t)
	r := b.forward(t, ForwardOptions{ExitOnDisconnect: true}, nil, into(anyPort, service(t, "tcp", "127.0.0.1:0", echoes)))
	at := r.listening()
	c := dialTo(t, "tcp", at)
	exchange(t, c, "hello")
	b.agent.stop(stopping)
	<-r.done
	require.NoError(t, r.err)
	require.Equal(t, disconnect.ServerShutdown, r.end.Reason, r.end.String())
	requireReset(t, c)
	_, err := net.Dial("tcp", at)
	require.Error(t, err)
}

// TestListenForwardsRefused: what cannot listen is one clear sentence, and nothing of the
// rest listens.
func TestListenForwardsRefused(t *testing.T) {
	dir, err := os.MkdirTemp("", "fwd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	taken := service(t, "tcp", "127.0.0.1:0", echoes)
	inUse := service(t, "unix", filepath.Join(dir, "used"), echoes)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	first := Endpoint{"unix", filepath.Join(dir, "first")}
	for _, tc := range []struct {
		at   Endpoint
		want string
	}{
		{taken, "the port is in use by another program"},
		{inUse, "this file exists already"},
		{Endpoint{"unix", file}, "this file exists already"},
		{Endpoint{"unix", filepath.Join(dir, strings.Repeat("x", 120))}, "the path of a socket has at most 107 bytes"},
		{Endpoint{"unix", filepath.Join(dir, "no", "such")}, "no such file or directory"},
		{Endpoint{"tcp", "192.0.2.1:0"}, "this machine does not have this address"},
		{Endpoint{"tcp", "no.such.host.invalid:0"}, "the name does not resolve"},
	} {
		_, err := ListenForwards(t.Context(), []Forward{into(first, taken), into(tc.at, taken)})
		require.ErrorContains(t, err, "listen on "+disconnect.Scrub(tc.at.Address)+": ")
		require.ErrorContains(t, err, tc.want)
		_, err = os.Stat(first.Address)
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	dead, err := net.Listen("unix", first.Address)
	require.NoError(t, err)
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	fs, err := ListenForwards(t.Context(), []Forward{into(first, taken)})
	require.NoError(t, err, "the socket of a process that died")
	info, err := os.Stat(first.Address)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	fs.Close()
}

// TestForwardRemoteRefused: what the agent cannot listen on ends the run before anything
// else begins.
func TestForwardRemoteRefused(t *testing.T) {
	b := open(t)
	taken := service(t, "tcp", "127.0.0.1:0", echoes)
	r := b.forward(t, ForwardOptions{}, nil, Forward{Remote: true, Listen: taken, Target: taken})
	<-r.done
	require.ErrorContains(t, r.err, "listen on "+taken.Address+" in the workspace: the port or the socket's path is in use there")
	require.Equal(t, disconnect.ResourceExhausted, r.end.Reason)
}

// TestSOCKS: every way to name a target, in both versions, on both sides.
func TestSOCKS(t *testing.T) {
	b := open(t)
	target := service(t, "tcp", "127.0.0.1:0", echoes)
	_, text, err := net.SplitHostPort(target.Address)
	require.NoError(t, err)
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	port := string(binary.BigEndian.AppendUint16(nil, uint16(n)))
	const greeting, accepted = "\x05\x02\x01\x00", "\x05\x00"
	const granted4, granted5 = "\x00\x5a\x00\x00\x00\x00\x00\x00", "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	r := b.forward(t, ForwardOptions{}, nil, into(anyPort, Endpoint{}), Forward{Remote: true, Listen: anyPort})
	for _, at := range []string{r.listening(), r.listening()} {
		ask := func(say, want string) net.Conn {
			c := dialTo(t, "tcp", at)
			_, err := io.WriteString(c, say)
			require.NoError(t, err)
			got := make([]byte, len(want))
			_, err = io.ReadFull(c, got)
			require.NoError(t, err, "%q", say)
			require.Equal(t, want, string(got), "%q", say)
			return c
		}
		for say, want := range map[string]string{
			"\x04\x01" + port + "\x7f\x00\x00\x01me\x00":              granted4,
			"\x04\x01" + port + "\x00\x00\x00\x01me\x00localhost\x00": granted4,
			greeting + "\x05\x01\x00\x01\x7f\x00\x00\x01" + port:      accepted + granted5,
			greeting + "\x05\x01\x00\x03\x09localhost" + port:         accepted + granted5,
		} {
			c := ask(say, want)
			exchange(t, c, "through")
			_ = c.Close()
			require.Contains(t, r.await(ForwardClosed).Target, ":"+text)
		}
		for say, want := range map[string]string{
			"\x05\x01\x02": "\x05\xff", // only with a password
			greeting + "\x05\x02\x00\x01\x7f\x00\x00\x01" + port:              accepted + "\x05\x07", // BIND
			"\x04\x02" + port + "\x7f\x00\x00\x01\x00":                        "\x00\x5b",
			greeting + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01":             accepted + "\x05\x05", // nobody there
			"\x04\x01\x00\x01\x7f\x00\x00\x01\x00":                            "\x00\x5b",
			greeting + "\x05\x01\x00\x09\x7f\x00\x00\x01\x00\x01":             accepted,
			"GET / HTTP/1.1\r\n\r\n":                                          "",
			"\x04\x01" + port + "\x7f\x00\x00\x01" + strings.Repeat("x", 300): "",
		} {
			_ = ask(say, want).Close()
			require.False(t, r.await(ForwardRefused).Attribution.IsZero())
		}
	}
}

// TestManyForwards: more than the agent takes at once are refused with the reason, and
// those that are there go on.
func TestManyForwards(t *testing.T) {
	b := open(t)
	r := b.forward(t, ForwardOptions{}, nil, into(anyPort, service(t, "tcp", "127.0.0.1:0", echoes)))
	at := r.listening()
	var all []net.Conn
	for i := range 256 {
		c := dialTo(t, "tcp", at)
		exchange(t, c, fmt.Sprint(i))
		all = append(all, c)
	}
	requireRefused(t, at)
	r.requireEvent(ForwardRefused, disconnect.LimitExceeded, disconnect.Agent, "has 256 forwards already")
	for i, c := range all {
		exchange(t, c, fmt.Sprint(i))
	}
}
