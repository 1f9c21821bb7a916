//go:build unix

package agentssh_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
	"fairlead.dev/fairlead/testutil"
)

// openSSH returns the stock client's command for h, with a host key that it knows.
func (h *host) openSSH(args ...string) *exec.Cmd {
	h.t.Helper()
	program, err := exec.LookPath("ssh")
	if err != nil {
		h.t.Skip("the stock ssh client is not installed (package openssh-client)")
	}
	known := filepath.Join(h.t.TempDir(), "known_hosts")
	line := knownhosts.Line([]string{h.addr}, h.key.PublicKey()) + "\n"
	require.NoError(h.t, os.WriteFile(known, []byte(line), 0o600))
	all := append([]string{
		"-F", "none", "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none", "-o", "LogLevel=ERROR",
		"-p", port(h.addr),
	}, args...)
	cmd := exec.CommandContext(testutil.Context(h.t, patience), program, all...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=")
	return cmd
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}

func TestOpenSSHStatus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		command string
		code    int // of ssh
		reason  disconnect.Reason
		detail  string
	}{
		{"true", 0, disconnect.Graceful, "normal exit"},
		{"exit 42", 42, disconnect.ProcessExited, "process exited with error status: 42"},
		{"kill -9 $$", 255, disconnect.ProcessSignaled, "process killed by signal: SIGKILL"},
	} {
		h := newHost(t, nil)
		err := h.openSSH("127.0.0.1", tc.command).Run()
		require.Equal(t, tc.code, exitCode(err), tc.command)
		e := h.ending()
		require.Equal(t, tc.reason, e.A.Reason)
		require.Equal(t, disconnect.Agent, e.A.Initiator)
		require.Equal(t, tc.detail, e.A.Detail)
	}
}

func TestOpenSSHStreams(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	const size = 16 << 20
	want := sha256.New()
	_, err := io.Copy(want, io.LimitReader(&counter{}, size))
	require.NoError(t, err)
	got := sha256.New()
	cmd := h.openSSH("-o", "SetEnv=FROM_CLIENT=yes", "anyone@127.0.0.1", `cat; echo "$FROM_CLIENT" >&2`)
	cmd.Stdin, cmd.Stdout = io.LimitReader(&counter{}, size), got
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Run())
	require.Equal(t, hex.EncodeToString(want.Sum(nil)), hex.EncodeToString(got.Sum(nil)))
	require.Equal(t, "yes\n", stderr.String())
	h.expect(disconnect.Graceful, disconnect.Agent, "normal exit", 0)
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Equal(t, "anyone", h.sessions[0].User)
	require.Contains(t, h.sessions[0].ClientVersion, "OpenSSH")
}

// counter reads as bytes that do not repeat soon.
type counter struct{ n uint32 }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		c.n = c.n*1664525 + 1013904223
		b[i] = byte(c.n >> 24)
	}
	return len(b), nil
}

// login runs the stock client on a terminal of its own.
func (h *host) login(args ...string) (pty.PTY, *bufio.Reader, *exec.Cmd) {
	h.t.Helper()
	cmd := h.openSSH(append([]string{"-tt"}, args...)...)
	p, err := pty.Open()
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = p.Close() })
	require.NoError(h.t, p.Resize(pty.Size{Rows: 31, Cols: 97}))
	require.NoError(h.t, p.Start(cmd))
	return p, bufio.NewReader(p), cmd
}

// until reads lines until one contains text.
func until(t *testing.T, r *bufio.Reader, text string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, text) {
			return line
		}
		require.NoError(t, err, "waiting for %q, read %q", text, line)
	}
}

func TestOpenSSHTerminal(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	p, r, cmd := h.login("127.0.0.1", `trap 'stty size; exit 6' WINCH; stty size; while :; do sleep 0.02; done`)
	require.Contains(t, until(t, r, "31 97"), "31 97")
	require.NoError(t, p.Resize(pty.Size{Rows: 40, Cols: 120}))
	require.Contains(t, until(t, r, "40 120"), "40 120")
	_, _ = io.Copy(io.Discard, r)
	require.Equal(t, 6, exitCode(cmd.Wait()))
	h.expect(disconnect.ProcessExited, disconnect.Agent, "status: 6", 6)
}

func TestOpenSSHLoginShell(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	p, r, cmd := h.login("127.0.0.1")
	_, err := io.WriteString(p, "stty -echo; echo sum=$((40+2))\n")
	require.NoError(t, err)
	until(t, r, "sum=42")
	_, err = io.WriteString(p, "exit 9\n")
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, r)
	require.Equal(t, 9, exitCode(cmd.Wait()))
	h.expect(disconnect.ProcessExited, disconnect.Agent, "status: 9", 9)
}

func TestOpenSSHEscape(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	line := newLifeline(t)
	p, r, cmd := h.login("127.0.0.1", "exec 9>"+line.path+"; echo ready; sleep 1000")
	until(t, r, "ready")
	_, err := io.WriteString(p, "\r~.")
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, r)
	require.Equal(t, 255, exitCode(cmd.Wait()))
	h.expect(disconnect.ClientClosed, disconnect.Client, "", -1)
	line.wait(t)
}

func TestOpenSSHInterrupted(t *testing.T) {
	t.Parallel()
	for sig, want := range map[syscall.Signal]disconnect.Attribution{
		syscall.SIGINT:  {Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "disconnected by user"},
		syscall.SIGKILL: {Reason: disconnect.NetworkError, Initiator: disconnect.Network},
	} {
		for _, command := range []string{"sleep 1000", "cat"} {
			t.Run(sig.String()+"/"+command, func(t *testing.T) {
				h := newHost(t, nil)
				line := newLifeline(t)
				cmd := h.openSSH("127.0.0.1", "exec 9>"+line.path+"; echo ready; "+command)
				in, err := cmd.StdinPipe()
				require.NoError(t, err)
				defer in.Close()
				out, err := cmd.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				until(t, bufio.NewReader(out), "ready")
				require.NoError(t, cmd.Process.Signal(sig))
				require.Error(t, cmd.Wait())
				h.expect(want.Reason, want.Initiator, want.Detail, -1)
				line.wait(t)
			})
		}
	}
}

func TestOpenSSHReadsWhyTheAgentStops(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	cmd := h.openSSH("127.0.0.1", "echo ready; sleep 1000")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	until(t, bufio.NewReader(out), "ready")
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	require.Equal(t, 255, exitCode(cmd.Wait()))
	require.Contains(t, stderr.String(), "fairlead: session ended by agent: server_shutdown: agent is stopping\n")
	h.expect(disconnect.ServerShutdown, disconnect.Agent, "agent is stopping", -1)
}

// Several sessions over one connection, one of them left with its master alive.
func TestOpenSSHMultiplexing(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	dir, err := os.MkdirTemp("", "mux") // short: it is a socket's path
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	control := "ControlPath=" + filepath.Join(dir, "s")
	master := h.openSSH("-o", control, "-M", "127.0.0.1", "echo ready; sleep 1000")
	out, err := master.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, master.Start())
	until(t, bufio.NewReader(out), "ready")
	for i := range 3 {
		err := h.openSSH("-o", control, "127.0.0.1", "exit "+strconv.Itoa(i)).Run()
		require.Equal(t, i, exitCode(err))
	}
	slave := h.openSSH("-o", control, "127.0.0.1", "echo ready; sleep 1000")
	slaveOut, err := slave.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, slave.Start())
	until(t, bufio.NewReader(slaveOut), "ready")
	require.NoError(t, slave.Process.Kill())
	require.Error(t, slave.Wait())
	ends := h.endings(4)
	require.Equal(t, disconnect.ClientClosed, ends[3].A.Reason)
	require.NoError(t, master.Process.Signal(syscall.SIGTERM))
	require.Error(t, master.Wait())
	require.Equal(t, disconnect.Client, h.endings(5)[4].A.Initiator)
}

// TestSSHAudit: the auditor finds nothing that it would have off.
func TestSSHAudit(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("ssh-audit")
	if err != nil {
		t.Skip("ssh-audit is not installed (package ssh-audit)")
	}
	h := newHost(t, nil)
	out, err := exec.CommandContext(testutil.Context(t, patience), program, "-4", "-n", "-p", port(h.addr), "127.0.0.1").CombinedOutput()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(t, err, &exit)
		require.Less(t, exit.ExitCode(), 3, "3 is what it calls a failure\n%s", out) // 2: warnings
	}
	require.Contains(t, string(out), "(kex) curve25519-sha256")
	require.NotContains(t, string(out), "[fail]")
}
