package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// site is a server with one workspace, its agent and its owner, as three processes.
type site struct {
	t        *testing.T
	h        *home
	url      string
	server   *process
	agent    *process
	agentEnv string // file with the agent's token
}

// newSite starts a server, logs its admin in with the one-time code, creates the
// workspace "dev" and starts its agent.
func newSite(t *testing.T, agentArgs ...string) *site {
	t.Helper()
	s := &site{t: t, h: newHome(t)}
	s.url = "http://" + freeAddress(t)
	s.startServer()
	code := s.oneTimeCode()
	r := s.h.run("login", s.url, "--code", code)
	require.Equal(t, 0, r.code, r.stderr)
	s.agentEnv = s.h.path("agent-token")
	r = s.h.run("workspace", "create", "dev", "--token-file", s.agentEnv)
	require.Equal(t, 0, r.code, r.stderr)
	s.startAgent(agentArgs...)
	return s
}

// freeAddress returns a loopback address that nobody listens on. A server that
// restarts must come back at the same one, so port 0 will not do.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (s *site) startServer() {
	s.t.Helper()
	s.server = s.h.start("server", "--listen", strings.TrimPrefix(s.url, "http://"), "--state-dir", s.h.path("server"),
		"--stun-listen", "127.0.0.1:0", "--log-format", "json")
	s.server.stderr.awaitText(s.t, `"server listening"`)
}

// oneTimeCode reads the code that the server's first start printed.
func (s *site) oneTimeCode() string {
	s.t.Helper()
	const label = "--code "
	text := s.server.stdout.awaitText(s.t, label)
	_, rest, _ := strings.Cut(text, label)
	code := strings.Fields(rest)[0]
	require.NotContains(s.t, s.server.stderr.String(), code, "the code is never logged")
	return code
}

func (s *site) startAgent(args ...string) {
	s.t.Helper()
	s.agent = s.h.start(append([]string{"agent", s.url, "--token-file", s.agentEnv,
		"--state-dir", s.h.path("agent"), "--log-format", "json"}, args...)...)
	s.awaitAgent("online")
}

// awaitAgent waits until the server lists the agent in that state.
func (s *site) awaitAgent(status string) {
	s.t.Helper()
	testEventually(s.t, "agent "+status, func() bool {
		var list []struct {
			Agent struct {
				Status string `json:"status"`
			} `json:"agent"`
		}
		r := s.h.run("ls", "--output", "json")
		return json.Unmarshal([]byte(r.stdout), &list) == nil && len(list) == 1 && list[0].Agent.Status == status
	})
}

// shell is a person at a terminal.
type shell struct {
	t    *testing.T
	tty  *os.File
	out  *output
	cmd  *exec.Cmd
	done chan struct{}
}

// openShell runs `fairlead ssh dev` on a terminal of 80x24 and waits for the prompt.
func (s *site) openShell(args ...string) *shell {
	s.t.Helper()
	return s.openShellIn("dev", args...)
}

func (s *site) openShellIn(workspace string, args ...string) *shell {
	s.t.Helper()
	cmd := exec.Command(binary, append([]string{"ssh", workspace}, args...)...)
	cmd.Env = append(s.h.env, "TERM=xterm", "PS1=$ ")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	require.NoError(s.t, err)
	sh := &shell{t: s.t, tty: tty, out: newOutput(), cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(sh.done)
		_, _ = io.Copy(sh.out, tty) // ends with EIO when the client has gone
		_ = cmd.Wait()
		sh.out.close()
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = tty.Close()
		<-sh.done
		if s.t.Failed() {
			s.t.Logf("terminal:\n%q", sh.out.String())
		}
	})
	sh.echo("ready")
	return sh
}

func (sh *shell) typeKeys(keys string) {
	sh.t.Helper()
	_, err := sh.tty.WriteString(keys)
	require.NoError(sh.t, err)
}

// echo has the remote shell compute a word that the echo of what was typed does not
// contain.
func (sh *shell) echo(word string) {
	sh.t.Helper()
	sh.typeKeys(fmt.Sprintf("printf '<%%s>\\n' %s\r", word))
	sh.out.awaitText(sh.t, "<"+word+">")
}

func (sh *shell) wait() int {
	sh.t.Helper()
	testWait(sh.t, sh.done, "the client's end")
	return sh.cmd.ProcessState.ExitCode()
}

// TestShell: a person gets a shell, with size, signals and the escape.
func TestShell(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	t.Run("window size and change", func(t *testing.T) {
		sh := s.openShell()
		sh.typeKeys("stty size\r")
		sh.out.awaitText(t, "24 80")
		require.NoError(t, pty.Setsize(sh.tty, &pty.Winsize{Cols: 123, Rows: 45}))
		testEventually(t, "the new size", func() bool {
			sh.typeKeys("stty size\r")
			return strings.Contains(sh.out.String(), "45 123")
		})
		sh.typeKeys("exit 6\r")
		require.Equal(t, 6, sh.wait())
	})
	t.Run("Ctrl-C goes to the remote program", func(t *testing.T) {
		sh := s.openShell()
		sh.typeKeys(`sh -c "echo begun''; exec sleep 1000"` + "\r") // in the foreground when it speaks
		sh.out.awaitText(t, "begun\r\n")
		sh.typeKeys("\x03")
		sh.echo("still")
		sh.typeKeys("exit\r")
		require.Equal(t, 0, sh.wait())
	})
	t.Run("tilde dot leaves", func(t *testing.T) {
		sh := s.openShell()
		sh.typeKeys("\r~.")
		require.Equal(t, 255, sh.wait())
		require.Contains(t, sh.out.String(), "reason=client_closed initiator=client expected=true")
	})
	t.Run("the agent tells the same", func(t *testing.T) {
		testEventually(t, "three session endings", func() bool { return len(s.agent.stderr.endings(t, "ssh session closed")) == 3 })
		var reasons []any
		for _, e := range s.agent.stderr.endings(t, "ssh session closed") {
			require.Equal(t, "agent_to_client", e["connect_type"])
			reasons = append(reasons, e["disconnect_reason"])
		}
		require.ElementsMatch(t, []any{"process_exited", "graceful", "client_closed"}, reasons)
	})
}

// TestServerRestart: an open shell does not notice that the server was away.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sh := s.openShell()

	s.server.signal(syscall.SIGTERM)
	require.Equal(t, 0, s.server.wait())
	s.agent.ending("disconnected from server", "server_to_agent", "server_shutdown", "server", true)
	s.agent.ending("disconnected from coordination RPC", "server_to_agent", "server_shutdown", "server", true)
	s.agent.ending("disconnected from derp map RPC", "server_to_agent", "server_shutdown", "server", true)
	sh.echo("server-is-away")

	s.startServer()
	again := s.h.run("ssh", "dev", "--", "exit 4") // without waiting for the agent's return
	require.Equal(t, 4, again.code, again.stderr)
	sh.echo("server-is-back")
	sh.typeKeys("exit 3\r")
	require.Equal(t, 3, sh.wait())
}

// TestServerKilled: the same when the server dies without goodbye (S1-S3: nothing
// but a broken stream is known at once).
func TestServerKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sh := s.openShell()
	s.server.kill()
	s.agent.ending("disconnected from server", "server_to_agent", "network_error", "network", false)
	s.agent.ending("disconnected from coordination RPC", "server_to_agent", "network_error", "network", false)
	s.agent.ending("disconnected from derp map RPC", "server_to_agent", "network_error", "network", false)
	sh.echo("server-is-dead")
	s.startServer()
	again := s.h.run("ssh", "dev", "--", "exit 4")
	require.Equal(t, 4, again.code, again.stderr)
	sh.echo("server-is-back")
}

// TestAgentKilled: the client ends with a line that says who died.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	t.Run("and stays away", func(t *testing.T) {
		sh := s.openShell("--outage-limit", "3s")
		s.agent.kill()
		require.Equal(t, 255, sh.wait())
		require.Contains(t, sh.out.String(), "reason=peer_crashed initiator=agent expected=false")
		require.Contains(t, s.h.run("ssh", "dev").stderr, "offline")
	})
	t.Run("and a new one comes", func(t *testing.T) {
		s.startAgent()
		sh := s.openShell("--outage-limit", "120s")
		s.agent.kill()
		s.startAgent()
		require.Equal(t, 255, sh.wait())
		require.Contains(t, sh.out.String(), "reason=peer_crashed initiator=agent expected=false")
	})
}

// TestAgentStops: SIGTERM says goodbye on every layer, and the agent's own log has
// the rows of its close.
func TestAgentStops(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sh := s.openShell()
	s.agent.signal(syscall.SIGTERM)
	require.Equal(t, 0, s.agent.wait())
	require.Equal(t, 255, sh.wait())
	require.Contains(t, sh.out.String(), "reason=server_shutdown initiator=agent expected=true")
	require.Equal(t, 1, strings.Count(sh.out.String(), "fairlead: "), "it is said once")

	s.agent.ending("ssh session closed", "agent_to_client", "server_shutdown", "agent", true)
	s.agent.ending("coordination RPC disconnected", "server_to_agent", "server_shutdown", "agent", true)
	s.agent.ending("disconnected from coordination RPC", "server_to_agent", "server_shutdown", "agent", true)
	s.agent.ending("disconnected from derp map RPC", "server_to_agent", "server_shutdown", "agent", true)
	s.agent.ending("disconnected from server", "server_to_agent", "server_shutdown", "agent", true)
	s.server.ending("agent control link ended", "server_to_agent", "server_shutdown", "agent", true)

	r := s.h.run("ssh", "dev")
	require.Equal(t, 255, r.code)
	require.Contains(t, r.stderr, "offline since")
	require.Contains(t, r.stderr, "server_shutdown")
}

// TestAgentStopsAtOnce: a second signal does not wait for anybody.
func TestAgentStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--shutdown-timeout", "10m")
	s.server.signal(syscall.SIGSTOP) // nobody answers a goodbye
	s.agent.signal(syscall.SIGTERM)
	s.agent.stderr.awaitText(t, "stopping")
	s.agent.signal(syscall.SIGTERM)
	s.agent.wait()
	s.agent.ending("timed out waiting for coordination RPC", "server_to_agent", "server_shutdown", "agent", true)
	s.server.signal(syscall.SIGCONT)
}

// TestClientKilled: the agent does not take it for a choice of the client.
func TestClientKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--outage-limit", "3s")
	sh := s.openShell()
	require.NoError(t, sh.cmd.Process.Kill())
	sh.wait()
	s.agent.ending("ssh session closed", "agent_to_client", "network_timeout", "network", false)
	s.server.ending("client control link ended", "client_to_server", "network_error", "network", false)
}

// TestSignals: a signal for the program passes to the remote one; a signal to stop is
// the user's leave, and ends the remote one too.
func TestSignals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const script = `trap 'echo got-usr1' USR1; trap 'echo got-hup >> "$HOME/hup"; exit' HUP; echo ready; while :; do sleep 0.1; done`
	p := s.h.start("ssh", "dev", "--", script)
	p.stdout.awaitText(t, "ready")
	p.signal(syscall.SIGUSR1)
	p.stdout.awaitText(t, "got-usr1")
	p.signal(syscall.SIGTERM)
	require.Equal(t, 255, p.wait())
	p.stderr.awaitText(t, "reason=client_closed initiator=client expected=true")
	s.agent.ending("ssh session closed", "agent_to_client", "client_closed", "client", true)
	testEventually(t, "the remote program's end", func() bool { _, err := os.Stat(s.h.path("hup")); return err == nil })
}

// TestOutputReaderLeaves: a pipe that closes is the client's leave, not its death.
func TestOutputReaderLeaves(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.h.execute(nil, "sh", "-c", binary+" ssh dev -- yes | head -n 1")
	require.Equal(t, "y\n", r.stdout)
	s.agent.ending("ssh session closed", "agent_to_client", "client_closed", "client", true)
	s.server.ending("client control link ended", "client_to_server", "client_closed", "client", true)
}

// TestUpStops: a shell that is open when its server and agent stop says why.
func TestUpStops(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	up, _ := startUp(t, h)
	s := &site{t: t, h: h}
	sh := s.openShellIn("local")
	up.signal(syscall.SIGINT)
	require.Equal(t, 0, up.wait())
	require.Equal(t, 255, sh.wait())
	require.Contains(t, sh.out.String(), `reason=server_shutdown initiator=agent expected=true detail="the agent is stopping"`)
}

// TestRefusals: one clear sentence each.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	check := func(name string, code int, part string, r result) {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, code, r.code, r.stderr)
			require.Contains(t, r.stderr, part)
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		})
	}
	check("unknown workspace", 255, "no workspace nowhere", s.h.run("ssh", "nowhere"))
	check("name that cannot be", 2, "a name has 1 to 32 characters", s.h.run("ssh", "No/Where/Else"))
	check("code used twice", 4, "code", s.h.run("login", s.url, "--code", "AAAA-BBBB-CCCC-DDDD"))
	check("wrong token", 4, "token", s.h.run("login", s.url, "--token-file", s.h.write("wrong", "fl_u_wrong")))
	check("agent with a wrong token", 3, "does not accept this agent's token",
		s.h.run("agent", s.url, "--log-level", "error", "--state-dir", s.h.path("other"), "--token-file", s.h.write("wrong2", "fl_a_wrong")))
	check("agent without a token", 2, "token is missing", s.h.run("agent", s.url))
	check("server unreachable", 1, "cannot reach the server", s.h.run("login", "http://"+freeAddress(t), "--code", "x"))
	check("two agents in one directory", 1, "another agent",
		s.h.run("agent", s.url, "--state-dir", s.h.path("agent"), "--token-file", s.agentEnv))

	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<html>\x1b[31mWelcome</html>")
	}))
	t.Cleanup(html.Close)
	check("something that is not Fairlead", 1, "is not a Fairlead server", s.h.run("login", html.URL, "--code", "x"))

	stranger := newHome(t)
	check("no login", 4, "not logged in", stranger.run("ssh", "dev"))
	require.NoError(t, os.MkdirAll(stranger.path("config"), 0o700))
	require.NoError(t, os.WriteFile(stranger.path("config/profiles.json"), []byte("{}"), 0o644))
	check("login that others can read", 4, "chmod 600", stranger.run("ssh", "dev"))
}
