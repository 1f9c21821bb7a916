package cluster

import (
	"database/sql"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // to write what a newer version would
)

// TestBackupAndRestore moves a server to another directory from a backup that was
// taken while it ran: the login, the workspace and its agent go on.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	backup := s.h.path("backup.db")
	r := s.h.run("server", "backup", backup, "--state-dir", s.h.path("server"))
	require.Equal(t, 0, r.code, r.stderr)
	require.Empty(t, r.stdout)
	r = s.h.run("server", "backup", backup, "--state-dir", s.h.path("server"))
	require.Equal(t, result{1, "", "fairlead: " + backup + " exists already; it is left as it is\n"}, r)

	r = s.h.run("server", "restore", backup, "--state-dir", s.h.path("server"), "--force")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "is in use by another running Fairlead server")
	require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)

	s.server.signal(syscall.SIGTERM)
	require.Equal(t, 0, s.server.wait())
	require.NoError(t, os.Rename(s.h.path("server"), s.h.path("lost")))
	r = s.h.run("server", "restore", backup, "--state-dir", s.h.path("server"))
	require.Equal(t, 0, r.code, r.stderr)
	s.startServer()
	s.awaitAgent("online")
	require.Equal(t, result{code: 3}, s.h.run("ssh", "dev", "--", "exit 3"))
}

// TestNewerDatabaseIsRefused: a binary that was rolled back must not touch what the
// newer one wrote.
func TestNewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	server := h.start("server", "--listen", "127.0.0.1:0", "--state-dir", h.path("server"), "--stun-listen", "")
	server.stdout.awaitText(t, "--code ")
	server.signal(syscall.SIGTERM)
	require.Equal(t, 0, server.wait())

	db, err := sql.Open("sqlite", h.path("server/fairlead.db"))
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	require.NoError(t, err)
	require.NoError(t, db.Close())

	r := h.run("server", "--listen", "127.0.0.1:0", "--state-dir", h.path("server"), "--stun-listen", "")
	require.Equal(t, 1, r.code)
	require.Empty(t, r.stdout)
	last := strings.TrimSpace(r.stderr)
	require.Contains(t, last, "was written by a newer Fairlead (schema 9999, this one knows ")
	require.Contains(t, last, "start that version, or restore a backup")
	require.NotContains(t, last, "\n", "one sentence")
}
