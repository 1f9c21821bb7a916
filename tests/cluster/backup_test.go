package cluster

import (
	"database/sql"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // to write what a newer version would

	"fairlead.dev/fairlead/tests/site"
)

// TestBackupAndRestore moves a server to another directory from a backup that was
// taken while it ran: the login, the workspace and its agent go on.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	backup := s.Path("backup.db")
	r := s.Run("server", "backup", backup, "--state-dir", s.Path("server"))
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Empty(t, r.Stdout)
	r = s.Run("server", "backup", backup, "--state-dir", s.Path("server"))
	require.Equal(t, site.Result{Code: 1, Stderr: "fairlead: " + backup + " exists already; it is left as it is\n"}, r)

	r = s.Run("server", "restore", backup, "--state-dir", s.Path("server"), "--force")
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "is in use by another running Fairlead server")
	require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)

	s.Server.Stop()
	require.NoError(t, os.Rename(s.Path("server"), s.Path("lost")))
	r = s.Run("server", "restore", backup, "--state-dir", s.Path("server"))
	require.Equal(t, 0, r.Code, r.Stderr)
	s.StartServer()
	s.AwaitAgent("online")
	require.Equal(t, site.Result{Code: 3}, s.Run("ssh", "dev", "--", "exit 3"))
}

// TestNewerDatabaseIsRefused: a binary that was rolled back must not touch what the
// newer one wrote.
func TestNewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	server := h.Start("server", "--listen", "127.0.0.1:0", "--state-dir", h.Path("server"), "--stun-listen", "")
	server.Stdout.AwaitText(t, "--code ")
	server.Stop()

	db, err := sql.Open("sqlite", h.Path("server/fairlead.db"))
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	require.NoError(t, err)
	require.NoError(t, db.Close())

	r := h.Run("server", "--listen", "127.0.0.1:0", "--state-dir", h.Path("server"), "--stun-listen", "")
	require.Equal(t, 1, r.Code)
	require.Empty(t, r.Stdout)
	last := strings.TrimSpace(r.Stderr)
	require.Contains(t, last, "was written by a newer Fairlead (schema 9999, this one knows ")
	require.Contains(t, last, "start that version, or restore a backup")
	require.NotContains(t, last, "\n", "one sentence")
}
