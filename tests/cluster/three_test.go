package cluster

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/pty"
	"fairlead.dev/fairlead/tests/site"
)

// TestShell: a person gets a shell, with size, signals and the escape.
func TestShell(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	t.Run("window size and change", func(t *testing.T) {
		sh := s.OpenShell("dev")
		sh.Type("stty size\r")
		sh.Out.AwaitText(t, "24 80")
		require.NoError(t, sh.TTY.Resize(pty.Size{Cols: 123, Rows: 45}))
		site.Eventually(t, "the new size", func() bool {
			sh.Type("stty size\r")
			return strings.Contains(sh.Out.String(), "45 123")
		})
		sh.Type("exit 6\r")
		require.Equal(t, 6, sh.Wait())
	})
	t.Run("Ctrl-C goes to the remote program", func(t *testing.T) {
		sh := s.OpenShell("dev")
		sh.Type(`sh -c "echo begun''; exec sleep 1000"` + "\r") // in the foreground when it speaks
		sh.Out.AwaitText(t, "begun\r\n")
		sh.Type("\x03")
		sh.Echo("still")
		sh.Type("exit\r")
		require.Equal(t, 0, sh.Wait())
	})
	t.Run("tilde dot leaves", func(t *testing.T) {
		sh := s.OpenShell("dev")
		sh.Type("\r~.")
		require.Equal(t, 255, sh.Wait())
		require.Contains(t, sh.Out.String(), "reason=client_closed initiator=client expected=true")
	})
	t.Run("the agent tells the same", func(t *testing.T) {
		site.Eventually(t, "three session endings", func() bool { return len(s.Agent.Stderr.Endings(t, "ssh session closed")) == 3 })
		var reasons []any
		for _, e := range s.Agent.Stderr.Endings(t, "ssh session closed") {
			require.Equal(t, "agent_to_client", e["connect_type"])
			reasons = append(reasons, e["disconnect_reason"])
		}
		require.ElementsMatch(t, []any{"process_exited", "graceful", "client_closed"}, reasons)
	})
}

// TestServerRestart: an open shell does not notice that the server was away.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	sh := s.OpenShell("dev")

	s.Server.Stop()
	s.Agent.Ending("disconnected from server", "server_to_agent", "server_shutdown", "server", true)
	s.Agent.Ending("disconnected from coordination RPC", "server_to_agent", "server_shutdown", "server", true)
	s.Agent.Ending("disconnected from derp map RPC", "server_to_agent", "server_shutdown", "server", true)
	sh.Echo("server-is-away")

	s.StartServer()
	again := s.Run("ssh", "dev", "--", "exit 4") // without waiting for the agent's return
	require.Equal(t, 4, again.Code, again.Stderr)
	sh.Echo("server-is-back")
	sh.Type("exit 3\r")
	require.Equal(t, 3, sh.Wait())
}

// TestServerKilled: the same when the server dies without goodbye (S1-S3: nothing
// but a broken stream is known at once).
func TestServerKilled(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	sh := s.OpenShell("dev")
	s.Server.Kill()
	s.Agent.Ending("disconnected from server", "server_to_agent", "network_error", "network", false)
	s.Agent.Ending("disconnected from coordination RPC", "server_to_agent", "network_error", "network", false)
	s.Agent.Ending("disconnected from derp map RPC", "server_to_agent", "network_error", "network", false)
	sh.Echo("server-is-dead")
	s.StartServer()
	again := s.Run("ssh", "dev", "--", "exit 4")
	require.Equal(t, 4, again.Code, again.Stderr)
	sh.Echo("server-is-back")
}

// TestAgentKilled: the client ends with a line that says who died.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	t.Run("and stays away", func(t *testing.T) {
		sh := s.OpenShell("dev", "--outage-limit", "3s")
		s.Agent.Kill()
		require.Equal(t, 255, sh.Wait())
		require.Contains(t, sh.Out.String(), "reason=peer_crashed initiator=agent expected=false")
		require.Contains(t, s.Run("ssh", "dev").Stderr, "offline")
	})
	t.Run("and a new one comes", func(t *testing.T) {
		s.StartAgent()
		sh := s.OpenShell("dev", "--outage-limit", "120s")
		s.Agent.Kill()
		s.StartAgent()
		require.Equal(t, 255, sh.Wait())
		require.Contains(t, sh.Out.String(), "reason=peer_crashed initiator=agent expected=false")
	})
}

// TestAgentStops: SIGTERM says goodbye on every layer, and the agent's own log has
// the rows of its close.
func TestAgentStops(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	sh := s.OpenShell("dev")
	s.Agent.Stop()
	require.Equal(t, 255, sh.Wait())
	require.Contains(t, sh.Out.String(), "reason=server_shutdown initiator=agent expected=true")
	require.Equal(t, 1, strings.Count(sh.Out.String(), "fairlead: "), "it is said once")

	s.Agent.Ending("ssh session closed", "agent_to_client", "server_shutdown", "agent", true)
	s.Agent.Ending("coordination RPC disconnected", "server_to_agent", "server_shutdown", "agent", true)
	s.Agent.Ending("disconnected from coordination RPC", "server_to_agent", "server_shutdown", "agent", true)
	s.Agent.Ending("disconnected from derp map RPC", "server_to_agent", "server_shutdown", "agent", true)
	s.Agent.Ending("disconnected from server", "server_to_agent", "server_shutdown", "agent", true)
	s.Server.Ending("agent control link ended", "server_to_agent", "server_shutdown", "agent", true)

	r := s.Run("ssh", "dev")
	require.Equal(t, 255, r.Code)
	require.Contains(t, r.Stderr, "offline since")
	require.Contains(t, r.Stderr, "server_shutdown")
}

// TestAgentStopsAtOnce: a second signal does not wait for anybody.
func TestAgentStopsAtOnce(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--shutdown-timeout", "10m")
	s.Server.Freeze() // nobody answers a goodbye
	s.Agent.Signal(syscall.SIGTERM)
	s.Agent.Stderr.AwaitText(t, "stopping")
	s.Agent.Signal(syscall.SIGTERM)
	s.Agent.Wait()
	s.Agent.Ending("timed out waiting for coordination RPC", "server_to_agent", "server_shutdown", "agent", true)
	s.Server.Signal(syscall.SIGCONT)
}

// TestClientKilled: the agent does not take it for a choice of the client.
func TestClientKilled(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--outage-limit", "3s")
	sh := s.OpenShell("dev")
	sh.Kill()
	s.Agent.Ending("ssh session closed", "agent_to_client", "network_timeout", "network", false)
	s.Server.Ending("client control link ended", "client_to_server", "network_error", "network", false)
}

// TestSignals: a signal for the program passes to the remote one; a signal to stop is
// the user's leave, and ends the remote one too.
func TestSignals(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	const script = `trap 'echo got-usr1' USR1; trap 'echo got-hup >> "$HOME/hup"; exit' HUP; echo ready; while :; do sleep 0.1; done`
	p := s.Start("ssh", "dev", "--", script)
	p.Stdout.AwaitText(t, "ready")
	p.Signal(syscall.SIGUSR1)
	p.Stdout.AwaitText(t, "got-usr1")
	p.Signal(syscall.SIGTERM)
	require.Equal(t, 255, p.Wait())
	p.Stderr.AwaitText(t, "reason=client_closed initiator=client expected=true")
	s.Agent.Ending("ssh session closed", "agent_to_client", "client_closed", "client", true)
	site.Eventually(t, "the remote program's end", func() bool { _, err := os.Stat(s.Path("hup")); return err == nil })
}

// TestIgnoredSignals: programs of sessions heed signals that the agent's starter ignores, as
// nohup does.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer()
	s.Settle()
	s.Agent = s.StartCommand(exec.Command("sh", "-c", "trap '' HUP INT QUIT; exec "+site.Binary+" agent "+s.URL+
		" --token-file "+s.AgentToken+" --state-dir "+s.Path("agent")+" --log-format json"))
	s.AwaitAgent("online")
	ignored, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(s.Must("ssh", "dev", "--", "grep SigIgn /proc/self/status"), "SigIgn:")), 16, 64)
	require.NoError(t, err)
	require.Zero(t, ignored&(1<<(syscall.SIGHUP-1)|1<<(syscall.SIGINT-1)|1<<(syscall.SIGQUIT-1)), "%#x", ignored)
	s.Agent.Signal(syscall.SIGHUP)
	require.Equal(t, 0, s.Run("ssh", "dev", "--", "true").Code, "the agent itself goes on ignoring it")
}

// TestOutputReaderLeaves: a pipe that closes is the client's leave, not its death.
func TestOutputReaderLeaves(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	r := s.Execute(nil, "sh", "-c", site.Binary+" ssh dev -- yes | head -n 1")
	require.Equal(t, "y\n", r.Stdout)
	s.Agent.Ending("ssh session closed", "agent_to_client", "client_closed", "client", true)
	s.Server.Ending("client control link ended", "client_to_server", "client_closed", "client", true)
}

// TestUpStops: a shell that is open when its server and agent stop says why.
func TestUpStops(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, _ := site.StartUp(h)
	sh := h.OpenShell("local")
	up.Signal(syscall.SIGINT)
	require.Equal(t, 0, up.Wait())
	require.Equal(t, 255, sh.Wait())
	require.Contains(t, sh.Out.String(), `reason=server_shutdown initiator=agent expected=true detail="the agent is stopping"`)
}

// TestRefusals: one clear sentence each.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	check := func(name string, code int, part string, r site.Result) {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, code, r.Code, r.Stderr)
			require.Contains(t, r.Stderr, part)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
		})
	}
	check("unknown workspace", 255, "no workspace nowhere", s.Run("ssh", "nowhere"))
	check("name that cannot be", 2, "a name has 1 to 32 characters", s.Run("ssh", "No/Where/Else"))
	check("code used twice", 4, "code", s.Run("login", s.URL, "--code", "AAAA-BBBB-CCCC-DDDD"))
	check("wrong token", 4, "token", s.Run("login", s.URL, "--token-file", s.Write("wrong", "fl_u_wrong")))
	check("agent with a wrong token", 3, "does not accept this agent's token",
		s.Run("agent", s.URL, "--log-level", "error", "--state-dir", s.Path("other"), "--token-file", s.Write("wrong2", "fl_a_wrong")))
	check("agent without a token", 2, "token is missing", s.Run("agent", s.URL))
	check("server unreachable", 1, "cannot reach the server", s.Run("login", "http://"+site.FreeAddress(t), "--code", "x"))
	check("two agents in one directory", 1, "another agent",
		s.Run("agent", s.URL, "--state-dir", s.Path("agent"), "--token-file", s.AgentToken))

	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<html>\x1b[31mWelcome</html>")
	}))
	t.Cleanup(html.Close)
	check("something that is not Fairlead", 1, "is not a Fairlead server", s.Run("login", html.URL, "--code", "x"))

	stranger := site.NewHome(t)
	check("no login", 4, "not logged in", stranger.Run("ssh", "dev"))
	require.NoError(t, os.MkdirAll(stranger.Path("config"), 0o700))
	require.NoError(t, os.WriteFile(stranger.Path("config/profiles.json"), []byte("{}"), 0o644))
	check("login that others can read", 4, "chmod 600", stranger.Run("ssh", "dev"))
}
