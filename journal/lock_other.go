//go:build !unix

package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockDir locks nothing where flock does not exist.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return f, nil
}

// syncDir does nothing where a directory cannot be opened.
func syncDir(string) error { return nil }

// unlockDir gives the directory free.
func unlockDir(f *os.File) error { return f.Close() }
