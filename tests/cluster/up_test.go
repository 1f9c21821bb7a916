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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestUp is the newcomer's path: one command here, the client in another terminal.
func TestUp(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, url := site.StartUp(h)

	t.Run("exit codes pass through", func(t *testing.T) {
		require.Equal(t, 7, h.Run("ssh", "local", "--", "exit 7").Code)
		require.Equal(t, 7, h.Run("ssh", "local", "--", "sh", "-c", "exit 7").Code)
		r := h.Run("ssh", "local", "--", "true")
		require.Equal(t, site.Result{}, r, "a clean command says nothing")
	})
	t.Run("one argument is a command line, several are quoted", func(t *testing.T) {
		require.Equal(t, "a b\n", h.Run("ssh", "local", "--", "echo a   b").Stdout)
		require.Equal(t, "a   b $HOME\n", h.Run("ssh", "local", "--", "echo", "a   b", "$HOME").Stdout)
		require.Equal(t, "it's;\n", h.Run("ssh", "local", "--", "printf", "%s\n", "it's;").Stdout)
	})
	t.Run("stdin, stdout and stderr are separate", func(t *testing.T) {
		r := h.RunWith(strings.NewReader("b\na\n"), "ssh", "local", "--", "sort; echo warn >&2; exit 3")
		require.Equal(t, site.Result{Code: 3, Stdout: "a\nb\n", Stderr: "warn\n"}, r)
	})
	t.Run("an ending that is no exit is told in one line", func(t *testing.T) {
		r := h.Run("ssh", "local", "--", "kill -SEGV $$")
		require.Equal(t, 128+int(syscall.SIGSEGV), r.Code)
		require.Contains(t, r.Stderr, "reason=process_signaled initiator=agent expected=false")
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
	})
	t.Run("secrets do not reach the session", func(t *testing.T) {
		require.NotContains(t, h.Run("ssh", "local", "--", "env").Stdout, "FAIRLEAD_AGENT_TOKEN")
	})
	t.Run("forced relay", func(t *testing.T) {
		require.Equal(t, 5, h.Run("ssh", "--force-relay", "local", "--", "exit 5").Code)
	})
	t.Run("ls", func(t *testing.T) {
		var list []struct {
			Name  string `json:"name"`
			Agent struct {
				Status string `json:"status"`
			} `json:"agent"`
		}
		require.NoError(t, json.Unmarshal([]byte(h.Run("ls", "--output", "json").Stdout), &list))
		require.Len(t, list, 1)
		require.Equal(t, "local", list[0].Name)
		require.Equal(t, "online", list[0].Agent.Status)
		require.Contains(t, h.Run("ls").Stdout, "local")
	})
	t.Run("stock ssh", func(t *testing.T) { stockSSH(t, h) })
	t.Run("the login is private", func(t *testing.T) {
		info, err := os.Stat(h.Path("config/profiles.json"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	})

	up.Signal(syscall.SIGINT)
	require.Equal(t, 0, up.Wait(), "Ctrl-C stops cleanly")
	r2 := h.Run("ssh", "local", "--", "true")
	require.Equal(t, 255, r2.Code)
	require.Contains(t, r2.Stderr, "the server at "+url)
	require.Equal(t, 1, strings.Count(r2.Stderr, "\n"), r2.Stderr)
}

// stockSSH runs what people already have through the ProxyCommand.
func stockSSH(t *testing.T, h *site.Home) {
	ssh, err := exec.LookPath("ssh")
	require.NoError(t, err, "install the stock OpenSSH client")
	options := []string{"-F", "none", "-o", "ProxyCommand=" + site.Binary + " ssh --stdio local",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + h.Path("known_hosts"), "-o", "LogLevel=ERROR", "local"}
	command := func(stdin io.Reader, args ...string) site.Result {
		return h.Execute(stdin, ssh, append(append([]string{}, options...), args...)...)
	}
	r := command(nil, "echo hello; exit 3")
	require.Equal(t, 3, r.Code, r.Stderr)
	require.Equal(t, "hello\n", r.Stdout)

	const size = 100 << 20
	data := make([]byte, size)
	fill := rand.NewChaCha8([32]byte{1})
	_, _ = fill.Read(data)
	sum := sha256.Sum256(data)
	r = command(bytes.NewReader(data), "sha256sum")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, hex.EncodeToString(sum[:]), "100 MB up")

	require.NoError(t, os.WriteFile(h.Path("big"), data, 0o600))
	r = command(nil, "cat "+h.Path("big"))
	require.Equal(t, 0, r.Code, r.Stderr)
	got := sha256.Sum256([]byte(r.Stdout))
	require.Equal(t, sum, got, "100 MB down")
}

// TestUpTwice: what the first life made is kept, and a second process in the same
// directory is refused.
func TestUpTwice(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, _ := site.StartUp(h)
	before := h.Run("ssh", "local", "--", "echo one")
	require.Equal(t, "one\n", before.Stdout, before.Stderr)

	sh := h.OpenShell("local")
	login := read(t, h.Path("config/profiles.json"))
	second := h.Run("up", "--state-dir", h.Path("up"), "--listen", "127.0.0.1:0")
	require.Equal(t, 1, second.Code)
	require.Contains(t, second.Stderr, "another")
	require.Equal(t, 1, strings.Count(second.Stderr, "\n"), second.Stderr)
	require.Empty(t, second.Stdout)
	require.Equal(t, login, read(t, h.Path("config/profiles.json")))
	sh.Echo("the-first-goes-on")

	up.Stop()
	site.StartUp(h)
	after := h.Run("ssh", "local", "--", "echo two")
	require.Equal(t, "two\n", after.Stdout, after.Stderr)
}

// TestUpBadInput: one clear sentence for what can go wrong at the start.
func TestUpBadInput(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	t.Run("port in use", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		r := h.Run("up", "--state-dir", h.Path("a"), "--listen", l.Addr().String())
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, l.Addr().String())
		require.Contains(t, r.Stderr, "in use")
	})
	t.Run("state directory not writable", func(t *testing.T) {
		file := h.Write("file", "")
		r := h.Run("up", "--state-dir", filepath.Join(file, "x"), "--listen", "127.0.0.1:0")
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, filepath.Join(file, "x"))
	})
	t.Run("open to the network without TLS", func(t *testing.T) {
		r := h.Run("server", "--state-dir", h.Path("b"), "--listen", "0.0.0.0:0")
		require.Equal(t, 2, r.Code)
		require.Contains(t, r.Stderr, "--behind-proxy")
	})
	t.Run("unknown flag", func(t *testing.T) {
		require.Equal(t, 2, h.Run("up", "--no-such-flag").Code)
	})
	t.Run("bad value in the environment", func(t *testing.T) {
		h2 := site.NewHome(t)
		h2.Setenv("FAIRLEAD_FORCE_RELAY=perhaps")
		r := h2.Run("ssh", "local")
		require.Equal(t, 2, r.Code)
		require.Contains(t, r.Stderr, "FAIRLEAD_FORCE_RELAY")
	})
}

// TestUpSurvivesGarbage: bytes that are no protocol, to every port, end nothing.
func TestUpSurvivesGarbage(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, url := site.StartUp(h)
	garbage := make([]byte, 64<<10)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(garbage)
	udp := udpPorts(t, up.Cmd.Process.Pid)
	require.NotEmpty(t, udp, "STUN, and the node's own socket")
	for _, port := range udp {
		conn, err := net.Dial("udp", "127.0.0.1:"+port)
		require.NoError(t, err)
		for _, size := range []int{0, 1, 20, 148, 1400} { // 148: a WireGuard handshake's
			_, _ = conn.Write(garbage[:size])
		}
		_ = conn.Close()
	}
	ports := tcpPorts(t, up.Cmd.Process.Pid)
	require.Contains(t, ports, strings.TrimPrefix(url, "http://127.0.0.1:"))
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
	again := h.Run("ssh", "local", "--", "exit 9")
	require.Equal(t, 9, again.Code, again.Stderr)
	require.NotContains(t, up.Stderr.String(), "\x1b", "no escape sequence reaches the log")
	require.NotContains(t, up.Stderr.String(), "panic")
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
	fds := filepath.Join("/proc", strconv.Itoa(pid), "fd")
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
				port, err := strconv.ParseUint(hexPort, 16, 16)
				require.NoError(t, err)
				ports = append(ports, strconv.FormatUint(port, 10))
			}
		}
	}
	return ports
}
