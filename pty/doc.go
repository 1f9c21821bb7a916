// Package pty opens a pseudo-terminal, starts a command on it as its controlling
// terminal, and resizes it. Platforms differ behind the small interface PTY.
//
// It does not emulate a terminal, keep scrollback, or know of SSH; the terminal
// modes it sets are named by the numbers of RFC 4254 section 8.
package pty

import (
	"errors"
	"io"
	"os/exec"
	"time"
)

// ErrUnsupported is what a platform without pseudo-terminals answers.
var ErrUnsupported = errors.New("pseudo-terminals are not supported on this platform")

// Size is a terminal's size in characters and, where known, in pixels.
type Size struct {
	Rows, Cols, XPixels, YPixels uint16
}

// PTY is the master side of a pseudo-terminal. All methods are safe for concurrent
// use; Close unblocks Read and Write.
type PTY interface {
	// Read returns io.EOF once no process has the terminal open any more.
	io.ReadWriteCloser
	// Name is the terminal's device name.
	Name() string
	// Resize sets the size; the terminal's foreground process group gets SIGWINCH.
	Resize(Size) error
	// Size returns the size last set.
	Size() (Size, error)
	// SetModes sets terminal modes by opcode (RFC 4254 section 8). Opcodes that the
	// platform lacks are ignored. Call it before Start.
	SetModes(modes map[uint8]uint32) error
	// SetReadDeadline makes a Read that blocks longer fail with
	// os.ErrDeadlineExceeded.
	SetReadDeadline(time.Time) error
	// Start starts cmd in a session of its own whose controlling terminal, standard
	// input, output and error are this terminal. It may succeed once.
	Start(cmd *exec.Cmd) error
}
