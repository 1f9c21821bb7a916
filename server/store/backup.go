package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
)

// oldSuffix is at the name of a database that a restore has replaced.
const oldSuffix = ".old"

// Backup writes a copy of the database in the state directory dir to the new file
// path (0600). A server may have it open and write to it meanwhile: the copy is the
// database at one moment. Every error is one sentence for the person who asked.
func Backup(ctx context.Context, dir, path string) error {
	source := filepath.Join(dir, databaseFile)
	if _, err := os.Stat(source); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no database in %s", dir)
		}
		return stateError(dir, err)
	}
	f, err := newFile(path) // with its mode from the first byte on: it will hold secrets
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), copyDatabase(ctx, source, path)); err != nil {
		return errors.Join(fmt.Errorf("back up %s: %w", source, err), os.Remove(path))
	}
	return nil
}

// newFile creates a file that only its owner may read, and never opens another's.
func newFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists already; it is left as it is", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create %w", err)
	}
	return f, nil
}

// copyDatabase copies a database that may be in use into the empty file path, reads
// the copy through, and sees to it that it is on the disk.
func copyDatabase(ctx context.Context, source, path string) error {
	err := withDatabase(source, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, `VACUUM INTO $1`, path)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := inspect(ctx, path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDirectory(filepath.Dir(path)))
}

// withDatabase opens an existing database on one connection, without migrating it.
func withDatabase(path string, do func(db *sql.DB) error) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: abs}).EscapedPath()+"?mode=rw&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	return errors.Join(do(db), db.Close())
}

// inspect reads a database through and returns its schema's version.
func inspect(ctx context.Context, path string) (version int64, err error) {
	err = withDatabase(path, func(db *sql.DB) error {
		var verdict string
		if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&verdict); err != nil {
			return fmt.Errorf("%s is not a Fairlead database: %w", path, err)
		}
		if verdict != "ok" {
			return fmt.Errorf("%s is damaged: %s", path, verdict)
		}
		if err := db.QueryRowContext(ctx, `SELECT MAX(version_id) FROM goose_db_version`).Scan(&version); err != nil {
			return fmt.Errorf("%s is not a Fairlead database: %w", path, err)
		}
		return nil
	})
	return version, err
}

// Restore makes the backup path the database of the state directory dir. It refuses
// while a server has dir, a backup that is damaged or newer than this binary, and,
// unless force is set, to replace a database; one that it replaces stays beside it
// with ".old" at its name. Every error is one sentence for the person who asked.
func Restore(ctx context.Context, path, dir string, force bool) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stateError(dir, err)
	}
	release, err := lock(dir)
	if err != nil {
		return err
	}
	return errors.Join(restore(ctx, path, dir, force), sameOwner(dir, filepath.Join(dir, lockFile)), release())
}

func restore(ctx context.Context, path, dir string, force bool) error {
	target := filepath.Join(dir, databaseFile)
	_, err := os.Stat(target)
	if err == nil && !force {
		return fmt.Errorf("there is a database in %s already; --force replaces it and keeps it as %s", dir, databaseFile+oldSuffix)
	}
	fresh := target + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) { // a restore that was cut short
		return stateError(dir, err)
	}
	if err := copyBackup(ctx, path, fresh); err != nil {
		return errors.Join(err, removeIfThere(fresh))
	}
	if err := sameOwner(dir, fresh); err != nil {
		return errors.Join(stateError(dir, err), os.Remove(fresh))
	}
	if err := setAside(target); err != nil {
		return errors.Join(stateError(dir, err), os.Remove(fresh))
	}
	if err := os.Rename(fresh, target); err != nil {
		return stateError(dir, err)
	}
	return syncDirectory(dir)
}

// copyBackup copies the file byte by byte and judges the copy: the backup itself may
// be on a medium that cannot be written to.
func copyBackup(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	defer in.Close()
	out, err := newFile(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("copy backup: %w", err)
	}
	version, err := inspect(ctx, to)
	if err != nil {
		return fmt.Errorf("%s cannot be restored: %w", from, err)
	}
	known, err := newestSchema()
	if err != nil {
		return err
	}
	if version > known {
		return fmt.Errorf("%s was written by a newer Fairlead (schema %d, this one knows %d): restore it with that version", from, version, known)
	}
	return nil
}

// newestSchema returns the schema's version that this binary makes.
func newestSchema() (int64, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	var newest int64
	for _, name := range names {
		n, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("read migrations: %w", err)
		}
		newest = max(newest, n)
	}
	return newest, nil
}

// setAside renames a database, if there is one, and the files that SQLite may have left
// beside it: its log belongs to it and to no other. The database goes first: if this is
// cut short a server refuses to start without it, and the next restore goes on here.
func setAside(path string) error {
	if _, err := os.Stat(path); err == nil {
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := removeIfThere(path + oldSuffix + suffix); err != nil {
				return err
			}
		}
		if err := os.Rename(path, path+oldSuffix); err != nil {
			return err
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+suffix, path+oldSuffix+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
