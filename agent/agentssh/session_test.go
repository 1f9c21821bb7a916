//go:build unix

package agentssh_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
)

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }

func TestExecKeepsStreamsAndStatusApart(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr = &stdout, &stderr
	s.Stdin = strings.NewReader("c\na\nb\n")
	err := s.Run("sort; echo oops >&2; exit 7")
	var exit *ssh.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitStatus())
	require.Equal(t, "a\nb\nc\n", stdout.String())
	require.Equal(t, "oops\n", stderr.String())
	h.expect(disconnect.ProcessExited, disconnect.Agent, "process exited with error status: 7", 7)
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, "someone", h.sessions[0].User)
	require.Equal(t, "SSH-2.0-Go", h.sessions[0].ClientVersion)
	require.Equal(t, agentssh.KindExec, h.sessions[0].Kind)
	require.Equal(t, "127.0.0.1", h.sessions[0].RemoteAddr.(*net.TCPAddr).IP.String())
}

func TestConnectionWithoutAddresses(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	ours, served := h.serveConn(func(nc net.Conn) net.Conn { return nowhereConn{nc} })
	client := h.client(ours)
	s, err := client.NewSession()
	require.NoError(t, err)
	out, err := s.Output(`echo "[$SSH_CONNECTION]"`)
	require.NoError(t, err)
	require.Equal(t, "[]\n", string(out))
	require.NoError(t, client.Close())
	wait(t, served, "connection is still served")
	h.expect(disconnect.Graceful, disconnect.Agent, "normal exit", 0)
}

// nowhereConn has addresses that say nothing.
type nowhereConn struct{ net.Conn }

func (nowhereConn) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "nowhere"} }
func (nowhereConn) LocalAddr() net.Addr  { return nil }

func TestEnvironment(t *testing.T) {
	t.Setenv("FAIRLEAD_AGENT_TOKEN", "secret")
	t.Setenv("PRIVATE_A", "secret")
	t.Setenv("SSH_TTY", "/dev/of-the-agent")
	dir := t.TempDir()
	h := newHost(t, func(c *agentssh.Config) {
		c.StripEnv = []string{"FAIRLEAD_AGENT_TOKEN", "PRIVATE_"}
		c.Settings = func() agentssh.Settings {
			return agentssh.Settings{Directory: dir, Environment: map[string]string{
				"FROM_MANIFEST": "one", "BOTH": "manifest", "PRIVATE_B": "secret",
			}}
		}
	})
	s, _, raw := h.session()
	for name, ok := range map[string]bool{
		"FROM_CLIENT": true, "BOTH": true, "FAIRLEAD_APP": true, "LC_ALL": true,
		"LD_PRELOAD": false, "BASH_ENV": false, "1BAD": false, "A=B": false, "": false, "HOME": false,
	} {
		err := s.Setenv(name, "client")
		require.Equal(t, ok, err == nil, "%q: %v", name, err)
	}
	require.NoError(t, s.Setenv("FAIRLEAD_AGENT_TOKEN", "client's"), "stripped, not refused")
	out, err := s.Output("env; pwd")
	require.NoError(t, err)
	lines := "\n" + string(out)
	for _, want := range []string{
		"FROM_MANIFEST=one", "FROM_CLIENT=client", "BOTH=client", "HOME=" + os.Getenv("HOME"), dir,
		fmt.Sprintf("SSH_CONNECTION=127.0.0.1 %d 127.0.0.1 %s", raw.LocalAddr().(*net.TCPAddr).Port, port(h.addr)),
	} {
		require.Contains(t, lines, "\n"+want+"\n")
	}
	for _, never := range []string{"secret", "FAIRLEAD_AGENT_TOKEN", "SSH_TTY"} {
		require.NotContains(t, lines, never)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, agentssh.App{Name: "client", Source: agentssh.AppDeclared}, h.sessions[0].App)
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

func TestMissingDirectoryAndHome(t *testing.T) {
	home := os.Getenv("HOME")
	t.Setenv("HOME", "") // restores it afterwards
	require.NoError(t, os.Unsetenv("HOME"))
	h := newHost(t, func(c *agentssh.Config) {
		c.Settings = func() agentssh.Settings {
			return agentssh.Settings{Directory: filepath.Join(home, "missing")}
		}
	})
	s, _, _ := h.session()
	out, err := s.Output(`pwd; test -n "$HOME" && echo "home is set"`)
	require.NoError(t, err)
	require.Equal(t, "/\nhome is set\n", string(out))
	found := false
	for _, r := range h.rec.Records() {
		found = found || r.Message == "ssh session directory is missing"
	}
	require.True(t, found, "a warning says so")
}

func TestLoginShellOnTerminal(t *testing.T) {
	dir := t.TempDir()
	motd := filepath.Join(dir, "motd")
	require.NoError(t, os.WriteFile(motd, []byte("welcome\naboard\n"), 0o600))
	h := newHost(t, func(c *agentssh.Config) {
		c.Settings = func() agentssh.Settings { return agentssh.Settings{MOTDFile: motd} }
	})
	for _, hushed := range []bool{false, true} {
		if hushed {
			hush := filepath.Join(os.Getenv("HOME"), ".hushlogin")
			require.NoError(t, os.WriteFile(hush, nil, 0o600))
			t.Cleanup(func() { _ = os.Remove(hush) })
		}
		s, _, _ := h.session()
		require.NoError(t, s.RequestPty("vt220", 41, 107, ssh.TerminalModes{ssh.ECHO: 0}))
		in, err := s.StdinPipe()
		require.NoError(t, err)
		out, err := s.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, s.Shell())
		_, err = io.WriteString(in, "echo \"<$0 $TERM $(stty size) $(tty)=$SSH_TTY>\"\nexit 4\n")
		require.NoError(t, err)
		text, err := io.ReadAll(out)
		require.NoError(t, err)
		require.Regexp(t, `<-\S*sh vt220 41 107 (\S+)=/dev/\S+>`, string(text))
		require.Equal(t, !hushed, strings.Contains(string(text), "welcome\r\naboard\r\n"), "%q", text)
		var exit *ssh.ExitError
		require.ErrorAs(t, s.Wait(), &exit)
		require.Equal(t, 4, exit.ExitStatus())
	}
}

func TestEndOfInputIsNotTheEnd(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	s.Stdin = strings.NewReader("x")
	out, err := s.Output("cat >/dev/null; sleep 0.2; echo after")
	require.NoError(t, err)
	require.Equal(t, "after\n", string(out))

	s, _, _ = h.session()
	require.NoError(t, s.RequestPty("vt100", 2, 2, nil))
	in, err := s.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, in.Close())
	out, err = s.Output("sleep 0.2; echo after")
	require.NoError(t, err)
	require.Equal(t, "after\r\n", string(out))
	for _, e := range h.endings(2) {
		require.Equal(t, disconnect.Graceful, e.A.Reason)
	}
}

// A process may close its input while the client still sends.
func TestProcessThatDoesNotRead(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	in, err := s.StdinPipe()
	require.NoError(t, err)
	gate := filepath.Join(t.TempDir(), "gate")
	require.NoError(t, mkfifo(gate))
	var out bytes.Buffer
	s.Stdout = &out
	require.NoError(t, s.Start("exec <&-; read x <"+gate+"; echo done"))
	_, err = io.CopyN(in, zeros{}, 8<<20) // four times the channel's window
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(gate, []byte("go\n"), 0o600))
	require.NoError(t, s.Wait())
	require.Equal(t, "done\n", out.String())
	h.expect(disconnect.Graceful, disconnect.Agent, "normal exit", 0)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestBulkOutputKeepsItsChecksum(t *testing.T) {
	t.Parallel()
	const last = "12500000" // about 100 MB
	want := sha256.New()
	local := exec.Command("seq", "1", last)
	local.Stdout = want
	require.NoError(t, local.Run())

	h := newHost(t, nil)
	s, _, _ := h.session()
	got := sha256.New()
	s.Stdout = got
	require.NoError(t, s.Run("seq 1 "+last))
	require.Equal(t, hex.EncodeToString(want.Sum(nil)), hex.EncodeToString(got.Sum(nil)))
}

func TestClientThatDoesNotReadBlocksNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	stuck, client, _ := h.session()
	out, err := stuck.StdoutPipe() // never read: only its window is full
	require.NoError(t, err)
	require.NoError(t, stuck.Start("yes"))
	buf := make([]byte, 1)
	_, err = out.Read(buf)
	require.NoError(t, err)

	for range 5 {
		s, err := client.NewSession()
		require.NoError(t, err)
		text, err := s.Output("echo fine")
		require.NoError(t, err)
		require.Equal(t, "fine\n", string(text))
	}
	require.NoError(t, stuck.Close())
	for _, e := range h.endings(6)[5:] {
		require.Equal(t, disconnect.ClientClosed, e.A.Reason)
		require.Equal(t, -1, e.ExitCode)
	}
}

func TestManySessionsOnOneConnection(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	const n = 200
	var open, wg sync.WaitGroup
	open.Add(n)
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			s, err := client.NewSession()
			if err != nil {
				open.Done()
				errs <- err
				return
			}
			in, _ := s.StdinPipe()
			var out bytes.Buffer
			s.Stdout = &out
			err = s.Start("read x; echo $x; exit " + strconv.Itoa(i%3))
			open.Done()
			open.Wait() // all of them are there at once
			fmt.Fprintln(in, i)
			err = errors.Join(err, s.Wait())
			var exit *ssh.ExitError
			if code := i % 3; code > 0 && (!errors.As(err, &exit) || exit.ExitStatus() != code) || code == 0 && err != nil {
				errs <- fmt.Errorf("session %d: %w", i, err)
			}
			if out.String() != strconv.Itoa(i)+"\n" {
				errs <- fmt.Errorf("session %d said %q", i, out.String())
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	require.Len(t, h.endings(n), n)
}

func TestWindowChangesInParallel(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	require.NoError(t, s.RequestPty("vt100", 10, 10, nil))
	in, err := s.StdinPipe()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("stty -echo; echo ready; read x; stty size"))
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\r\n", line)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { _ = s.WindowChange(i+1, i+1) })
	}
	wg.Wait()
	require.NoError(t, s.WindowChange(55, 66))
	_, err = s.SendRequest("keepalive@openssh.com", true, nil) // the change has no answer of its own
	require.NoError(t, err)
	_, err = io.WriteString(in, "\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "55 66\r\n", string(rest))
	require.NoError(t, s.Wait())
}

func TestWhatIsNotSupportedIsRefusedInWords(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()

	_, _, err := client.OpenChannel("x11", nil)
	require.ErrorContains(t, err, "unsupported channel type: x11")
	ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
	require.NoError(t, err)
	require.True(t, ok)
	ok, _, err = client.SendRequest("whatever@example.com", true, nil)
	require.NoError(t, err)
	require.False(t, ok)

	s, err := client.NewSession()
	require.NoError(t, err)
	stderr, err := s.StderrPipe()
	require.NoError(t, err)
	require.Error(t, s.RequestSubsystem("netconf"))
	line, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "fairlead: subsystem \"netconf\" is not supported by this agent yet\n", line)
	for _, name := range []string{"break", "nonsense"} {
		ok, err := s.SendRequest(name, true, nil)
		require.NoError(t, err)
		require.False(t, ok, name)
	}
	for _, name := range []string{"pty-req", "env", "exec", "window-change", "signal"} {
		ok, err := s.SendRequest(name, true, []byte{1})
		require.NoError(t, err)
		require.False(t, ok, "%s with a malformed payload", name)
	}
	// The same channel can still run something, but only once.
	require.NoError(t, s.Start("sleep 1000"))
	ok, err = s.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"true"}))
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, s.Close())
	h.expect(disconnect.ClientClosed, disconnect.Client, "client closed the session", -1)
}

// A session whose channel never runs anything is no session, and holds nothing.
func TestChannelThatRunsNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, client, _ := h.session()
	require.NoError(t, s.RequestPty("vt100", 2, 2, nil))
	require.NoError(t, s.Close())
	s, err := client.NewSession()
	require.NoError(t, err)
	require.NoError(t, s.RequestPty("vt100", 2, 2, nil))
	require.NoError(t, h.Close(context.Background(), goodbye))
	require.Error(t, client.Wait())
	require.Empty(t, h.rec.Endings())
}

func TestProcessesThatOutliveTheSession(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	for _, start := range []string{
		"setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1 </dev/null' &", // a daemon
		"sleep 1000 >/dev/null 2>&1 </dev/null & echo $!",                      // a background job, as with sshd
	} {
		s, client, _ := h.session()
		out, err := s.Output(start)
		require.NoError(t, err)
		require.NoError(t, client.Close())
		pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, 0), "%s", start)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	for _, e := range h.endings(2) {
		require.Equal(t, disconnect.Graceful, e.A.Reason)
	}
}

// A grandchild that holds the pipes keeps the channel open, as with sshd: its output
// is wanted. That the process ended first remains the cause.
func TestGrandchildHoldsThePipes(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	out, err := s.Output("(sleep 0.2; echo late) & echo early")
	require.NoError(t, err)
	require.Equal(t, "early\nlate\n", string(out))
	h.expect(disconnect.Graceful, disconnect.Agent, "normal exit", 0)
}

func TestGrandchildHoldsThePipesUntilTheClientLeaves(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	line := newLifeline(t)
	s, _, _ := h.session()
	_, err := s.StdinPipe() // so that its input does not end
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("exec 9>"+line.path+"; sleep 1000 & echo $$"))
	text, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	h.waitGone(strings.TrimSpace(text))
	require.NoError(t, s.Close())
	h.expect(disconnect.Graceful, disconnect.Agent, "normal exit", 0)
	line.wait(t)
}

// waitGone returns when the process is gone and the server had time to see that.
func (h *host) waitGone(pid string) {
	h.t.Helper()
	n, err := strconv.Atoi(pid)
	require.NoError(h.t, err)
	require.Eventually(h.t, func() bool { return syscall.Kill(n, 0) == syscall.ESRCH }, patience, 5*time.Millisecond)
	for range 5 {
		client, _ := h.dial()
		require.NoError(h.t, client.Close())
	}
}

// On a terminal the end of the shell is the end of the session, whatever it left.
func TestTerminalEndsWithItsShell(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	require.NoError(t, s.RequestPty("vt100", 2, 2, nil))
	out, err := s.Output("setsid sleep 5 & echo done")
	require.NoError(t, err)
	require.Equal(t, "done\r\n", string(out))
	h.expect(disconnect.Graceful, disconnect.Agent, "normal exit", 0)
}

// A client may close the channel as soon as it saw the end of the output. The status
// must not come after that.
func TestStatusComesBeforeTheEndOfOutput(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	for _, command := range []string{"echo x; exit 3", "kill -9 $$"} {
		ch, requests, err := client.OpenChannel("session", nil)
		require.NoError(t, err)
		ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{command}))
		require.NoError(t, err)
		require.True(t, ok)
		_, err = io.Copy(io.Discard, ch)
		require.NoError(t, err)
		select {
		case r := <-requests:
			require.Contains(t, r.Type, "exit-")
		default:
			t.Error("no status")
		}
		_ = ch.Close()
		ssh.DiscardRequests(requests)
	}
}

// Not parallel: it counts the descriptors of the whole process.
func TestNoDescriptorStaysOpen(t *testing.T) {
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("this system does not list open descriptors")
		}
		return len(all)
	}
	use := func(sessions int) {
		h := newHost(t, nil)
		client, _ := h.dial()
		for i := range sessions {
			s, err := client.NewSession()
			require.NoError(t, err)
			if i%2 == 1 {
				require.NoError(t, s.RequestPty("vt100", 2, 2, nil))
			}
			switch i % 3 {
			case 0:
				require.NoError(t, s.Run("true"))
			case 1:
				require.NoError(t, s.Start("sleep 1000"))
				require.NoError(t, s.Close())
			case 2:
				require.NoError(t, s.Close())
			}
		}
		require.NoError(t, h.Close(context.Background(), goodbye))
		_ = client.Wait()
	}
	use(3)
	before := count()
	use(30)
	require.LessOrEqual(t, count(), before+3, "30 sessions left something")
}

// TestRecordComesFirst: the tracker hears of a session before its request is answered, and
// of its end before the exit status is sent. What a client has seen is then on record,
// whenever the agent dies.
func TestRecordComesFirst(t *testing.T) {
	t.Parallel()
	begin, end := make(chan struct{}), make(chan struct{})
	h := newHost(t, func(c *agentssh.Config) {
		track := c.Track
		c.Track = func(s agentssh.Session) (string, func(agentssh.Ended)) {
			<-begin
			id, ended := track(s)
			return id, func(e agentssh.Ended) {
				<-end
				ended(e)
			}
		}
	})
	_, client, _ := h.session()
	ch, requests, err := client.OpenChannel("session", nil)
	require.NoError(t, err)
	heard := func(f func() error) <-chan error {
		done := make(chan error, 1)
		go func() { done <- f() }()
		select {
		case err := <-done:
			t.Error("the client heard of it before it was on record")
			done <- err
		case <-time.After(100 * time.Millisecond):
		}
		return done
	}
	started := heard(func() error {
		_, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"exit 4"}))
		return err
	})
	close(begin)
	require.NoError(t, <-started)
	over := heard(func() error {
		if req := <-requests; req == nil || req.Type != "exit-status" {
			return errors.New("no exit status")
		}
		return nil
	})
	close(end)
	require.NoError(t, <-over)
}
