package wsconn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

func TestRoundTrip(t *testing.T) {
	client, server := pair(t)
	require.Equal(t, "test-v1", client.Subprotocol())
	require.Equal(t, "test-v1", server.Subprotocol())
	require.Equal(t, client.LocalAddr().String(), server.RemoteAddr().String())
	require.Equal(t, client.RemoteAddr().String(), server.LocalAddr().String())

	for _, size := range []int{1, 100, 4081, 4082, 4083, 4088, 4090, 4095, 4096, 4097, 8192, 40_000, 65_535, 65_536, 3 << 20} {
		sent := make([]byte, size)
		_, _ = rand.Read(sent)
		for _, ends := range [][2]*Conn{{client, server}, {server, client}} {
			kept := bytes.Clone(sent)
			done := make(chan error, 1)
			go func() {
				_, err := ends[0].Write(sent)
				done <- err
			}()
			got := make([]byte, size)
			_, err := io.ReadFull(ends[1], got)
			require.NoError(t, err)
			require.NoError(t, <-done)
			require.True(t, bytes.Equal(kept, got), "size %d", size)
			require.True(t, bytes.Equal(kept, sent), "Write changed its argument, size %d", size)
		}
	}
	require.True(t, client.Ending().IsZero())
}

func TestCloseWithIsSeenByBothEnds(t *testing.T) {
	for _, name := range []string{"client closes", "server closes"} {
		t.Run(name, func(t *testing.T) {
			closer, other := pair(t)
			if name == "server closes" {
				closer, other = other, closer
			}
			code, text := disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server, Detail: "upgrade"}.CloseCode()
			seen := make(chan struct{})
			go func() {
				defer close(seen)
				ending, err := drain(t, other)
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, Ending{Code: 4020, Text: "i=3;d=upgrade"}, ending)
			}()
			require.NoError(t, closer.CloseWith(code, text))
			<-seen
			require.Equal(t, Ending{Local: true, Code: 4020, Text: "i=3;d=upgrade"}, closer.Ending())

			_, err := drain(t, closer)
			require.ErrorIs(t, err, net.ErrClosed)
			_, err = closer.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			_, err = other.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorIs(t, closer.CloseWith(4010, ""), net.ErrClosed)
			require.Equal(t, 4020, closer.Ending().Code, "the first cause wins")
		})
	}
}

func TestCloseWithDoesNotWaitForADeadPeer(t *testing.T) {
	client, server := pair(t)
	start := time.Now()
	require.NoError(t, server.CloseWith(4020, "")) // the client does not read
	require.Less(t, time.Since(start), 2*time.Second)
	// The frame was sent all the same.
	ending, _ := drain(t, client)
	require.Equal(t, 4020, ending.Code)
}

func TestCloseWithCutsAStuckWriter(t *testing.T) {
	client, server := pair(t)
	stuck := make(chan error, 1)
	go func() {
		_, err := server.Write(make([]byte, 64<<20)) // the client does not read
		stuck <- err
	}()
	_, err := io.ReadFull(client, make([]byte, 1<<10))
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, server.CloseWith(4020, ""))
	require.Less(t, time.Since(start), 2*time.Second)
	require.ErrorIs(t, <-stuck, net.ErrClosed)
	require.True(t, server.Ending().Local)
}

func TestLibraryCloseCodesAreKept(t *testing.T) {
	for _, code := range []websocket.StatusCode{1000, 1001, 1011, 3000} {
		client, server := pair(t)
		go func() { _ = server.ws.Close(code, "by a library") }()
		ending, err := drain(t, client)
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, Ending{Code: int(code), Text: "by a library"}, ending)
	}
}

func TestPlainCloseClaimsNothing(t *testing.T) {
	client, server := pair(t)
	require.NoError(t, server.Close())
	require.NoError(t, server.Close())
	ending, err := drain(t, client)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, Ending{Err: io.EOF}, ending)
	require.Equal(t, Ending{Local: true, Err: net.ErrClosed}, server.Ending())
}

func TestCutAndReset(t *testing.T) {
	t.Run("cut", func(t *testing.T) {
		client, server := pair(t)
		require.NoError(t, server.under.Close())
		ending, err := drain(t, client)
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, Ending{Err: io.EOF}, ending)
	})
	t.Run("cut inside a frame", func(t *testing.T) {
		client, server := pair(t)
		_, err := server.under.Write([]byte{0x82, 10, 'h', 'a', 'l', 'f'})
		require.NoError(t, err)
		require.NoError(t, server.under.Close())
		ending, _ := drain(t, client)
		require.ErrorIs(t, ending.Err, io.ErrUnexpectedEOF)
	})
	t.Run("reset", func(t *testing.T) {
		client, server := pair(t)
		reset(t, client)
		ending, err := drain(t, server)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.ErrorIs(t, ending.Err, syscall.ECONNRESET)
		require.False(t, ending.Local)
	})
	t.Run("reset noticed by the writer", func(t *testing.T) {
		client, server := pair(t)
		reset(t, client)
		var err error
		for err == nil {
			_, err = server.Write([]byte("x"))
		}
		require.NoError(t, server.Close())
		require.ErrorIs(t, server.Ending().Err, syscall.ECONNRESET)
	})
}

func TestReaderExplainsTheWritersBrokenPipe(t *testing.T) {
	rec := new(record)
	rec.raw(&net.OpError{Op: "write", Err: syscall.EPIPE})
	require.True(t, rec.needsReader())
	rec.raw(&net.OpError{Op: "read", Err: syscall.ECONNRESET})
	rec.raw(io.EOF)
	require.ErrorIs(t, rec.get().Err, syscall.ECONNRESET)
	rec.frame(4020, "the close frame was in the buffer")
	require.Equal(t, 4020, rec.get().Code)
	rec.local(Ending{Err: net.ErrClosed})
	require.False(t, rec.get().Local)
}

func TestReadDeadline(t *testing.T) {
	client, server := pair(t)
	require.NoError(t, server.SetReadDeadline(time.Now().Add(-time.Second)))
	_, err := server.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.True(t, server.Ending().IsZero(), "a deadline between reads ends nothing")

	require.NoError(t, server.SetDeadline(time.Time{}))
	_, err = client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = server.Read(make([]byte, 1))
	require.NoError(t, err)

	require.NoError(t, server.SetReadDeadline(time.Now().Add(time.Hour)))
	require.NoError(t, server.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	told := make(chan Ending, 1)
	go func() {
		ending, _ := drain(t, client)
		told <- ending
	}()
	_, err = server.Read(make([]byte, 1))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
	require.True(t, server.Ending().Local)
	require.ErrorIs(t, server.Ending().Err, os.ErrDeadlineExceeded)
	require.Equal(t, 4051, (<-told).Code)
	require.Equal(t, disconnect.NetworkTimeout,
		Judge(server.Ending(), disconnect.ServerToAgent, disconnect.Server, disconnect.Agent).Reason)
}

func TestWriteDeadline(t *testing.T) {
	much := make([]byte, 64<<20)
	for name, wait := range map[string]time.Duration{"during the write": 20 * time.Millisecond, "before the write": -time.Second} {
		t.Run(name, func(t *testing.T) {
			_, server := pair(t) // the client does not read
			require.NoError(t, server.SetWriteDeadline(time.Now().Add(wait)))
			_, err := server.Write(much)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, server.Close())
			a := Judge(server.Ending(), disconnect.ServerToAgent, disconnect.Server, disconnect.Agent)
			require.Equal(t, disconnect.SlowPeer, a.Reason)
			require.Equal(t, disconnect.Agent, a.Initiator)
		})
	}
}

func TestPing(t *testing.T) {
	client, server := pair(t)
	ctx := testContext(t)
	reads := make(chan error, 2)
	go func() { _, err := client.Read(make([]byte, 1)); reads <- err }()

	// Nobody reads at the server: no pong, and the connection survives that.
	short, cancel := context.WithCancelCause(ctx)
	why := errors.New("asked long enough")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	require.ErrorIs(t, client.Ping(short), why)
	require.True(t, client.Ending().IsZero())

	go func() { _, err := server.Read(make([]byte, 1)); reads <- err }()
	require.NoError(t, client.Ping(ctx))
	require.NoError(t, server.Ping(ctx))
	require.NoError(t, client.CloseWith(4010, ""))
	<-reads
	<-reads
	require.Error(t, client.Ping(ctx))
}

func TestInvalidData(t *testing.T) {
	t.Run("text message", func(t *testing.T) {
		client, server := pair(t)
		require.NoError(t, client.ws.Write(testContext(t), websocket.MessageText, []byte("hello")))
		told := make(chan Ending, 1)
		go func() { ending, _ := drain(t, client); told <- ending }()
		ending, err := drain(t, server)
		require.ErrorIs(t, err, ErrProtocol)
		require.Equal(t, disconnect.Attribution{
			ConnectType: disconnect.ServerToAgent, Reason: disconnect.ProtocolError,
			Initiator: disconnect.Agent, Detail: "invalid websocket data: text message",
		}, Judge(ending, disconnect.ServerToAgent, disconnect.Server, disconnect.Agent))
		a := Judge(<-told, disconnect.ServerToAgent, disconnect.Agent, disconnect.Server)
		require.Equal(t, disconnect.ProtocolError, a.Reason)
		require.Equal(t, disconnect.Agent, a.Initiator, "the sender of the bad bytes")
	})
	t.Run("garbage", func(t *testing.T) {
		client, server := pair(t)
		_, err := client.under.Write(bytes.Repeat([]byte("\xf7garbage"), 100))
		require.NoError(t, err)
		ending, err := drain(t, server)
		require.ErrorIs(t, err, ErrProtocol)
		require.ErrorIs(t, ending.Err, ErrProtocol)
	})
}

func TestEverythingAtOnce(t *testing.T) {
	client, server := pair(t)
	var wg sync.WaitGroup
	for _, c := range []*Conn{client, server} {
		wg.Go(func() { drain(t, c) })
		for range 3 {
			wg.Go(func() {
				for {
					if _, err := c.Write(make([]byte, 5000)); err != nil {
						return
					}
				}
			})
		}
		for i := range 4 {
			wg.Go(func() {
				_ = c.Ping(testContext(t))
				_ = c.SetDeadline(time.Now().Add(time.Hour))
				if i%2 == 0 {
					_ = c.CloseWith(4010+i, "")
				} else {
					_ = c.Close()
				}
			})
		}
	}
	wg.Wait()
	require.False(t, client.Ending().IsZero())
	require.False(t, server.Ending().IsZero())
}
