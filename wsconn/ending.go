package wsconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"fairlead.dev/fairlead/disconnect"
)

// ErrProtocol is in the Err of an [Ending] that was caused by bytes of the other end
// which are not valid in the WebSocket protocol, or not a binary message.
var ErrProtocol = errors.New("invalid websocket data")

// Own deadlines that ended a connection. Both are os.ErrDeadlineExceeded.
var (
	errReadDeadline  = fmt.Errorf("read websocket: %w", os.ErrDeadlineExceeded)
	errWriteDeadline = fmt.Errorf("write websocket: %w", os.ErrDeadlineExceeded)
)

// Ending is how a connection ended; the zero value while it lives.
type Ending struct {
	// Local says that this end closed first.
	Local bool
	// Code is the code of the close frame, received or (Local) sent; 0 if there
	// was none.
	Code int
	// Text is the close frame's text, scrubbed.
	Text string
	// Err is the raw error, or why this end closed if it sent no code of its
	// caller's: os.ErrDeadlineExceeded for an own deadline, net.ErrClosed for Close.
	Err error
}

// IsZero reports whether the connection has not ended.
func (e Ending) IsZero() bool { return !e.Local && e.Code == 0 && e.Err == nil }

// strength orders what may be known about an ending. A stronger note replaces a
// weaker one, an equal one does not: the first cause wins.
type strength uint8

const (
	nothing   strength = iota
	secondary          // EPIPE: the reader knows better
	endOfFile          // EOF between frames
	cut                // EOF inside a frame
	broken             // an error that names itself, such as ECONNRESET
	final              // own act or close frame
)

// record keeps the strongest, and of equals the first, note of how it ended.
type record struct {
	mu     sync.Mutex // guards ending and known
	ending Ending
	known  strength
}

func (r *record) get() Ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ending
}

// local notes an act of this end, unless the connection had ended before.
func (r *record) local(e Ending) {
	e.Local = true
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nothing {
		r.ending, r.known = e, final
	}
}

// frame notes a close frame that was received.
func (r *record) frame(code int, text string) {
	r.note(Ending{Code: code, Text: disconnect.Scrub(text)}, final)
}

// raw notes an error of the transport below.
func (r *record) raw(err error) {
	switch {
	case errors.Is(err, syscall.EPIPE):
		r.note(Ending{Err: err}, secondary)
	case errors.Is(err, io.ErrUnexpectedEOF):
		r.note(Ending{Err: err}, cut)
	case errors.Is(err, io.EOF):
		r.note(Ending{Err: err}, endOfFile)
	default:
		r.note(Ending{Err: err}, broken)
	}
}

func (r *record) note(e Ending, known strength) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known > r.known {
		r.ending, r.known = e, known
	}
}

// needsReader reports whether only a writer has noticed the ending so far, and got
// an error that does not tell why.
func (r *record) needsReader() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known == secondary
}

// readError is what Read returns after the ending.
func (e Ending) readError() error {
	switch {
	case e.Local && errors.Is(e.Err, os.ErrDeadlineExceeded):
		return e.Err
	case e.Local:
		return net.ErrClosed
	case e.Code != 0:
		return io.EOF
	default:
		return e.Err
	}
}

// writeError is what Write returns after the ending.
func (e Ending) writeError() error {
	if e.Code != 0 && !e.Local {
		return net.ErrClosed
	}
	return e.readError()
}
