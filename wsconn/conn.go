package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"fairlead.dev/fairlead/disconnect"
)

const (
	// closeWait bounds the close handshake: how long the peer may take to answer a
	// close frame before the socket is cut.
	closeWait = 250 * time.Millisecond
	// hurriedWait is closeWait when the peer is not expected to answer.
	hurriedWait = 50 * time.Millisecond
)

// maxCloseText is the room for text in a close frame (RFC 6455 section 5.5), in bytes.
const maxCloseText = 123

// Conn is a WebSocket as a net.Conn: each Write is one binary message, and Read
// returns the bytes of the messages in order without their borders. All methods are
// safe for concurrent use.
//
// A deadline that passes during a Read or Write ends the connection, because the
// stream is then inside a frame; one that passes in between only fails the calls
// after it. After the end Read returns io.EOF if the peer sent a close frame (with
// whatever code), net.ErrClosed or os.ErrDeadlineExceeded if this end closed, and
// otherwise the raw error. Only [Conn.Ending] tells them truly apart.
type Conn struct {
	ws            *websocket.Conn
	raw           *raw
	rec           *record
	under         net.Conn // what raw runs over, for its addresses and for cutting it
	local, remote net.Addr

	readMu   sync.Mutex // held during Read; guards message and readErr
	message  io.Reader
	readErr  error
	reading  atomic.Int32    // Reads in progress
	readable context.Context // ends when Read has failed for good
	readGone context.CancelFunc

	readDeadline, writeDeadline deadline

	pingExpired atomic.Bool // a Ping's context ended while it was being written

	closing sync.Once
	closed  chan struct{}
}

var _ net.Conn = (*Conn)(nil)

func newConn(ws *websocket.Conn, r *raw, rec *record, under net.Conn) *Conn {
	ws.SetReadLimit(-1) // Read streams: a message is never held in memory as a whole
	c := &Conn{
		ws: ws, raw: r, rec: rec, under: under,
		local: addr{}, remote: addr{},
		closed: make(chan struct{}),
	}
	c.readable, c.readGone = context.WithCancel(context.Background())
	if under != nil {
		c.local, c.remote = under.LocalAddr(), under.RemoteAddr()
	}
	c.readDeadline.expire = c.readExpired
	c.writeDeadline.expire = c.writeExpired
	return c
}

// Ending returns how the connection ended: the first cause, or the zero value while
// it lives. Ask it after Read or Write has failed, or after closing.
func (c *Conn) Ending() Ending { return c.rec.get() }

// Subprotocol returns the sub-protocol that both ends agreed upon, or "".
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// LocalAddr returns the local address of the socket.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the socket's other end, which may be a proxy.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.readErr != nil {
		return 0, c.readErr
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !c.readDeadline.begin() {
		return 0, errReadDeadline
	}
	defer c.readDeadline.end()
	c.reading.Add(1)
	defer c.reading.Add(-1)

	n, err := c.readLocked(p)
	if err != nil {
		c.readErr = c.readFailed(err)
		c.readGone()
		return n, c.readErr
	}
	return n, nil
}

func (c *Conn) readLocked(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.Reader(context.Background())
			if err != nil {
				return 0, err
			}
			if kind != websocket.MessageBinary {
				return 0, errors.New("text message")
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// readFailed notes what the library's error adds to the raw transport's, and
// returns what Read is to return.
func (c *Conn) readFailed(err error) error {
	var frame websocket.CloseError
	switch {
	case errors.As(err, &frame):
		c.rec.frame(int(frame.Code), frame.Reason)
	case errors.Is(err, io.ErrUnexpectedEOF):
		c.rec.note(Ending{Err: io.ErrUnexpectedEOF}, cut)
	case errors.Is(err, context.DeadlineExceeded):
		// The library allows 5 s for the rest of a control frame, and for
		// answering it.
		c.rec.local(Ending{Err: errReadDeadline})
		c.shut(0, "", 0)
	case errors.Is(err, net.ErrClosed):
		if c.pingExpired.Load() {
			c.rec.local(Ending{Err: errWriteDeadline})
		}
		c.rec.local(Ending{Err: net.ErrClosed})
	case c.rec.get().IsZero():
		c.rec.note(Ending{Err: fmt.Errorf("%w: %s", ErrProtocol, disconnect.Scrub(err.Error()))}, final)
		code, text := disconnect.Goodbye{Reason: disconnect.ProtocolError, Detail: err.Error()}.CloseCode()
		c.shut(code, text, hurriedWait)
	}
	return c.rec.get().readError()
}

// Write implements net.Conn: p becomes one binary message. An empty p sends nothing.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !c.writeDeadline.begin() {
		return 0, errWriteDeadline
	}
	defer c.writeDeadline.end()
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		if c.rec.get().IsZero() && c.reading.Load() > 0 {
			c.waitForReader() // it has yet to note the close frame that it answered
		}
		if e := c.rec.get(); !e.IsZero() {
			return 0, e.writeError()
		}
		return 0, net.ErrClosed
	}
	return len(p), nil
}

// Ping sends a ping and waits for the pong. Some Read must be in progress, for it is
// the reader that sees the pong. When ctx ends Ping returns its cause; the
// connection survives unless the ping could not even be written.
func (c *Conn) Ping(ctx context.Context) error {
	// The library closes the connection if the context ends while it writes. Note
	// before that whose doing it was.
	pingCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		c.pingExpired.Store(true)
		cancel()
	})
	defer func() {
		if !stop() && c.readable.Err() == nil {
			c.pingExpired.Store(false)
		}
	}()
	defer context.AfterFunc(c.readable, cancel)() // no reader, no pong
	if err := c.ws.Ping(pingCtx); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("ping websocket: %w", context.Cause(ctx))
		}
		if e := c.rec.get(); !e.IsZero() {
			err = e.writeError()
		}
		return fmt.Errorf("ping websocket: %w", err)
	}
	return nil
}

// CloseWith ends the connection with a close frame of that code (4000 + reason, from
// disconnect.Goodbye.CloseCode) and at most 123 bytes of text, and waits up to 250 ms
// for the peer's answer. It records the ending first, unless it has ended already,
// and then returns net.ErrClosed.
func (c *Conn) CloseWith(code int, text string) error {
	c.rec.local(Ending{Code: code, Text: disconnect.Scrub(text)})
	return c.shut(code, text, closeWait)
}

// Close cuts the connection without a close frame: whoever closes for a reason uses
// CloseWith, and no reason is no claim that all is well.
func (c *Conn) Close() error {
	if c.rec.needsReader() && c.reading.Load() > 0 {
		c.waitForReader()
	}
	why := net.ErrClosed
	switch {
	case c.writeDeadline.passed(): // the caller got that error, and closes for it
		why = errWriteDeadline
	case c.readDeadline.passed():
		why = errReadDeadline
	}
	c.rec.local(Ending{Err: why})
	_ = c.shut(0, "", 0)
	return nil
}

// waitForReader gives a Read in progress a moment to say why a Write failed.
func (c *Conn) waitForReader() {
	timer := time.NewTimer(hurriedWait)
	defer timer.Stop()
	select {
	case <-c.readable.Done():
	case <-timer.C:
	}
}

// shut closes once, with a close frame if code is not 0; further callers wait for the
// first and get net.ErrClosed.
func (c *Conn) shut(code int, text string, wait time.Duration) error {
	err := net.ErrClosed
	c.closing.Do(func() {
		defer close(c.closed)
		defer c.stopDeadlines()
		text = disconnect.ScrubTo(text, maxCloseText) // longer text would stop the frame
		if code == 0 {
			c.raw.cut(c.under)
			_ = c.ws.CloseNow()
			err = nil
			return
		}
		timer := time.AfterFunc(wait, func() { c.raw.cut(c.under) })
		defer timer.Stop()
		err = c.ws.Close(websocket.StatusCode(code), text)
		if err != nil {
			// Whether the peer answered is its affair, and a refusal to send
			// must not keep the socket open.
			c.raw.cut(c.under)
			_ = c.ws.CloseNow()
			err = nil
		}
	})
	return err
}

func (c *Conn) stopDeadlines() {
	c.readDeadline.set(time.Time{})
	c.writeDeadline.set(time.Time{})
}

// readExpired ends the connection because nothing came within the read deadline. The
// peer, if it lives, is told.
func (c *Conn) readExpired() {
	c.rec.local(Ending{Err: errReadDeadline})
	g := disconnect.Goodbye{Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "read deadline"}
	code, text := g.CloseCode()
	_ = c.shut(code, text, hurriedWait)
}

// writeExpired ends the connection because the peer did not take what was written.
// The unfinished frame leaves no way to say so.
func (c *Conn) writeExpired() {
	c.rec.local(Ending{Err: errWriteDeadline})
	_ = c.shut(0, "", 0)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn; see [Conn] for what passing it means.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readDeadline, t) }

// SetWriteDeadline implements net.Conn; see [Conn] for what passing it means.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeDeadline, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		d.set(t)
		return nil
	}
}

// addr is the address of a connection whose socket is not known.
type addr struct{}

func (addr) Network() string { return "websocket" }
func (addr) String() string  { return "unknown" }
