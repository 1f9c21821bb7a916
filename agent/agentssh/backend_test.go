//go:build unix

package agentssh_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// listenVariable makes the test's binary a program that listens there, as an IDE's
// backend does.
const listenVariable = "FAIRLEAD_TEST_LISTEN"

// listenForTest serves connections as their first line says.
func listenForTest(at string) {
	network, address, _ := strings.Cut(at, " ")
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serveTestConn(c)
	}
}

// serveTestConn does what the first line says, and until then nothing.
func serveTestConn(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return // the other side has ended
		}
		switch line {
		case "close\n":
			return
		case "reset\n":
			_ = c.(*net.TCPConn).SetLinger(0)
			return
		default:
			_, _ = io.WriteString(c, line)
		}
	}
}

// backend is a process that listens, with a command line of the test's choice.
type backend struct {
	addr string
	cmd  *exec.Cmd
}

// jetBrainsArgs is the command line of an IDE's backend, shortened.
var jetBrainsArgs = []string{"/home/ada/.cache/JetBrains/RemoteDev/dist/abc_ideaIU-2024.1/jbr/bin/java", "-Xmx2048m",
	"-Didea.vendor.name=JetBrains", "-Didea.paths.selector=IntelliJIdea2024.1", "com.intellij.idea.Main", "remoteDevHost", "/home/ada/project"}

func newBackend(t *testing.T, at string, args ...string) *backend {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	b := &backend{cmd: &exec.Cmd{Path: self, Args: args, Env: append(os.Environ(), listenVariable+"="+at), Stderr: os.Stderr}}
	out, err := b.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, b.cmd.Start())
	t.Cleanup(b.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	b.addr = strings.TrimSpace(line)
	return b
}

// kill ends the process. It may be called again.
func (b *backend) kill() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

const anyPort = "tcp 127.0.0.1:0"
