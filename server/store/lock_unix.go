//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock takes the state directory for this process: two servers on one database would
// each coordinate only their own half of the peers. The kernel releases the lock of a
// process that dies.
func lock(dir string) (release func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, stateError(dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		closed := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s is in use by another running Fairlead server", dir)
		}
		return nil, errors.Join(fmt.Errorf("lock state directory %s: %w", dir, err), closed)
	}
	return f.Close, nil
}

// syncDirectory sees to it that the names in dir are on the disk.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return stateError(dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// sameOwner gives a file that root made in dir to the owner of dir: the server that
// runs there may be another user.
func sameOwner(dir, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	}
	return nil
}
