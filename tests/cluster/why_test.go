package cluster

import (
	"encoding/json"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// answer is what `fairlead why --output json` prints.
type answer struct {
	Source string `json:"source"`
	Note   string `json:"note"`
	sdk.Explanation
	ConnectionID string          `json:"connection_id"`
	Connection   *sdk.Connection `json:"connection"`
}

func why(t *testing.T, h *site.Home, args ...string) (a answer) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(h.Must(append([]string{"why", "--output", "json"}, args...)...)), &a))
	return a
}

// TestWhy: what ended last is told, however many forwards and older sessions there are, in
// the words of the API; without the server by what this machine noted.
func TestWhy(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	r := s.Run("why")
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "no session: none of yours")

	require.Equal(t, 3, s.Run("ssh", "dev", "--", "exit 3").Code)
	id := awaitClosed(t, s.Home, 1)[0].ID
	told := why(t, s.Home)
	require.Equal(t, "server", told.Source)
	require.Equal(t, "ending", told.Kind)
	require.Equal(t, id, told.ConnectionID)
	require.Regexp(t, `^The program on dev ended at \d\d:\d\d with status 3\.$`, told.Sentence)
	require.True(t, told.Expected)
	require.Empty(t, told.Waiting)
	require.Equal(t, "agent", decided(told).Party)
	require.Equal(t, "process_exit", decided(told).Fact)
	require.NotNil(t, told.Connection.Verdict)
	require.Contains(t, s.Must("why", id[:8]), "the agent of dev saw the program end with status 3 (this decided)")

	// The verdict can be replayed from what was testified.
	file := s.Write("end.jsonl", s.Must("connections", "show", id, "--testimonies"))
	require.Contains(t, s.Must("verdict", "replay", file), "R1")

	// A client that is killed tells of it by its next command, and so does why, at once.
	p := s.Start("ssh", "dev", "--", "echo ready; exec sleep 1000")
	p.Stdout.AwaitText(t, "ready")
	var open []sdk.Connection
	site.Eventually(t, "its row", func() bool {
		open = connections(t, s.Home, "--status", "open", "--connect-type", "agent_to_client")
		return len(open) == 1
	})
	site.Eventually(t, "its record", func() bool {
		found := false
		_ = filepath.WalkDir(s.Dir, func(path string, _ fs.DirEntry, _ error) error {
			found = found || filepath.Base(filepath.Dir(path)) == open[0].ID // a file of it
			return nil
		})
		return found
	})
	require.NoError(t, p.Cmd.Process.Kill())
	site.Eventually(t, "an account of the client's death", func() bool { return why(t, s.Home).ConnectionID == open[0].ID })
	killed := why(t, s.Home)
	require.Regexp(t, `^Fairlead on your computer was killed or crashed at`, killed.Sentence)
	require.False(t, killed.Expected)
	require.Equal(t, "Connect again: "+site.Binary+" ssh dev.", killed.NextStep)

	s.Server.Stop()
	offline := why(t, s.Home)
	require.Equal(t, "machine", offline.Source)
	require.Contains(t, offline.Note, "The server cannot be reached")
	require.Equal(t, killed.ConnectionID, offline.ConnectionID)
	require.Regexp(t, `^Fairlead on your computer was killed or crashed at`, offline.Sentence)
	require.Nil(t, offline.Connection)
	require.Regexp(t, `with status 3\. This is normal\.`, s.Must("why", id[:8]))
	none := s.Run("why", "other")
	require.Equal(t, 1, none.Code)
	require.Contains(t, none.Stderr, "this machine noted no session")
}

// decided is what the verdict rests on first.
func decided(a answer) sdk.TimelineEntry {
	for _, e := range a.Timeline {
		if e.Role == "decided" {
			return e
		}
	}
	return sdk.TimelineEntry{}
}
