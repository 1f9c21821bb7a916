package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// databaseFile is the database's name in the state directory. SQLite keeps two more
// files beside it while it is open.
const databaseFile = "fairlead.db"

// lockFile is held by the process that has the state directory.
const lockFile = "lock"

// Open opens the database in the state directory dir, which it creates (0700) when it
// is missing, and brings it to this binary's version. One process at a time may have
// it open. Every error is one sentence for the person who started the server.
func Open(ctx context.Context, dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	path := filepath.Join(dir, databaseFile)
	if err := prepare(dir, path); err != nil {
		return nil, err
	}
	release, err := lock(dir)
	if err != nil {
		return nil, err
	}
	s, err := open(path, release)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	if err := s.migrate(ctx, path); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// prepare makes the directory and an empty database file that only its owner may read:
// the database holds the server's secret keys, and SQLite gives its two other files
// the mode of the first.
func prepare(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stateError(dir, err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(path + oldSuffix); err == nil {
			return fmt.Errorf("there is no database in %s but %s: a restore was cut short; run it again, or move that file away to begin anew",
				dir, databaseFile+oldSuffix)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return stateError(dir, err)
	}
	if err := f.Close(); err != nil {
		return stateError(dir, err)
	}
	return nil
}

// stateError says in one sentence that the state directory cannot be used, and why.
func stateError(dir string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // its path is the directory's, or below it
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("state directory %s is not writable: %w", dir, err)
	}
	return fmt.Errorf("cannot use state directory %s: %w", dir, err)
}

func open(path string, release func() error) (*Store, error) {
	const pragmas = "?_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + pragmas
	// A write transaction takes the write lock when it begins: taking it later could
	// fail at once, whatever the busy timeout.
	// It meets every index of the connection log with every row: a cache of 32 MB, if
	// there is so much, keeps it from reading most pages anew.
	write, err := sql.Open("sqlite", dsn+"&_txlock=immediate&_pragma=cache_size(-32768)")
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn+"&_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(4)
	read.SetMaxIdleConns(4) // opening one runs all the pragmas
	return &Store{read: read, write: write, engine: sqliteEngine, release: release}, nil
}

// migrate brings the schema to this binary's version, and refuses one that a newer
// binary has already changed.
func (s *Store) migrate(ctx context.Context, path string) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, s.write, files,
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	current, known, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the version of database %s: %w", path, err)
	}
	if current > known {
		return fmt.Errorf("database %s was written by a newer Fairlead (schema %d, this one knows %d): start that version, or restore a backup", path, current, known)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate database %s: %w", path, err)
	}
	return nil
}

var sqliteEngine = engine{
	isUnique:    sqliteUnique,
	pageHint:    sqlitePageHint,
	syncCommits: `PRAGMA synchronous = FULL`,
	deferSyncs:  `PRAGMA synchronous = NORMAL`,
}

func sqliteUnique(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
}

// IsFull reports whether err says that there is no space for the database to grow.
// Nothing is damaged; what was there is there.
func IsFull(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL
}
