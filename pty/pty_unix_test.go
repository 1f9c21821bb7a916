//go:build unix

package pty_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/pty"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) pty.PTY {
	t.Helper()
	p, err := pty.Open()
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestCommandRunsOnItsControllingTerminal(t *testing.T) {
	p := open(t)
	require.NoError(t, p.Resize(pty.Size{Rows: 33, Cols: 101}))
	cmd := exec.Command("/bin/sh", "-c", "tty; stty size </dev/tty; exit 3")
	require.NoError(t, p.Start(cmd))
	out, err := io.ReadAll(p)
	require.NoError(t, err, "a hangup is io.EOF, not EIO")
	require.Equal(t, p.Name()+"\r\n33 101\r\n", string(out))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, 3, exit.ExitCode())
}

func TestAllOutputIsReadBeforeTheEnd(t *testing.T) {
	for range 20 {
		p := open(t)
		cmd := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
		require.NoError(t, p.Start(cmd))
		out, err := io.ReadAll(p)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		require.Equal(t, 2000, strings.Count(string(out), "\r\n"))
		require.NoError(t, p.Close())
	}
}

func TestResizeReachesTheProgram(t *testing.T) {
	p := open(t)
	cmd := exec.Command("/bin/sh", "-c", `trap 'stty size; exit 0' WINCH; echo ready; while :; do read x; done`)
	require.NoError(t, p.Start(cmd))
	r := bufio.NewReader(p)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\r\n", line)
	require.NoError(t, p.Resize(pty.Size{Rows: 7, Cols: 9, XPixels: 70, YPixels: 90}))
	// dash runs a trap only when read returns.
	_, err = p.Write([]byte("\n"))
	require.NoError(t, err)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Contains(t, string(rest), "7 9")
	require.NoError(t, cmd.Wait())
	size, err := p.Size()
	require.NoError(t, err)
	require.Equal(t, pty.Size{Rows: 7, Cols: 9, XPixels: 70, YPixels: 90}, size)
}

func TestModes(t *testing.T) {
	p := open(t)
	require.NoError(t, p.SetModes(map[uint8]uint32{
		1: 24, 5: 255, 53: 0, 72: 0, 36: 1, 42: 1, 128: 38400, 129: 38400, 200: 1,
	}))
	cmd := exec.Command("stty", "-a")
	require.NoError(t, p.Start(cmd))
	out, err := io.ReadAll(p)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	require.Contains(t, string(out), "intr = ^X;")
	require.Contains(t, string(out), "eof = <undef>;")
	require.Contains(t, string(out), " -echo ")
	require.Contains(t, string(out), " -onlcr ")
	require.Contains(t, string(out), " iutf8")
	require.Error(t, p.SetModes(nil), "the command owns the terminal now")
}

func TestCloseUnblocksRead(t *testing.T) {
	p := open(t)
	read := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		read <- err
	}()
	require.NoError(t, p.Close())
	select {
	case err := <-read:
		require.ErrorIs(t, err, os.ErrClosed)
	case <-time.After(10 * time.Second):
		t.Fatal("read is still blocked")
	}
	require.Error(t, p.Resize(pty.Size{Rows: 1, Cols: 1}))
	require.Error(t, p.Start(exec.Command("true")))
}

func TestReadDeadline(t *testing.T) {
	p := open(t)
	require.NoError(t, p.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err := p.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestClosingHangsUp(t *testing.T) {
	p := open(t)
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, p.Start(cmd))
	require.NoError(t, p.Close())
	require.ErrorContains(t, cmd.Wait(), "hangup")
}

// A background process outside the terminal's session keeps the terminal open, yet
// the end of the session's leader is the end of the terminal.
func TestBackgroundProcessDoesNotHoldTheTerminal(t *testing.T) {
	p := open(t)
	cmd := exec.Command("/bin/sh", "-c", "setsid sleep 3 & echo done")
	require.NoError(t, p.Start(cmd))
	start := time.Now()
	out, err := io.ReadAll(p)
	require.NoError(t, err)
	require.Contains(t, string(out), "done\r\n")
	require.Less(t, time.Since(start), 2*time.Second)
	require.NoError(t, cmd.Wait())
}

func TestConcurrentUseAndClose(t *testing.T) {
	for range 100 {
		p := open(t)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { _ = p.Resize(pty.Size{Rows: uint16(i), Cols: 1}) })
			wg.Go(func() { _, _ = p.Write([]byte("x\n")) })
			wg.Go(func() { _, _ = io.Copy(io.Discard, p) })
		}
		wg.Go(func() { _ = p.Close() })
		wg.Wait()
	}
}

func TestStartFailureLeavesTheTerminalUsable(t *testing.T) {
	p := open(t)
	require.Error(t, p.Start(exec.Command("/nonexistent/program")))
	cmd := exec.Command("echo", "still here")
	require.NoError(t, p.Start(cmd))
	out, err := io.ReadAll(p)
	require.NoError(t, err)
	require.Equal(t, "still here\r\n", string(out))
	require.NoError(t, cmd.Wait())
}
