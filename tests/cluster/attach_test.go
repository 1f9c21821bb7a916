package cluster

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// terminalNames is what `attach --list` tells.
func terminalNames(t *testing.T, s *site.Site) (names []string) {
	t.Helper()
	r := s.Run("attach", "dev", "--list", "--output", "json")
	require.Equal(t, 0, r.Code, r.Stderr)
	var all []struct{ Name string }
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &all))
	for _, terminal := range all {
		names = append(names, terminal.Name)
	}
	return names
}

// TestAttach: a terminal outlives its viewer's leaving and its crash, and each viewer is
// one row of the connection log.
func TestAttach(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	first := s.OnTerminal("attach", "dev")
	first.Echo("begun")
	first.Type("kept=42; printf '<set %s>\\n' $kept\r")
	first.Out.AwaitText(t, "<set 42>") // what is under way when a viewer leaves may be lost
	first.Type("\r~.")
	require.Equal(t, 0, first.Wait())
	require.Contains(t, first.Out.String(), "detached; the terminal goes on")
	require.Contains(t, first.Out.String(), "attach dev")
	s.Agent.Ending("reconnecting pty closed", "agent_to_client", "client_closed", "client", true)

	second := s.OnTerminal("attach", "dev")
	second.Out.AwaitText(t, "<begun>")      // what it missed
	second.Type("printf '<%s>\\n' $kept\r") // of the shell that the first one left
	second.Out.AwaitText(t, "<42>")
	second.Kill()

	require.Equal(t, []string{"main"}, terminalNames(t, s))
	third := s.OnTerminal("attach", "dev", "--take-over")
	third.Out.AwaitText(t, "<42>")
	fourth := s.OnTerminal("attach", "dev", "--take-over")
	require.Equal(t, 255, third.Wait())
	require.Contains(t, third.Out.String(), "reason=session_replaced initiator=client expected=true")
	fourth.Echo("mine")
	fourth.Type("exit 6\r")
	require.Equal(t, 6, fourth.Wait())
	require.Empty(t, terminalNames(t, s))

	site.Eventually(t, "four rows", func() bool {
		r := s.Run("connections", "--type", "reconnecting_pty", "--status", "closed", "--output", "json")
		require.Equal(t, 0, r.Code, r.Stderr)
		var rows []sdk.Connection
		require.NoError(t, json.Unmarshal([]byte(r.Stdout), &rows), r.Stdout)
		return len(rows) == 4
	})
}

func TestAttachKill(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	build := s.OnTerminal("attach", "dev", "--session", "build", "--", "sh", "-c", "echo begun''; read x")
	build.Out.AwaitText(t, "begun")
	require.Equal(t, []string{"build"}, terminalNames(t, s))
	require.Contains(t, s.Run("attach", "dev", "--list").Stdout, "build")
	missing := s.Run("attach", "dev", "--kill", "other")
	require.Equal(t, 1, missing.Code)
	require.Contains(t, missing.Stderr, "there is no terminal of that name")
	killed := s.Run("attach", "dev", "--kill", "build")
	require.Equal(t, 0, killed.Code, killed.Stderr)
	require.Equal(t, 255, build.Wait())
	require.Contains(t, build.Out.String(), "the user killed the terminal")
	require.Equal(t, 2, s.Run("attach", "dev").Code, "without a terminal")
	require.Equal(t, 2, s.Run("attach", "dev", "--list", "--kill", "x").Code)
}

// endedTerminals returns, by name, for what the agent ended terminals.
func endedTerminals(agent *site.Process) map[string]string {
	ended := map[string]string{}
	for line := range strings.Lines(agent.Stderr.String()) {
		var record struct{ Msg, Terminal, Cause string }
		if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "terminal ended" {
			ended[record.Terminal] = record.Cause
		}
	}
	return ended
}

// TestWithdrawnTerminals: with a user's right end the terminals that they left behind,
// at once or when the agent is back, and nobody else's.
func TestWithdrawnTerminals(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	bob := s.NewUser("bob")
	leave := func(h *site.Home, workspace, name string) {
		term := h.OnTerminal("attach", workspace, "--session", name)
		term.Echo("begun")
		term.Type("\r~.")
		require.Equal(t, 0, term.Wait())
	}
	ended := func(name, detail string) {
		t.Helper()
		site.Eventually(t, "the end of "+name, func() bool { return endedTerminals(s.Agent)[name] != "" })
		require.Equal(t, `reason=auth_revoked initiator=server expected=true detail="`+detail+`"`, endedTerminals(s.Agent)[name])
	}
	leave(s.Home, "dev", "mine")

	s.Must("workspace", "share", "dev", "bob")
	leave(bob, "admin/dev", "left")
	seen := bob.OnTerminal("attach", "admin/dev", "--session", "seen")
	seen.Echo("begun")
	s.Must("workspace", "unshare", "dev", "bob")
	require.Equal(t, 255, seen.Wait())
	require.Contains(t, seen.Out.String(), "reason=auth_revoked initiator=server expected=true")
	ended("left", "the right to reach this workspace was withdrawn")
	ended("seen", "the right to reach this workspace was withdrawn")

	s.Must("workspace", "share", "dev", "bob")
	leave(bob, "admin/dev", "closed")
	s.Must("user", "disable", "bob")
	ended("closed", "this account is disabled")

	s.Must("user", "enable", "bob")
	leave(bob, "admin/dev", "away")
	s.Agent.Freeze()
	s.Must("workspace", "unshare", "dev", "bob")
	s.Agent.Signal(syscall.SIGCONT)
	ended("away", "the right to reach this workspace was withdrawn")

	require.Equal(t, []string{"mine"}, terminalNames(t, s))
	s.Must("workspace", "stop", "dev")
	site.Eventually(t, "the end of mine", func() bool { return endedTerminals(s.Agent)["mine"] != "" })
	require.Contains(t, endedTerminals(s.Agent)["mine"], `reason=workspace_stopped initiator=server expected=true detail="stopped by admin"`)
}
