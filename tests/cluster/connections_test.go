package cluster

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// connections returns what `fairlead connections` lists.
func connections(t *testing.T, h *site.Home, args ...string) []sdk.Connection {
	t.Helper()
	var rows []sdk.Connection
	require.NoError(t, json.Unmarshal([]byte(h.Must(append([]string{"connections", "--output", "json"}, args...)...)), &rows))
	return rows
}

// awaitClosed waits until n sessions are closed, and returns them, the newest first.
func awaitClosed(t *testing.T, h *site.Home, n int, args ...string) (rows []sdk.Connection) {
	t.Helper()
	args = append([]string{"--connect-type", "agent_to_client", "--status", "closed"}, args...)
	site.Eventually(t, "closed rows", func() bool {
		rows = connections(t, h, args...)
		return len(rows) == n
	})
	return rows
}

// TestConnectionLog: every session and every control link is a row; a member sees their
// own and those to their workspaces, and nobody else's.
func TestConnectionLog(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	eve := s.NewUser("eve")
	s.Must("workspace", "share", "dev", "eve")

	require.Equal(t, 3, s.Run("ssh", "dev", "--", "echo hello; exit 3").Code)
	require.Zero(t, eve.Run("ssh", "admin/dev", "--", "true").Code)
	rows := awaitClosed(t, s.Home, 2)
	mine, hers := rows[1], rows[0]
	require.Equal(t, "process_exited", *mine.Reason)
	require.True(t, *mine.Expected)
	require.Equal(t, "agent", *mine.Initiator)
	require.Contains(t, *mine.Detail, "3")
	require.Equal(t, 3, *mine.ExitCode)
	require.EqualValues(t, len("hello\n"), mine.BytesSent)
	require.Equal(t, "admin", mine.User)
	require.Equal(t, "eve", hers.User)
	require.Equal(t, "graceful", *hers.Reason)
	for _, row := range connections(t, s.Home, "--status", "closed") {
		require.NotEmpty(t, *row.Reason)
		require.NotEqual(t, "unknown", *row.Reason)
		require.NotNil(t, row.Expected)
		require.NotNil(t, row.Detail)
	}
	links := connections(t, s.Home, "--connect-type", "server_to_agent")
	require.Len(t, links, 1)
	require.Equal(t, "open", links[0].Status)

	// Eve sees hers; another's does not exist.
	for _, row := range connections(t, eve) {
		require.Equal(t, "eve", row.User)
	}
	require.Len(t, connections(t, eve, "--workspace", "admin/dev"), 1)
	r := eve.Run("connections", "show", mine.ID)
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "no connection of yours has an id that begins with")

	show := s.Must("connections", "show", mine.ID[:8])
	require.Contains(t, show, "process_exited")
	require.Contains(t, show, "admin/dev")
	require.Regexp(t, `^The program on dev ended at \d\d:\d\d with status 3\. This is normal\.`, s.Must("why", mine.ID[:8]))
	require.Regexp(t, `^The program on dev finished at \d\d:\d\d without an error\. This is normal\.`, s.Must("why", "dev"))
	require.Contains(t, s.Must("why"), "with status 3")
	require.Contains(t, eve.Must("why"), "The program on admin/dev finished at")

	text := s.Must("connections", "--output", "csv", "--limit", "1", "--type", "ssh")
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 2)
	require.Len(t, strings.Split(strings.TrimSpace(s.Must("connections", "--output", "ndjson", "--limit", "0")), "\n"),
		len(connections(t, s.Home, "--limit", "0")))
}

// TestConnectionsMisuse: one sentence each.
func TestConnectionsMisuse(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	for _, tc := range []struct {
		code int
		says string
		args []string
	}{
		{2, "use table, json, csv or ndjson", []string{"--output", "xml"}},
		{2, "neither a time", []string{"--since", "soon"}},
		{2, "use --output ndjson with --follow", []string{"--follow", "--output", "json"}},
		{2, "--limit -1", []string{"--limit", "-1"}},
		{2, "boredom", []string{"--reason", "boredom"}},
		{2, "there are closed, open, unheard", []string{"--status", "asleep"}},
		{2, "expected is true or false", []string{"--expected", "maybe"}},
		{2, "at least 4", []string{"--id", "ab"}},
		{2, "is not a name", []string{"--workspace", "../etc"}},
	} {
		r := s.Run(append([]string{"connections"}, tc.args...)...)
		require.Equal(t, tc.code, r.Code, "%q: %s", tc.args, r.Stderr)
		require.Contains(t, r.Stderr, tc.says, "%q", tc.args)
		require.Empty(t, r.Stdout)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"))
	}
	nothing := s.Run("why", "dev")
	require.Equal(t, 1, nothing.Code, "nothing has ended")
	require.Contains(t, nothing.Stderr, "no session: none to dev")
	require.Equal(t, 2, s.Run("why", "UPPER").Code)
	require.Equal(t, "[]\n", s.Must("connections", "--type", "ssh", "--output", "json"))
}

// TestFollowEndsOnPurpose: Ctrl-C is how to end it, and no failure.
func TestFollowEndsOnPurpose(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p := s.Start("connections", "--follow", "--output", "ndjson", "--type", "ssh")
		site.Eventually(t, "a row of a new session", func() bool {
			s.Must("ssh", "dev", "--", "true")
			return strings.Contains(p.Stdout.String(), `"disconnect_reason":"graceful"`)
		})
		p.Signal(sig)
		require.Equal(t, 0, p.Wait(), p.Stderr)
		require.Empty(t, p.Stderr.String())
	}
}
