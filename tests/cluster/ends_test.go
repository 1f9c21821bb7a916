package cluster

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// row is a row of the connection log, as programs read it.
type row struct {
	ID        string `json:"id"`
	User      string `json:"user"`
	Status    string `json:"status"`
	Layer     string `json:"connect_type"`
	Reason    string `json:"disconnect_reason"`
	Initiator string `json:"disconnect_initiator"`
	Detail    string `json:"disconnect_detail"`
	Expected  *bool  `json:"disconnect_expected"`
	ExitCode  *int   `json:"exit_code"`
}

// words are the five fields of an ending, as a log line, a row or a client tells them.
type words struct {
	layer, reason, initiator string
	expected                 bool
	detail                   string
}

func (r row) words() words {
	return words{r.Layer, r.Reason, r.Initiator, r.Expected != nil && *r.Expected, r.Detail}
}

func lineWords(record map[string]any) words {
	return words{
		record["connect_type"].(string), record["disconnect_reason"].(string), record["disconnect_initiator"].(string),
		record["disconnect_expected"].(bool), record["disconnect_detail"].(string),
	}
}

// rows asks for the connection log, the newest first.
func rows(h *site.Home, args ...string) []row {
	h.T.Helper()
	var all []row
	out := h.Must(append([]string{"connections", "--output", "json"}, args...)...)
	require.NoError(h.T, json.Unmarshal([]byte(out), &all))
	return all
}

// closedRow waits until the newest row of a layer is closed.
func closedRow(h *site.Home, layer string) (r row) {
	h.T.Helper()
	site.Eventually(h.T, "a closed row of "+layer, func() bool {
		all := rows(h, "--connect-type", layer, "-n", "1")
		if len(all) == 1 {
			r = all[0]
		}
		return r.Status == "closed"
	})
	return r
}

// openRow waits for the row of the one session that is open.
func openRow(h *site.Home) (r row) {
	h.T.Helper()
	site.Eventually(h.T, "an open row", func() bool {
		all := rows(h, "--connect-type", "agent_to_client", "--status", "open")
		if len(all) == 1 {
			r = all[0]
		}
		return len(all) == 1
	})
	return r
}

// saidByAll checks that the stored row of a session, the lines of agent and server, and
// the client's last words are the same five fields, and returns them.
func saidByAll(s *site.Site, client *site.Process) words {
	t := s.T
	t.Helper()
	require.Equal(t, 255, client.Wait(), client.Stderr)
	stored := closedRow(s.Home, "agent_to_client")
	require.Nil(t, stored.ExitCode, "no process ended it")
	want := stored.words()
	for _, side := range []struct {
		log *site.Process
		msg string
	}{{s.Agent, "ssh session closed"}, {s.Server, "connection ended"}} {
		var line map[string]any
		site.Eventually(t, side.msg, func() bool {
			for _, e := range side.log.Stderr.Endings(t, side.msg) {
				if e["connection_id"] == stored.ID {
					line = e
				}
			}
			return line != nil
		})
		require.Equal(t, want, lineWords(line), side.msg)
	}
	require.Contains(t, client.Stderr.String(), fmt.Sprintf("reason=%s initiator=%s expected=%t detail=%q",
		want.reason, want.initiator, want.expected, want.detail))
	lines := 1
	if !want.expected {
		lines++ // what happened, in plain language
	}
	require.Equal(t, lines, strings.Count(client.Stderr.String(), "\n"), client.Stderr)
	return want
}

// TestWorkspaceStop: sessions end, new ones are refused, and both hold until start, over
// restarts of agent and server.
func TestWorkspaceStop(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	eve := s.NewUser("eve")
	p := session(s.Home, "dev")
	require.Contains(t, s.Must("workspace", "stop", "dev"), "Workspace dev is stopped")
	require.Equal(t, words{"agent_to_client", "workspace_stopped", "server", true, "stopped by admin"}, saidByAll(s, p))
	require.Contains(t, s.Must("workspace", "stop", "dev"), "is stopped already, by admin")
	require.Equal(t, 1, eve.Run("workspace", "stop", "admin/dev").Code, "it is not hers")

	refused := func() {
		t.Helper()
		r := s.Run("ssh", "dev", "--", "true")
		require.Equal(t, 7, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, "stopped by admin")
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
	}
	refused()
	require.Contains(t, s.Must("ls"), "online, stopped", "the agent stays connected")
	s.Server.Kill()
	s.StartServer()
	s.AwaitAgent("online")
	refused()
	s.Agent.Kill()
	s.AwaitAgent("offline")
	require.Contains(t, s.Must("workspace", "start", "dev"), "is started")
	require.Contains(t, s.Must("workspace", "stop", "dev"), "Its agent is offline")
	s.StartAgent()
	refused()
	require.Contains(t, s.Must("workspace", "start", "dev"), "is started")
	require.Contains(t, s.Must("workspace", "start", "dev"), "was not stopped")
	site.Eventually(t, "a session", func() bool { return s.Run("ssh", "dev", "--", "exit 4").Code == 4 })
}

// TestAgentOfAStoppedWorkspaceStops: what an agent was told before is why it stops.
func TestAgentOfAStoppedWorkspaceStops(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	p := session(s.Home, "dev")
	s.Must("workspace", "stop", "dev")
	saidByAll(s, p)
	s.Agent.Stop()
	stored := closedRow(s.Home, "server_to_agent")
	require.Equal(t, words{"server_to_agent", "workspace_stopped", "server", true, "stopped by admin"}, stored.words())
	require.Equal(t, stored.words(), lineWords(s.Server.Stderr.Endings(t, "agent control link ended")[0]))
	require.Equal(t, stored.words(), lineWords(s.Agent.Stderr.Endings(t, "disconnected from server")[0]))
}

// TestWorkspaceDelete: its sessions and its agent's link end as workspace_stopped.
func TestWorkspaceDelete(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	p := session(s.Home, "dev")
	s.Must("workspace", "delete", "dev")
	want := words{"agent_to_client", "workspace_stopped", "server", true, "the workspace was deleted by admin"}
	require.Equal(t, want, saidByAll(s, p))
	require.Equal(t, 3, s.Agent.Wait(), "the agent does not come back")
	require.Contains(t, s.Agent.Stderr.String(), "fairlead: this agent's workspace is gone: the workspace was deleted by admin")
	want.layer = "server_to_agent"
	require.Equal(t, want, closedRow(s.Home, "server_to_agent").words())
	require.Equal(t, want, lineWords(s.Agent.Stderr.Endings(t, "disconnected from server")[0]))
	require.Empty(t, rows(s.Home, "--status", "open", "--connect-type", "agent_to_client"))
}

// TestKill: an operator ends one connection, of any kind, and everybody says who.
func TestKill(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob, eve := s.NewUser("bob"), s.NewUser("eve")
	s.Must("workspace", "share", "dev", "bob")

	t.Run("a session", func(t *testing.T) {
		p := session(bob, "admin/dev")
		id := openRow(s.Home).ID
		for _, other := range []*site.Home{bob, eve} {
			r := other.Run("connections", "kill", id)
			require.Equal(t, 1, r.Code, r.Stderr)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
		}
		require.Equal(t, id, openRow(s.Home).ID, "it lives")
		require.Contains(t, s.Must("connections", "kill", id[:8]), "admin_terminated by server, ended by admin")
		require.Equal(t, words{"agent_to_client", "admin_terminated", "server", true, "ended by admin"}, saidByAll(s, p))
		r := s.Run("connections", "kill", id)
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, "has ended already: admin_terminated by server")
		require.Contains(t, s.Run("connections", "kill", "00000000-0000-4000-8000-000000000000").Stderr, "no connection")
		require.Equal(t, "still\n", bob.Must("ssh", "admin/dev", "--", "echo still"), "nothing else has ended")
	})
	t.Run("control links", func(t *testing.T) {
		p := session(s.Home, "dev")
		for _, layer := range []string{"server_to_agent", "client_to_server"} {
			open := rows(s.Home, "--connect-type", layer, "--status", "open")
			require.Len(t, open, 1)
			s.Must("connections", "kill", open[0].ID)
			var ended row
			for _, r := range rows(s.Home, "--id", open[0].ID) {
				ended = r
			}
			require.Equal(t, words{layer, "admin_terminated", "server", true, "ended by admin"}, ended.words())
		}
		require.Equal(t, words{"server_to_agent", "admin_terminated", "server", true, "ended by admin"},
			lineWords(s.Agent.Stderr.Endings(t, "disconnected from server")[0]))
		s.AwaitAgent("online")
		require.Equal(t, "again\n", s.Must("ssh", "dev", "--", "echo again"))
		p.Signal(syscall.SIGTERM)
		p.Wait()
		require.Contains(t, p.Stderr.String(), "reason=client_closed", "the session lived on")
	})
	t.Run("of an agent that is away", func(t *testing.T) {
		p := session(s.Home, "dev")
		id := openRow(s.Home).ID
		s.Agent.Freeze()
		site.Eventually(t, "an agent that is away", func() bool { return strings.Contains(s.Must("ls"), "offline") })
		r := s.Run("connections", "kill", id)
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stderr, "is offline and cannot be told")
		s.Agent.Signal(syscall.SIGCONT)
		s.AwaitAgent("online")
		require.Contains(t, s.Must("connections", "kill", id), "admin_terminated")
		require.Equal(t, 255, p.Wait())
	})
}

// TestSessionPolicy: sessions that are idle, or old, end by the rule, which is told.
func TestSessionPolicy(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer("--session-limit", "4s")
	s.Settle()
	s.StartAgent()
	t.Run("the server's default", func(t *testing.T) {
		p := session(s.Home, "dev")
		require.Equal(t, words{"agent_to_client", "session_limit", "agent", true,
			"the session lasted 4s, and the server's default policy allows no more"}, saidByAll(s, p))
	})
	t.Run("the workspace's own", func(t *testing.T) {
		out := s.Must("workspace", "policy", "dev", "--session-limit", "0", "--idle-timeout", "2s")
		require.Contains(t, out, "idle timeout:      2s\nsession limit:     never\n")
		busy := s.Start("ssh", "dev", "--", "while :; do echo up; sleep 0.3; done")
		busy.Stdout.AwaitText(t, "up")
		sh := s.OpenShell("dev")
		require.Equal(t, 255, sh.Wait())
		said := sh.Out.String()
		require.Contains(t, said, "fairlead: this session ends in 1s unless something passes through it")
		require.Contains(t, said, "reason=idle_timeout initiator=agent expected=true")
		require.Contains(t, said, "nothing passed through the session for 2s, and the workspace's policy allows no more")
		select {
		case <-busy.Done:
			require.Fail(t, "a busy session ended", busy.Stderr.String())
		default:
		}
		s.Must("workspace", "policy", "dev", "--session-limit", "1s") // a session that is older ends at once
		require.Equal(t, 255, busy.Wait())
		require.Contains(t, busy.Stderr.String(), "reason=session_limit")
	})
	t.Run("what cannot be", func(t *testing.T) {
		for _, args := range [][]string{{"--idle-timeout", "-1s"}, {"--idle-timeout", "soon"}, {"--session-limit", "100ms"}, {"--session-limit", "999999h"}} {
			r := s.Run(append([]string{"workspace", "policy", "dev"}, args...)...)
			require.Equal(t, 2, r.Code, "%v: %s", args, r.Stderr)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
		}
		require.NotEqual(t, 0, s.Run("server", "--state-dir", s.Path("x"), "--listen", "127.0.0.1:0", "--idle-timeout=-1s").Code)
		const byDefault = "idle timeout:      never (the server's default)\nsession limit:     4s (the server's default)\n" +
			"file transfer:     allowed\nlocal forwarding:  allowed\nremote forwarding: allowed\naccepted env:      *\n"
		require.Equal(t, byDefault, s.Must("workspace", "policy", "dev", "--idle-timeout", "default", "--session-limit", "default"))
		onServer := s.With(t)
		onServer.Setenv("FAIRLEAD_IDLE_TIMEOUT=7m")
		require.Equal(t, byDefault, onServer.Must("workspace", "policy", "dev"), "an option of the server is no policy of a workspace")
	})
}

// TestPlatformNotice: an end of the agent that a platform gave notice of is its doing,
// whether or not the agent can speak.
func TestPlatformNotice(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	t.Run("bad input", func(t *testing.T) {
		for _, args := range [][]string{{}, {"--deadline", "-1m"}, {"--deadline", "9999h"}, {"--deadline", "1m", "--kind", "Bad Kind"}} {
			r := s.Run(append([]string{"workspace", "notice", "dev"}, args...)...)
			require.Equal(t, 2, r.Code, "%v: %s", args, r.Stderr)
			require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
		}
		require.Contains(t, s.Run("workspace", "notice", "dev", "--withdraw").Stderr, "no notice was given")
	})
	evicted := func(t *testing.T, layer string, r row) {
		t.Helper()
		require.Equal(t, []any{layer, "workspace_evicted", "server", false},
			[]any{r.Layer, r.Reason, r.Initiator, r.Expected != nil && *r.Expected}, "%+v", r)
		require.Contains(t, r.Detail, "preempted: the platform gave notice for ")
	}
	t.Run("an agent that is killed without one crashed", func(t *testing.T) {
		s.Agent.Kill()
		require.Equal(t, "network_error", closedRow(s.Home, "server_to_agent").Reason)
		s.Must("workspace", "notice", "dev", "--deadline", "1h") // later than the end
		require.Equal(t, "network_error", closedRow(s.Home, "server_to_agent").Reason, "it covers nothing")
		s.Must("workspace", "notice", "dev", "--withdraw")
		s.StartAgent()
	})
	t.Run("told and stopped", func(t *testing.T) {
		sh := s.OpenShell("dev")
		p := session(s.Home, "dev")
		s.Must("workspace", "notice", "dev", "--kind", "preempted", "--deadline", "1h")
		sh.Out.AwaitText(t, "fairlead: the platform takes this workspace away at ")
		s.Agent.Stop()
		require.Equal(t, 255, sh.Wait())
		require.Contains(t, sh.Out.String(), "reason=workspace_evicted initiator=server expected=false")
		evicted(t, "agent_to_client", closedRow(s.Home, "agent_to_client"))
		evicted(t, "server_to_agent", closedRow(s.Home, "server_to_agent"))
		saidByAll(s, p)
		s.StartAgent()
	})
	t.Run("killed", func(t *testing.T) {
		p := session(s.Home, "dev")
		s.Agent.Kill()
		require.Equal(t, 255, p.Wait())
		require.Contains(t, p.Stderr.String(), "reason=workspace_evicted initiator=server expected=false")
		evicted(t, "server_to_agent", closedRow(s.Home, "server_to_agent"))
		stored := closedRow(s.Home, "agent_to_client")
		evicted(t, "agent_to_client", stored)
		s.StartAgent() // its journal says only that it died
		site.Eventually(t, "the report of the next life", func() bool {
			return strings.Contains(s.Must("connections", "--output", "json", "--id", stored.ID), `"revision":1`)
		})
		evicted(t, "agent_to_client", rows(s.Home, "--id", stored.ID)[0])
	})
	t.Run("withdrawn", func(t *testing.T) {
		sh := s.OpenShell("dev")
		require.Contains(t, s.Must("workspace", "notice", "dev", "--withdraw"), "withdrawn")
		sh.Out.AwaitText(t, "fairlead: the platform leaves this workspace where it is: the notice is withdrawn")
		s.Agent.Stop()
		require.Equal(t, 255, sh.Wait())
		require.Equal(t, "server_shutdown", closedRow(s.Home, "server_to_agent").Reason)
	})
}

// TestSessionReplaced: a user who begins a session of a name again ends the former.
func TestSessionReplaced(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob := s.NewUser("bob")
	s.Must("workspace", "share", "dev", "bob")
	start := func(h *site.Home, workspace, name string) *site.Process {
		p := h.Start("ssh", "--name", name, workspace, "--", "echo $FAIRLEAD_SESSION; sleep 1000")
		p.Stdout.AwaitText(t, name+"\n")
		return p
	}
	other := start(bob, "admin/dev", "build")
	first := start(s.Home, "dev", "build")
	second := start(s.Home, "dev", "build")
	require.Equal(t, 255, first.Wait())
	require.Contains(t, first.Stderr.String(), `reason=session_replaced initiator=client expected=true detail="admin began the session build anew"`)
	var ended []row
	site.Eventually(t, "the row", func() bool {
		ended = rows(s.Home, "--reason", "session_replaced")
		return len(ended) == 1
	})
	require.Equal(t, words{"agent_to_client", "session_replaced", "client", true, "admin began the session build anew"}, ended[0].words())
	line := s.Agent.Stderr.Endings(t, "ssh session closed")
	require.Len(t, line, 1, "bob's session of that name is bob's")
	require.Equal(t, ended[0].words(), lineWords(line[0]))
	for _, p := range []*site.Process{other, second} {
		p.Signal(syscall.SIGTERM)
		p.Wait()
		require.Contains(t, p.Stderr.String(), "reason=client_closed")
	}
	for _, args := range [][]string{{"--name", "No Name", "dev"}, {"--name", "x", "--stdio", "dev"}} {
		require.Equal(t, 2, s.Run(append([]string{"ssh"}, args...)...).Code)
	}
}

// TestStoredEnds: what ended otherwise on purpose is stored as it is told.
func TestStoredEnds(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	t.Run("token revoked", func(t *testing.T) {
		bob := s.NewUser("bob")
		s.Must("workspace", "share", "dev", "bob")
		p := session(bob, "admin/dev")
		bob.Must("logout")
		require.Equal(t, words{"agent_to_client", "auth_revoked", "server", true, "the token was revoked"}, saidByAll(s, p))
		site.Eventually(t, "the client's link", func() bool {
			links := rows(s.Home, "--connect-type", "client_to_server", "--user", "bob", "--reason", "auth_revoked")
			return len(links) == 1 && links[0].Initiator == "server"
		})
	})
	t.Run("token expired", func(t *testing.T) {
		token := s.Path("short")
		s.Must("token", "create", "short", "--expires", "5s", "--token-file", token)
		h := site.NewHome(t)
		h.Must("login", s.URL, "--token-file", token)
		p := session(h, "dev")
		w := saidByAll(s, p)
		require.Equal(t, "auth_expired", w.reason)
		require.Equal(t, "server", w.initiator)
	})
	t.Run("server shutdown", func(t *testing.T) {
		s.Server.Stop()
		s.StartServer()
		s.AwaitAgent("online")
		links := rows(s.Home, "--connect-type", "server_to_agent", "--status", "closed", "-n", "1")
		require.Equal(t, []string{"server_shutdown", "server"}, []string{links[0].Reason, links[0].Initiator})
	})
	t.Run("duplicate agent", func(t *testing.T) {
		p := session(s.Home, "dev")
		older := s.Agent
		clone := secondAgent(s)
		require.Equal(t, 255, p.Wait())
		require.Equal(t, 3, older.Wait())
		s.AwaitAgent("online")
		for _, layer := range []string{"agent_to_client", "server_to_agent"} {
			site.Eventually(t, layer, func() bool {
				found := rows(s.Home, "--connect-type", layer, "--reason", "duplicate_agent")
				return len(found) == 1 && found[0].Initiator == "server" && !*found[0].Expected
			})
		}
		s.Agent = clone
	})
	t.Run("agent shutdown", func(t *testing.T) {
		p := session(s.Home, "dev")
		s.Agent.Stop()
		require.Equal(t, words{"agent_to_client", "server_shutdown", "agent", true, "the agent is stopping"}, saidByAll(s, p))
		require.Equal(t, words{"server_to_agent", "server_shutdown", "agent", true, "the agent is stopping"}, closedRow(s.Home, "server_to_agent").words())
	})
}

// TestStockSSHIsTold: the user of a stock ssh reads who ended what, and why a stopped
// workspace lets nobody in.
func TestStockSSHIsTold(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Must("config-ssh", "--ssh-config-file", s.Path(".ssh/config"))
	start := func(name string) *site.Process {
		ssh, err := exec.LookPath("ssh")
		require.NoError(t, err, "install the stock OpenSSH client")
		p := s.StartCommand(exec.Command(ssh, "-F", s.Path(".ssh/config"), "-o", "BatchMode=yes", "-o", "SetEnv=FAIRLEAD_SESSION="+name,
			"dev.fairlead", "echo up''; sleep 1000"))
		p.Stdout.AwaitText(t, "up\n")
		return p
	}
	p := start("one")
	s.Must("connections", "kill", openRow(s.Home).ID)
	require.Equal(t, 255, p.Wait())
	require.Contains(t, p.Stderr.String(), "fairlead: session ended by server: admin_terminated: ended by admin\n")

	p = start("build")
	next := start("build")
	require.Equal(t, 255, p.Wait())
	require.Contains(t, p.Stderr.String(), "fairlead: session ended by client: session_replaced: admin began the session build anew\n")

	s.Must("workspace", "stop", "dev")
	require.Equal(t, 255, next.Wait())
	require.Contains(t, next.Stderr.String(), "workspace_stopped: stopped by admin\n")
	r := sshWith(s.Home, "dev.fairlead", "true")
	require.Equal(t, 255, r.Code)
	require.Contains(t, r.Stderr, "workspace_stopped: stopped by admin")
	require.Empty(t, rows(s.Home, "--status", "open", "--connect-type", "agent_to_client"))
}
