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

	"fairlead.dev/fairlead/tests/site"
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
	require.NoError(n.t, n.conn.SetReadDeadline(time.Now().Add(site.Patience)))
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
	s := site.Empty(t)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer port.Close()
	file, err := port.(*net.TCPListener).File()
	require.NoError(t, err)
	defer file.Close()
	s.Address = port.Addr().String()
	s.URL = "http://" + s.Address

	serverStates, path := newNotifySocket(t)
	plain := s.Env
	s.Setenv("NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh",
		site.Binary, "server", "--state-dir", s.Path("server"), "--stun-listen", "", "--log-format", "json")
	cmd.ExtraFiles = []*os.File{file}
	s.Server = s.StartCommand(cmd)
	require.Empty(t, serverStates.await("READY=1"))
	serverStates.await("WATCHDOG=1")
	s.Env = plain
	s.Settle()

	agentStates, path := newNotifySocket(t)
	s.Setenv("NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	s.StartAgent()
	s.Env = plain
	require.Empty(t, agentStates.await("READY=1"))
	agentStates.await("WATCHDOG=1")
	env := s.Run("ssh", "dev", "--", "env")
	require.Equal(t, 0, env.Code, env.Stderr)
	require.NotContains(t, env.Stdout, "NOTIFY_SOCKET", "a session must not speak for the agent")
	require.NotContains(t, env.Stdout, "WATCHDOG_")

	s.Agent.Signal(syscall.SIGTERM)
	agentStates.await("STOPPING=1")
	require.Equal(t, 0, s.Agent.Wait())
	s.Server.Signal(syscall.SIGTERM)
	serverStates.await("STOPPING=1")
	require.Equal(t, 0, s.Server.Wait())
}

// TestUnits has systemd judge the unit files: every line is known to it, and the
// server is exposed to nothing it does not need.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	h := site.NewHome(t)
	dir := h.Path("units")
	require.NoError(t, os.Mkdir(dir, 0o700))
	units, err := filepath.Glob("../../deploy/systemd/*")
	require.NoError(t, err)
	require.Len(t, units, 4)
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		require.NoError(t, err)
		here := strings.ReplaceAll(string(text), "/usr/bin/fairlead", site.Binary) // which verify looks for
		name := strings.Replace(filepath.Base(unit), "@", "@root", 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(here), 0o600))
		if withTLS := strings.NewReplacer("#LoadCredential", "LoadCredential", "#Environment", "Environment").Replace(here); withTLS != here {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tls-"+name), []byte(withTLS), 0o600))
		}
	}
	for _, name := range []string{"fairlead-server.service", "fairlead-server.socket", "fairlead-agent@root.service", "fairlead-relay.service", "tls-fairlead-server.service", "tls-fairlead-relay.service"} {
		r := h.Execute(nil, analyze, "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, name))
		require.Equal(t, 0, r.Code, r.Stderr)
		require.NotContains(t, r.Stderr, dir, "a line that systemd does not know")
	}
	for _, name := range []string{"fairlead-server.service", "fairlead-relay.service"} {
		r := h.Execute(nil, analyze, "security", "--offline=true", "--threshold=15", filepath.Join(dir, name))
		require.Equal(t, 0, r.Code, "%s: exposure above 1.5:\n%s%s", name, r.Stdout, r.Stderr)
	}
}
