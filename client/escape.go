package client

import (
	"errors"
	"io"
)

// ErrLeave is what an [EscapeReader] returns when the user typed the escape for
// leaving, and what RunSession takes from its Stdin as the user's wish to leave.
var ErrLeave = errors.New("the user left the session")

const escapeHelp = "\r\nEscape sequences, after a new line:\r\n" +
	"  ~.   leave the session\r\n" +
	"  ~~   send ~\r\n" +
	"  ~?   this text\r\n"

// EscapeReader passes a terminal's keys on and obeys the escapes of ssh(1) that are
// typed at the start of a line: "~." ends the stream with [ErrLeave], "~~" is one
// "~", and "~?" writes a help text. Any other key after "~" is passed on with it.
// While it is blocked it passes nothing on, and "~." leaves wherever it is typed.
type EscapeReader struct {
	in   io.Reader
	help io.Writer
	gate Gate // nil: it is never blocked

	lineStart bool   // the next key is the first of a line
	tilde     bool   // a "~" at the start of a line is held back
	ready     []byte // keys to hand out
	err       error  // to return when ready is empty
	buf       [4096]byte
}

// NewEscapeReader returns a reader of in's keys; help takes the help text, and may
// be nil.
func NewEscapeReader(in io.Reader, help io.Writer) *EscapeReader {
	return &EscapeReader{in: in, help: help, lineStart: true}
}

// A Gate blocks keys while nobody would get them. Its methods may be called from any
// goroutine.
type Gate interface {
	Blocked() bool
	// Dropped is told of keys that were typed while it was blocked, as they were read.
	Dropped(keys []byte)
}

// Behind has the reader ask a gate before it passes keys on. Call it before Read.
func (r *EscapeReader) Behind(g Gate) { r.gate = g }

// Read implements [io.Reader].
func (r *EscapeReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.ready) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		n, err := r.in.Read(r.buf[:])
		r.ready = r.ready[:0]
		if r.gate != nil && r.gate.Blocked() {
			r.drop(r.buf[:n])
		} else {
			r.scan(r.buf[:n])
		}
		if r.err == nil && err != nil {
			if r.tilde {
				r.tilde = false
				r.ready = append(r.ready, '~')
			}
			r.err = err
		}
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// drop obeys the escape for leaving, and passes nothing on.
func (r *EscapeReader) drop(keys []byte) {
	for _, key := range keys {
		if r.tilde && key == '.' {
			r.err = ErrLeave
			return
		}
		r.tilde = key == '~'
	}
	r.lineStart = true
	r.gate.Dropped(keys)
}

// scan sorts keys into what is passed on and what is obeyed.
func (r *EscapeReader) scan(keys []byte) {
	for _, key := range keys {
		if !r.tilde {
			if key == '~' && r.lineStart {
				r.tilde = true
				continue
			}
			r.pass(key)
			continue
		}
		r.tilde = false
		switch key {
		case '.':
			r.err = ErrLeave
			return
		case '?':
			if r.help != nil {
				_, _ = io.WriteString(r.help, escapeHelp)
			}
			r.lineStart = true
		case '~':
			r.pass('~')
		default:
			r.pass('~')
			r.pass(key)
		}
	}
}

func (r *EscapeReader) pass(key byte) {
	r.ready = append(r.ready, key)
	r.lineStart = key == '\r' || key == '\n'
}
