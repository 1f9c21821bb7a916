//go:build !unix

package pty

// Open fails on this platform.
func Open() (PTY, error) { return nil, ErrUnsupported }
