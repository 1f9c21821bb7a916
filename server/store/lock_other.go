//go:build !unix

package store

// lock does nothing where flock does not exist.
func lock(string) (release func() error, err error) {
	return func() error { return nil }, nil
}

// syncDirectory does nothing where a directory cannot be opened.
func syncDirectory(string) error { return nil }

// sameOwner does nothing where files have no owner that counts.
func sameOwner(string, string) error { return nil }
