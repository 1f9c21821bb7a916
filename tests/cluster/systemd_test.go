package cluster

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// notifySocket is systemd's end of sd_notify.
type notifySocket struct {
	t    *testing.T
	conn *net.UnixConn
}

func newNotifySocket(t *testing.T) (*notifySocket, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // a test's own directory can be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &notifySocket{t, conn}, path
}

// await reads states until one is want, and returns those before it.
func (n *notifySocket) await(want string) (before []string) {
	n.t.Helper()
	require.NoError(n.t, n.conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 4096)
	for {
		size, err := n.conn.Read(buf)
		require.NoError(n.t, err, "waiting for %s after %v", want, before)
		if string(buf[:size]) == want {
			return before
		}
		before = append(before, string(buf[:size]))
	}
}

// TestServiceManager starts server and agent as systemd does: the server on a socket
// that was open before, both with a watchdog.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	s := &site{t: t, h: newHome(t)}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer port.Close()
	file, err := port.(*net.TCPListener).File()
	require.NoError(t, err)
	defer file.Close()
	s.url = "http://" + port.Addr().String()

	serverStates, path := newNotifySocket(t)
	plain := s.h.env
	s.h.env = append(plain, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh",
		binary, "server", "--state-dir", s.h.path("server"), "--stun-listen", "", "--log-format", "json")
	cmd.ExtraFiles = []*os.File{file}
	s.server = s.h.startCommand(cmd)
	require.Empty(t, serverStates.await("READY=1"))
	serverStates.await("WATCHDOG=1")
	s.h.env = plain
	require.Equal(t, 0, s.h.run("login", s.url, "--code", s.oneTimeCode()).code)
	s.agentEnv = s.h.path("agent-token")
	require.Equal(t, 0, s.h.run("workspace", "create", "dev", "--token-file", s.agentEnv).code)

	agentStates, path := newNotifySocket(t)
	s.h.env = append(plain, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	s.startAgent()
	s.h.env = plain
	require.Empty(t, agentStates.await("READY=1"))
	agentStates.await("WATCHDOG=1")
	env := s.h.run("ssh", "dev", "--", "env")
	require.Equal(t, 0, env.code, env.stderr)
	require.NotContains(t, env.stdout, "NOTIFY_SOCKET", "a session must not speak for the agent")
	require.NotContains(t, env.stdout, "WATCHDOG_")

	s.agent.signal(syscall.SIGTERM)
	agentStates.await("STOPPING=1")
	require.Equal(t, 0, s.agent.wait())
	s.server.signal(syscall.SIGTERM)
	serverStates.await("STOPPING=1")
	require.Equal(t, 0, s.server.wait())
}

// TestUnits has systemd judge the unit files: every line is known to it, and the
// server is exposed to nothing it does not need.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	h := newHome(t)
	dir := h.path("units")
	require.NoError(t, os.Mkdir(dir, 0o700))
	units, err := filepath.Glob("../../deploy/systemd/*")
	require.NoError(t, err)
	require.Len(t, units, 3)
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		require.NoError(t, err)
		here := strings.ReplaceAll(string(text), "/usr/bin/fairlead", binary) // which verify looks for
		name := strings.Replace(filepath.Base(unit), "@", "@root", 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(here), 0o600))
	}
	for _, name := range []string{"fairlead-server.service", "fairlead-server.socket", "fairlead-agent@root.service"} {
		r := h.execute(nil, analyze, "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, name))
		require.Equal(t, 0, r.code, r.stderr)
		require.NotContains(t, r.stderr, dir, "a line that systemd does not know")
	}
	r := h.execute(nil, analyze, "security", "--offline=true", "--threshold=15", filepath.Join(dir, "fairlead-server.service"))
	require.Equal(t, 0, r.code, "exposure above 1.5:\n%s%s", r.stdout, r.stderr)
}
