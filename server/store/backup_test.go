package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/server/store"
)

// TestBackupWhileWriting takes backups of a database that somebody writes to. Each
// must be the database at one moment: the users in it are the first so many.
func TestBackupWhileWriting(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), dir)
	require.NoError(t, err)
	const users = 300
	name := func(i int) string { return fmt.Sprintf("u%04d", i) }
	wrote := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		for i := range users {
			if i == 10 {
				close(started)
			}
			u := store.User{ID: uuid.NewString(), Name: name(i), Role: store.RoleMember, CreatedAt: t0}
			if err := s.CreateUser(t.Context(), u); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	<-started
	var backups []string
	for i := range 5 {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("backup-%d", i))
		require.NoError(t, store.Backup(t.Context(), dir, path))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		backups = append(backups, path)
	}
	require.NoError(t, <-wrote)
	require.NoError(t, s.Close())

	for _, path := range backups {
		restored := filepath.Join(t.TempDir(), "new")
		require.NoError(t, store.Restore(t.Context(), path, restored, false))
		s, err := store.Open(t.Context(), restored)
		require.NoError(t, err)
		n, err := s.CountUsers(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, 10, "what was there before the backup is in it")
		for i := range n {
			_, err := s.UserByName(t.Context(), name(i))
			require.NoError(t, err, "%d users, and not this one: %s", n, name(i))
		}
		require.NoError(t, s.Close())
	}
}

func TestRestoreReplacesOnlyWhenForced(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	with := func(dir string, do func(*store.Store)) {
		s, err := store.Open(t.Context(), dir)
		require.NoError(t, err)
		do(s)
		require.NoError(t, s.Close())
	}
	with(dir, func(s *store.Store) {
		addUser(t, s, "before", store.RoleAdmin)
		require.NoError(t, store.Backup(t.Context(), dir, path))
		addUser(t, s, "after", store.RoleMember)
		requireOneSentence(t, store.Restore(t.Context(), path, dir, true), "in use by another running Fairlead server")
	})
	requireOneSentence(t, store.Restore(t.Context(), path, dir, false), "there is a database in "+dir+" already")
	// A server that crashed leaves its log behind; it must not be played into the backup.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "fairlead.db-wal"), []byte("the log of another database"), 0o600))
	require.NoError(t, store.Restore(t.Context(), path, dir, true))
	require.NoFileExists(t, filepath.Join(dir, "fairlead.db-wal"))
	require.FileExists(t, filepath.Join(dir, "fairlead.db.old"))
	require.NoFileExists(t, filepath.Join(dir, "fairlead.db.new"))
	with(dir, func(s *store.Store) {
		_, err := s.UserByName(t.Context(), "before")
		require.NoError(t, err)
		_, err = s.UserByName(t.Context(), "after")
		require.ErrorIs(t, err, store.ErrNotFound)
	})
	require.NoError(t, store.Restore(t.Context(), path, dir, true), "and again")
}

// TestRestoreCutShort: a restore that died between its renames leaves no server that
// starts with an empty database, and the next one finishes it.
func TestRestoreCutShort(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	s, err := store.Open(t.Context(), dir)
	require.NoError(t, err)
	addUser(t, s, "ada", store.RoleAdmin)
	require.NoError(t, store.Backup(t.Context(), dir, path))
	require.NoError(t, s.Close())
	database := filepath.Join(dir, "fairlead.db")
	require.NoError(t, os.Rename(database, database+".old"))
	require.NoError(t, os.WriteFile(database+"-wal", []byte("the log of the old one"), 0o600))

	_, err = store.Open(t.Context(), dir)
	requireOneSentence(t, err, "no database in "+dir+" but fairlead.db.old: a restore was cut short")
	require.NoFileExists(t, database)
	require.NoError(t, store.Restore(t.Context(), path, dir, false))
	require.NoFileExists(t, database+"-wal")
	require.FileExists(t, database+".old-wal", "the log goes where its database went")
	s, err = store.Open(t.Context(), dir)
	require.NoError(t, err)
	_, err = s.UserByName(t.Context(), "ada")
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

func TestBackupRefusals(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	taken := file("taken", "precious")
	requireOneSentence(t, store.Backup(t.Context(), dir, taken), taken+" exists already; it is left as it is")
	data, err := os.ReadFile(taken)
	require.NoError(t, err)
	require.Equal(t, "precious", string(data))
	requireOneSentence(t, store.Backup(t.Context(), t.TempDir(), filepath.Join(dir, "b")), "there is no database in ")
	requireOneSentence(t, store.Backup(t.Context(), dir, "/nowhere/b"), "no such file or directory")

	target := filepath.Join(t.TempDir(), "target")
	requireOneSentence(t, store.Restore(t.Context(), file("text", strings.Repeat("no database\n", 100)), target, false), "is not a Fairlead database")
	requireOneSentence(t, store.Restore(t.Context(), file("empty", ""), target, false), "is not a Fairlead database")
	requireOneSentence(t, store.Restore(t.Context(), "/nowhere/b", target, false), "no such file or directory")

	path := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, store.Backup(t.Context(), dir, path))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Error(t, store.Restore(t.Context(), file("half", string(whole[:len(whole)/2])), target, false))
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	requireOneSentence(t, store.Restore(t.Context(), path, target, false), "was written by a newer Fairlead (schema 9999, this one knows ")
	entries, err := os.ReadDir(target)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing but the lock is left: %v", entries)
}

func requireOneSentence(t *testing.T, err error, part string) {
	t.Helper()
	require.ErrorContains(t, err, part)
	require.NotContains(t, err.Error(), "\n")
}

// TestRestoreByRootLeavesTheOwner: root restores, another user's server opens it.
func TestRestoreByRootLeavesTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	from, path, dir := t.TempDir(), filepath.Join(t.TempDir(), "backup"), t.TempDir()
	s, err := store.Open(t.Context(), from)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, store.Backup(t.Context(), from, path))
	require.NoError(t, os.Chown(dir, 12345, 12346))
	require.NoError(t, store.Restore(t.Context(), path, dir, false))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2, "the database and the lock")
	for _, f := range files {
		info, err := f.Info()
		require.NoError(t, err)
		owner := info.Sys().(*syscall.Stat_t)
		require.Equal(t, []uint32{12345, 12346}, []uint32{owner.Uid, owner.Gid}, f.Name())
	}
}
