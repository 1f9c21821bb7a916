package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
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

// ready is the line that `up --output json` prints.
type ready struct {
	URL       string `json:"url"`
	Workspace string `json:"workspace"`
	StateDir  string `json:"state_dir"`
}

// startUp runs `fairlead up` and waits until it is ready.
func startUp(t *testing.T, h *home, args ...string) (*process, ready) {
	t.Helper()
	p := h.start(append([]string{"up", "--state-dir", h.path("up"), "--listen", "127.0.0.1:0",
		"--output", "json", "--log-format", "json"}, args...)...)
	line := p.stdout.awaitText(t, "\n")
	var r ready
	require.NoError(t, json.Unmarshal([]byte(line), &r), line)
	return p, r
}

// TestUp is the newcomer's path: one command here, the client in another terminal.
func TestUp(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	up, r := startUp(t, h)
	require.Equal(t, "local", r.Workspace)
	require.Equal(t, h.path("up"), r.StateDir)

	t.Run("exit codes pass through", func(t *testing.T) {
		require.Equal(t, 7, h.run("ssh", "local", "--", "exit 7").code)
		require.Equal(t, 7, h.run("ssh", "local", "--", "sh", "-c", "exit 7").code)
		r := h.run("ssh", "local", "--", "true")
		require.Equal(t, result{}, r, "a clean command says nothing")
	})
	t.Run("one argument is a command line, several are quoted", func(t *testing.T) {
		require.Equal(t, "a b\n", h.run("ssh", "local", "--", "echo a   b").stdout)
		require.Equal(t, "a   b $HOME\n", h.run("ssh", "local", "--", "echo", "a   b", "$HOME").stdout)
		require.Equal(t, "it's;\n", h.run("ssh", "local", "--", "printf", "%s\n", "it's;").stdout)
	})
	t.Run("stdin, stdout and stderr are separate", func(t *testing.T) {
		r := h.runWith(strings.NewReader("b\na\n"), "ssh", "local", "--", "sort; echo warn >&2; exit 3")
		require.Equal(t, result{3, "a\nb\n", "warn\n"}, r)
	})
	t.Run("an ending that is no exit is told in one line", func(t *testing.T) {
		r := h.run("ssh", "local", "--", "kill -SEGV $$")
		require.Equal(t, 128+int(syscall.SIGSEGV), r.code)
		require.Contains(t, r.stderr, "reason=process_signaled initiator=agent expected=false")
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	})
	t.Run("secrets do not reach the session", func(t *testing.T) {
		require.NotContains(t, h.run("ssh", "local", "--", "env").stdout, "FAIRLEAD_AGENT_TOKEN")
	})
	t.Run("forced relay", func(t *testing.T) {
		require.Equal(t, 5, h.run("ssh", "--force-relay", "local", "--", "exit 5").code)
	})
	t.Run("ls", func(t *testing.T) {
		var list []struct {
			Name  string `json:"name"`
			Agent struct {
				Status string `json:"status"`
			} `json:"agent"`
		}
		require.NoError(t, json.Unmarshal([]byte(h.run("ls", "--output", "json").stdout), &list))
		require.Len(t, list, 1)
		require.Equal(t, "local", list[0].Name)
		require.Equal(t, "online", list[0].Agent.Status)
		require.Contains(t, h.run("ls").stdout, "local")
	})
	t.Run("stock ssh", func(t *testing.T) { stockSSH(t, h) })
	t.Run("the login is private", func(t *testing.T) {
		info, err := os.Stat(h.path("config/profiles.json"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	})

	up.signal(syscall.SIGINT)
	require.Equal(t, 0, up.wait(), "Ctrl-C stops cleanly")
	r2 := h.run("ssh", "local", "--", "true")
	require.Equal(t, 255, r2.code)
	require.Contains(t, r2.stderr, "the server at "+r.URL)
	require.Equal(t, 1, strings.Count(r2.stderr, "\n"), r2.stderr)
}

// stockSSH runs what people already have through the ProxyCommand.
func stockSSH(t *testing.T, h *home) {
	ssh, err := exec.LookPath("ssh")
	require.NoError(t, err, "install the stock OpenSSH client")
	options := []string{"-F", "none", "-o", "ProxyCommand=" + binary + " ssh --stdio local",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + h.path("known_hosts"), "-o", "LogLevel=ERROR", "local"}
	command := func(stdin io.Reader, args ...string) result {
		return h.execute(stdin, ssh, append(append([]string{}, options...), args...)...)
	}
	r := command(nil, "echo hello; exit 3")
	require.Equal(t, 3, r.code, r.stderr)
	require.Equal(t, "hello\n", r.stdout)

	const size = 100 << 20
	data := make([]byte, size)
	fill := rand.NewChaCha8([32]byte{1})
	_, _ = fill.Read(data)
	sum := sha256.Sum256(data)
	r = command(bytes.NewReader(data), "sha256sum")
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stdout, hex.EncodeToString(sum[:]), "100 MB up")

	require.NoError(t, os.WriteFile(h.path("big"), data, 0o600))
	r = command(nil, "cat "+h.path("big"))
	require.Equal(t, 0, r.code, r.stderr)
	got := sha256.Sum256([]byte(r.stdout))
	require.Equal(t, sum, got, "100 MB down")
}

// TestUpTwice: what the first life made is kept, and a second process in the same
// directory is refused.
func TestUpTwice(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	up, _ := startUp(t, h)
	before := h.run("ssh", "local", "--", "echo one")
	require.Equal(t, "one\n", before.stdout, before.stderr)

	second := h.run("up", "--state-dir", h.path("up"), "--listen", "127.0.0.1:0")
	require.Equal(t, 1, second.code)
	require.Contains(t, second.stderr, "another")
	require.Equal(t, 1, strings.Count(second.stderr, "fairlead: "), second.stderr)

	up.signal(syscall.SIGTERM)
	require.Equal(t, 0, up.wait())
	startUp(t, h)
	after := h.run("ssh", "local", "--", "echo two")
	require.Equal(t, "two\n", after.stdout, after.stderr)
}

// TestUpBadInput: one clear sentence for what can go wrong at the start.
func TestUpBadInput(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	t.Run("port in use", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		r := h.run("up", "--state-dir", h.path("a"), "--listen", l.Addr().String())
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, l.Addr().String())
		require.Contains(t, r.stderr, "in use")
	})
	t.Run("state directory not writable", func(t *testing.T) {
		file := h.write("file", "")
		r := h.run("up", "--state-dir", filepath.Join(file, "x"), "--listen", "127.0.0.1:0")
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, filepath.Join(file, "x"))
	})
	t.Run("open to the network without TLS", func(t *testing.T) {
		r := h.run("server", "--state-dir", h.path("b"), "--listen", "0.0.0.0:0")
		require.Equal(t, 1, r.code)
		require.Contains(t, r.stderr, "--behind-proxy")
	})
	t.Run("unknown flag", func(t *testing.T) {
		require.Equal(t, 2, h.run("up", "--no-such-flag").code)
	})
	t.Run("bad value in the environment", func(t *testing.T) {
		h2 := newHome(t)
		h2.env = append(h2.env, "FAIRLEAD_FORCE_RELAY=perhaps")
		r := h2.run("ssh", "local")
		require.Equal(t, 2, r.code)
		require.Contains(t, r.stderr, "FAIRLEAD_FORCE_RELAY")
	})
}

// TestUpSurvivesGarbage: bytes that are no protocol, to every port, end nothing.
func TestUpSurvivesGarbage(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	up, r := startUp(t, h)
	garbage := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(garbage)
	udp := udpPorts(t, up.cmd.Process.Pid)
	require.NotEmpty(t, udp, "STUN, and the node's own socket")
	for _, port := range udp {
		conn, err := net.Dial("udp", "127.0.0.1:"+port)
		require.NoError(t, err)
		for _, size := range []int{0, 1, 20, 148, 1400} { // 148: a WireGuard handshake's
			_, _ = conn.Write(garbage[:size])
		}
		_ = conn.Close()
	}
	ports := tcpPorts(t, up.cmd.Process.Pid)
	require.Contains(t, ports, strings.TrimPrefix(r.URL, "http://127.0.0.1:"))
	for _, port := range ports {
		for _, bytes := range [][]byte{garbage, []byte("GET /\x1b]0;x\x07 HTTP/1.1\r\n\r\n"), {0}} {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			require.NoError(t, err)
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = conn.Write(bytes)
			_, _ = conn.(*net.TCPConn), conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}
	again := h.run("ssh", "local", "--", "exit 9")
	require.Equal(t, 9, again.code, again.stderr)
	require.NotContains(t, up.stderr.String(), "\x1b", "no escape sequence reaches the log")
	require.NotContains(t, up.stderr.String(), "panic")
}

// tcpPorts returns the ports on which pid listens, udpPorts those it is bound to.
func tcpPorts(t *testing.T, pid int) []string {
	const listen = "0A"
	return boundPorts(t, pid, listen, "tcp", "tcp6")
}

func udpPorts(t *testing.T, pid int) []string {
	const unconnected = "07"
	return boundPorts(t, pid, unconnected, "udp", "udp6")
}

// boundPorts reads /proc for the sockets of pid in a state.
func boundPorts(t *testing.T, pid int, state string, tables ...string) []string {
	t.Helper()
	inodes := map[string]bool{}
	fds := filepath.Join("/proc", itoa(pid), "fd")
	entries, err := os.ReadDir(fds)
	require.NoError(t, err)
	for _, e := range entries {
		link, _ := os.Readlink(filepath.Join(fds, e.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var ports []string
	for _, table := range tables {
		data, err := os.ReadFile("/proc/net/" + table)
		require.NoError(t, err)
		for _, line := range strings.Split(string(data), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == state && inodes[f[9]] {
				_, hexPort, _ := strings.Cut(f[1], ":")
				ports = append(ports, itoa(int(parseHex(t, hexPort))))
			}
		}
	}
	return ports
}
