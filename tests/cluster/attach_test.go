package cluster

import (
	"encoding/json"
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
