package cluster

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// listenVariable makes the test's binary a program that listens there, as an IDE's
// backend does.
const listenVariable = "TEST_LISTEN"

// listenForTest serves connections: it echoes lines, and closes at the line "close".
func listenForTest(at string) {
	network, address, _ := strings.Cut(at, " ")
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("listening on %s!\n", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != "close"; {
				_, _ = fmt.Fprintln(c, lines.Text())
			}
		}()
	}
}

var listeningOn = regexp.MustCompile(`listening on (.*)!`)

// startBackend starts a process that listens, under a command line of the test's choice,
// and returns its address.
func startBackend(t *testing.T, s *site.Site, at string, args ...string) (*site.Process, string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := &exec.Cmd{Path: self, Args: args}
	h := *s.Home
	h.Setenv(listenVariable + "=" + at)
	p := h.StartCommand(cmd)
	return p, listeningOn.FindStringSubmatch(p.Stdout.AwaitText(t, "!\n"))[1]
}

var jetBrainsArgs = []string{"/home/ada/.cache/JetBrains/RemoteDev/dist/abc_ideaIU-2024.1/jbr/bin/java",
	"-Didea.vendor.name=JetBrains", "com.intellij.idea.Main", "remoteDevHost", "/home/ada/project"}

// startSSH starts the stock client with what config-ssh wrote.
func startSSH(t *testing.T, s *site.Site, args ...string) *site.Process {
	t.Helper()
	ssh, err := exec.LookPath("ssh")
	require.NoError(t, err, "install the stock OpenSSH client")
	return s.StartCommand(exec.Command(ssh, append([]string{"-F", s.Path(".ssh/config"), "-o", "BatchMode=yes",
		"-o", "ExitOnForwardFailure=yes"}, args...)...))
}

func configureSSH(s *site.Site) { s.Must("config-ssh", "--ssh-config-file", s.Path(".ssh/config")) }

// dialForward connects to a port that a program forwards, as soon as it does.
func dialForward(t *testing.T, address string) net.Conn {
	t.Helper()
	var c net.Conn
	site.Eventually(t, "a forwarded port", func() (ok bool) {
		var err error
		c, err = net.Dial("tcp", address)
		return err == nil
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends a line through a forward and reads its echo.
func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	_, err := fmt.Fprintln(c, line)
	require.NoError(t, err)
	got, err := bufio.NewReader(io.LimitReader(c, int64(len(line))+1)).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, line+"\n", got)
}

// TestSeedS10: channels to a JetBrains backend, through stock ssh, in every way that they
// end: one line of the agent, one row, five fields.
func TestSeedS10(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	configureSSH(s)
	seen := map[string]bool{}
	// ended waits for the next row, and checks it against the agent's line for it.
	ended := func(t *testing.T) sdk.Connection {
		t.Helper()
		row := awaitClosed(t, s.Home, len(seen)+1, "--type", "jetbrains")[0]
		require.False(t, seen[row.ID])
		seen[row.ID] = true
		found := 0
		for _, line := range s.Agent.Stderr.Endings(t, "jetbrains channel closed") {
			if line["connection_id"] != row.ID {
				continue
			}
			found++
			require.Equal(t, []any{"agent_to_client", *row.Reason, *row.Initiator, *row.Expected},
				[]any{line["connect_type"], line["disconnect_reason"], line["disconnect_initiator"], line["disconnect_expected"]})
			if *row.Reason != "client_closed" { // which both ends tell, each in its own words
				require.Equal(t, *row.Detail, line["disconnect_detail"])
			}
			require.Equal(t, "process", line["app_source"])
		}
		require.Equal(t, 1, found, "one line")
		require.Equal(t, "jetbrains", row.App)
		require.Equal(t, "admin", row.User)
		require.Contains(t, row.ClientVersion, "OpenSSH")
		return row
	}
	backend, address := startBackend(t, s, "tcp 127.0.0.1:0", jetBrainsArgs...)
	forward := func(t *testing.T) (*site.Process, string) {
		local := site.FreeAddress(t)
		return startSSH(t, s, "-N", "-L", local+":"+address, "dev.fairlead"), local
	}
	ssh, local := forward(t)

	t.Run("client first", func(t *testing.T) {
		c := dialForward(t, local)
		say(t, c, "hello")
		require.NoError(t, c.Close())
		row := ended(t)
		require.Equal(t, []string{"graceful", "client", "normal close"}, []string{*row.Reason, *row.Initiator, *row.Detail})
		require.EqualValues(t, 6, row.BytesSent)
		require.EqualValues(t, 6, row.BytesReceived)
		require.Len(t, connections(t, s.Home, "--app", "jetbrains"), 1)
		require.Contains(t, s.Must("connections", "show", row.ID), "normal close")
	})
	t.Run("backend first", func(t *testing.T) {
		c := dialForward(t, local)
		_, err := io.WriteString(c, "close\n")
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, c.Close())
		row := ended(t)
		require.Equal(t, []string{"graceful", "agent", "normal close"}, []string{*row.Reason, *row.Initiator, *row.Detail})
	})
	t.Run("client crashed", func(t *testing.T) {
		other, at := forward(t)
		say(t, dialForward(t, at), "hello")
		other.Kill()
		row := ended(t)
		require.Equal(t, []string{"peer_crashed", "client"}, []string{*row.Reason, *row.Initiator})
		require.False(t, *row.Expected)
	})
	t.Run("client leaves", func(t *testing.T) {
		other, at := forward(t)
		say(t, dialForward(t, at), "hello")
		other.Signal(syscall.SIGINT)
		other.Wait()
		row := ended(t)
		require.Equal(t, []string{"client_closed", "client"}, []string{*row.Reason, *row.Initiator})
	})
	t.Run("dial error", func(t *testing.T) {
		backend.Kill()
		c := dialForward(t, local)
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		row := ended(t)
		require.Equal(t, []string{"connection_refused", "agent"}, []string{*row.Reason, *row.Initiator})
		require.Contains(t, *row.Detail, "connection refused")
	})
	t.Run("agent stops", func(t *testing.T) {
		_, address = startBackend(t, s, "tcp 127.0.0.1:0", jetBrainsArgs...)
		_, at := forward(t)
		say(t, dialForward(t, at), "hello")
		agent := s.Agent
		agent.Stop()
		s.StartAgent()
		row := awaitClosed(t, s.Home, len(seen)+1, "--type", "jetbrains")[0]
		require.Equal(t, []string{"server_shutdown", "agent"}, []string{*row.Reason, *row.Initiator})
		require.Equal(t, 255, ssh.Wait())
	})
}

// socks connects through a SOCKS 5 proxy, as `ssh -D` is one.
func socks(t *testing.T, proxy, address string) net.Conn {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	c := dialForward(t, proxy)
	request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
	_, err = c.Write(binary.BigEndian.AppendUint16(request, uint16(number)))
	require.NoError(t, err)
	answer := make([]byte, 2+10)
	_, err = io.ReadFull(c, answer)
	require.NoError(t, err)
	require.Equal(t, []byte{5, 0, 5, 0}, answer[:4], "the proxy reaches it")
	return c
}

// TestVSCodePattern does what VS Code Remote-SSH does, with stock ssh: a shell reads a
// script that starts the server and stays, and everything else goes through the dynamic
// forward of the same connection. docs/ide.md has the pattern.
func TestVSCodePattern(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	configureSSH(s)
	self, err := os.Executable()
	require.NoError(t, err)
	folder := s.Path(".vscode-server")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.Symlink(self, filepath.Join(folder, "code-0123abcd")))
	socket, err := os.MkdirTemp("", "code") // short: it is a socket's path
	require.NoError(t, err)
	defer os.RemoveAll(socket)
	socket = filepath.Join(socket, "sock")

	proxy, local := site.FreeAddress(t), site.FreeAddress(t)
	ssh := startSSH(t, s, "-T", "-D", proxy, "-L", local+":"+socket, "dev.fairlead", "sh")
	_, err = fmt.Fprintf(ssh.Stdin, `export VSCODE_AGENT_FOLDER="$HOME/.vscode-server"
%s='tcp 127.0.0.1:0' "$VSCODE_AGENT_FOLDER/code-0123abcd" command-shell --cli-data-dir "$VSCODE_AGENT_FOLDER/cli" --parent-process-id $$ --on-host=127.0.0.1 --on-port </dev/null &
one=$!
%s='unix %s' "$VSCODE_AGENT_FOLDER/code-0123abcd" command-shell --on-socket </dev/null &
two=$!
trap "kill $one $two" EXIT
read forever
`, listenVariable, listenVariable, socket)
	require.NoError(t, err)
	out := ssh.Stdout.Await(t, "both listen", func(text string) bool { return strings.Count(text, "!\n") == 2 })
	var address string
	for _, found := range listeningOn.FindAllStringSubmatch(out, -1) {
		if found[1] != socket {
			address = found[1]
		}
	}
	// A window has some long connections to the server, and short ones.
	const long, short = 6, 20
	var open []net.Conn
	for i := range long {
		c := socks(t, proxy, address)
		say(t, c, strconv.Itoa(i))
		open = append(open, c)
	}
	open = append(open, dialForward(t, local))
	say(t, open[long], "over the socket")
	var all sync.WaitGroup
	for i := range short {
		c := socks(t, proxy, address)
		all.Go(func() {
			_, _ = fmt.Fprintln(c, i)
			_, _ = c.Read(make([]byte, 8))
			_ = c.Close()
		})
	}
	all.Wait()
	for _, row := range awaitClosed(t, s.Home, short, "--type", "vscode") {
		require.Equal(t, []string{"graceful", "client", "normal close", "vscode"}, []string{*row.Reason, *row.Initiator, *row.Detail, row.App})
	}
	require.Len(t, connections(t, s.Home, "--type", "vscode", "--status", "open"), long+1)
	// What the user runs in the workspace is no part of the IDE.
	own, at := startBackend(t, s, "tcp 127.0.0.1:0", "node", "app.js")
	c := socks(t, proxy, at)
	say(t, c, "a page")
	own.Kill()
	_ = c.Close()
	row := awaitClosed(t, s.Home, 1, "--type", "port_forward")[0]
	require.Equal(t, []string{"graceful", "agent", "vscode"}, []string{*row.Reason, *row.Initiator, row.App})

	require.Equal(t, "ssh", connections(t, s.Home, "--type", "ssh")[0].App, "nothing was known when it began")
	for _, c := range open {
		require.NoError(t, c.Close())
	}
	require.NoError(t, ssh.Stdin.Close()) // the script ends
	ssh.Wait()
	session := awaitClosed(t, s.Home, 1, "--type", "ssh")[0]
	require.Equal(t, "vscode", session.App)
	line := s.Agent.Ending("ssh session closed", "agent_to_client", *session.Reason, *session.Initiator, *session.Expected)
	require.Equal(t, []any{"vscode", "process"}, []any{line["app"], line["app_source"]})
	require.Len(t, awaitClosed(t, s.Home, short+long+1, "--type", "vscode"), short+long+1)
}

// TestJetBrainsPattern does what JetBrains Gateway does, with stock ssh: files over SFTP,
// many commands at once over one connection, a long one that starts the backend, and a
// forward to its port. docs/ide.md has the pattern.
func TestJetBrainsPattern(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	configureSSH(s)
	master, err := os.MkdirTemp("", "mux") // short: it is a socket's path
	require.NoError(t, err)
	defer os.RemoveAll(master)
	mux := []string{"-F", s.Path(".ssh/config"), "-o", "BatchMode=yes", "-o", "SetEnv=FAIRLEAD_APP=jetbrains",
		"-o", "ControlPath=" + filepath.Join(master, "s"), "-o", "ControlMaster=auto", "-o", "ControlPersist=no"}
	self, err := os.Executable()
	require.NoError(t, err)
	worker := s.Path("worker")
	local := site.FreeAddress(t)
	backendAt := s.Path("backend-at")
	ssh, err := exec.LookPath("ssh")
	require.NoError(t, err)

	// The long command, whose connection the others share.
	first := s.StartCommand(exec.Command(ssh, append(mux, "dev.fairlead", "echo up''; read x")...))
	first.Stdout.AwaitText(t, "up\n")
	sftp := s.Execute(strings.NewReader("put "+self+" "+worker+"\nchmod 700 "+worker+"\n"), "sftp", append(mux, "-b", "-", "dev.fairlead")...)
	require.Equal(t, 0, sftp.Code, sftp.Stderr)
	want, err := os.ReadFile(self)
	require.NoError(t, err)
	got, err := os.ReadFile(worker)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "what arrived is what was sent")

	const commands = 20
	var all sync.WaitGroup
	for i := range commands {
		p := s.StartCommand(exec.Command(ssh, append(mux, "dev.fairlead", "exit "+strconv.Itoa(i%3))...))
		all.Go(func() { require.Equal(t, i%3, p.Wait(), p.Stderr) })
	}
	all.Wait()
	start := s.Execute(nil, ssh, append(mux, "dev.fairlead",
		fmt.Sprintf("%s='tcp 127.0.0.1:0' nohup %s -Didea.vendor.name=JetBrains remoteDevHost >%s 2>&1 </dev/null & echo $!", listenVariable, worker, backendAt))...)
	require.Equal(t, 0, start.Code, start.Stderr)
	pid, err := strconv.Atoi(strings.TrimSpace(start.Stdout))
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	var address string
	site.Eventually(t, "the backend's address", func() bool {
		text, _ := os.ReadFile(backendAt)
		found := listeningOn.FindSubmatch(text)
		if found != nil {
			address = string(found[1])
		}
		return found != nil
	})
	forwarded := s.Execute(nil, ssh, append(mux, "-O", "forward", "-L", local+":"+address, "dev.fairlead")...)
	require.Equal(t, 0, forwarded.Code, forwarded.Stderr)
	for range 3 {
		c := dialForward(t, local)
		say(t, c, "protocol")
	}
	require.Len(t, awaitClosed(t, s.Home, commands+2, "--type", "ssh", "--app", "jetbrains"), commands+2)
	// The laptop is gone: the channels end as the session does.
	first.Kill()
	session := awaitClosed(t, s.Home, commands+3, "--type", "ssh")[commands+2] // the oldest
	require.Equal(t, []string{"peer_crashed", "client"}, []string{*session.Reason, *session.Initiator})
	for _, row := range awaitClosed(t, s.Home, 3, "--type", "jetbrains") {
		require.Equal(t, []string{*session.Reason, *session.Initiator, *session.Detail}, []string{*row.Reason, *row.Initiator, *row.Detail})
		require.False(t, *row.Expected)
	}
	for _, line := range s.Agent.Stderr.Endings(t, "jetbrains channel closed") {
		require.Equal(t, "declared", line["app_source"])
	}
}
