package inject

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

func TestMain(m *testing.M) {
	if err := netlab.Unshare(); err != nil {
		fmt.Println("skipped:", err)
		return
	}
	goleak.VerifyTestMain(m)
}

func build(t *testing.T, name string) *netlab.Lab {
	t.Helper()
	lab, err := netlab.Build(t.Context(), name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	return lab
}

// done checks what an injector returns; a machine that cannot do it skips the test.
func done[T interface{ Truth() Truth }](t *testing.T) func(T, error) T {
	return func(i T, err error) T {
		t.Helper()
		if errors.Is(err, ErrNeedsRoot) || errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		require.NoError(t, err)
		truth := i.Truth()
		require.NotEmpty(t, truth.Fault)
		require.NotEmpty(t, truth.Whom)
		require.Positive(t, truth.Begin)
		require.GreaterOrEqual(t, truth.Done, truth.Begin)
		require.LessOrEqual(t, truth.Done, Now())
		require.Zero(t, truth.Undone)
		return i
	}
}

func undo(t *testing.T, i interface {
	Undo(context.Context) error
	Truth() Truth
},
) {
	t.Helper()
	require.NoError(t, i.Undo(t.Context()))
	require.NoError(t, i.Undo(t.Context()), "a second time is nothing")
	require.Greater(t, i.Truth().Undone, i.Truth().Done)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.NoError(t, await(t.Context(), what, ok))
}

// echo is a service on a host that says everything back, by TCP and UDP on one port.
type echo struct {
	host *netlab.Host
	udp  net.PacketConn
	tcp  net.Listener
	addr string

	mu   sync.Mutex // guards from
	from string     // who sent the last datagram
}

func serveEcho(t *testing.T, h *netlab.Host) *echo {
	t.Helper()
	e := &echo{host: h, addr: net.JoinHostPort(h.Addr.String(), "7777")}
	require.NoError(t, h.Do(func() (err error) {
		e.udp, err = net.ListenPacket("udp4", e.addr)
		return err
	}))
	var err error
	e.tcp, err = h.Listen(e.addr)
	require.NoError(t, err)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := e.udp.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				e.mu.Lock()
				e.from = from.String()
				e.mu.Unlock()
				_, _ = e.udp.WriteTo(buf[:n], from)
			}
		}
	})
	tasks.Go(func() {
		for {
			c, err := e.tcp.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() { // ends with c
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	})
	t.Cleanup(func() { e.udp.Close(); e.tcp.Close(); tasks.Wait() })
	return e
}

func (e *echo) lastPeer() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.from
}

// pinger sends datagrams to an echo and waits for them to come back.
type pinger struct {
	t    *testing.T
	conn net.Conn
	next int
}

func newPinger(t *testing.T, from *netlab.Host, to *echo) *pinger {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp4", to.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &pinger{t: t, conn: c}
}

// ping sends one datagram of so many bytes and reports whether it came back within limit,
// and the time it took or what the kernel said instead.
func (p *pinger) ping(size int, limit time.Duration) (bool, time.Duration, error) {
	p.t.Helper()
	p.next++
	sent := fmt.Appendf(nil, "%0*d", size, p.next)
	begin := time.Now()
	if _, err := p.conn.Write(sent); err != nil {
		return false, 0, err
	}
	require.NoError(p.t, p.conn.SetReadDeadline(begin.Add(limit)))
	for buf := make([]byte, 65536); ; {
		n, err := p.conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, 0, nil
		}
		if err != nil {
			return false, 0, err
		}
		if string(buf[:n]) == string(sent) {
			return true, time.Since(begin), nil
		}
	}
}

// reaches waits until a datagram comes back.
func (p *pinger) reaches() {
	p.t.Helper()
	eventually(p.t, "an answer", func() bool { ok, _, _ := p.ping(10, 200*time.Millisecond); return ok })
}

// silent checks that nothing comes back, nor an error.
func (p *pinger) silent() {
	p.t.Helper()
	for range 3 {
		ok, _, err := p.ping(10, 300*time.Millisecond)
		require.NoError(p.t, err)
		require.False(p.t, ok)
	}
}

// dial opens a TCP connection to an echo and sees that it works.
func dial(t *testing.T, from *netlab.Host, to *echo) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp4", to.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, exchange(c, patience))
	return c
}

// exchange sends a word and waits for it to come back.
func exchange(c net.Conn, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	word := []byte("word")
	if _, err := c.Write(word); err != nil {
		return err
	}
	_, err := io.ReadFull(c, word)
	return err
}

// program is a process on a host that says back each line, as long as it can.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	ended chan struct{}
	next  int
}

func run(t *testing.T, h *netlab.Host, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: h.Command(context.Background(), name, args...), lines: make(chan string, 100), ended: make(chan struct{})}
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.ended })
	return p
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// answers reports whether a line comes back within limit.
func (p *program) answers(limit time.Duration) bool {
	p.t.Helper()
	p.next++
	word := fmt.Sprint("line ", p.next)
	_, err := fmt.Fprintln(p.in, word)
	require.NoError(p.t, err)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case line := <-p.lines:
			if line == word {
				return true
			}
		case <-p.ended:
			return false
		case <-timer.C:
			return false
		}
	}
}

// code waits for the end; -1 means a signal.
func (p *program) code() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatal("the program does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}
