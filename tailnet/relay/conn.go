package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
	"tailscale.com/derp"
)

const (
	// helloLen is the head of a node's first frame: type, length, node key.
	helloLen = derp.FrameHeaderLen + derp.KeyLen
	// minHello and maxHello bound the length that the first frame may declare; they
	// are the DERP server's own bounds.
	minHello = derp.KeyLen + derp.NonceLen
	maxHello = 256 << 10
)

// conn is one relay connection as the DERP server sees it. It holds the first frame
// to the admitted key, keeps the first terminal cause, and tells that cause to the
// node when it closes. The DERP server reads from one goroutine, and writes and
// closes from others.
type conn struct {
	*wsconn.Conn
	id   uint64
	key  proto.NodeKey
	leg  disconnect.ConnectType
	peer disconnect.Initiator
	from string // the node's address
	tags []string

	ctx  context.Context // ends when the connection is closed
	stop context.CancelFunc

	cause   disconnect.Latch
	began   time.Time
	heard   atomic.Int64 // when bytes or a pong came last, in Unix ns
	expires atomic.Int64 // when the admission is over, in Unix ns; 0: never
	pinging atomic.Bool  // a ping is under way
	claimed atomic.Bool  // the node named the key that its token names
	proven  atomic.Bool  // the DERP server opened what the node sealed with that key
	closing sync.Once
	// onProven is called once, before the node hears that it is in.
	onProven func(*conn)

	hello []byte // what Read still owes of the checked head; the reader's

	mu   sync.Mutex // guards werr and word
	werr error      // the first write error
	word string     // what the DERP server said when it gave up on the connection
}

// headBuffer holds the head of a frame, in bytes. Packets pass it by, into memory that
// the DERP server makes for each; the WebSocket below reads ahead.
const headBuffer = 128

// buffers wraps the connection as the DERP server wants it. It lets go of the writer
// whenever that is empty.
func (c *conn) buffers() *bufio.ReadWriter {
	return bufio.NewReadWriter(bufio.NewReaderSize(c, headBuffer), bufio.NewWriter(c))
}

// Read implements derp.Conn. The DERP server gets nothing of a node that is not the
// one its token names.
func (c *conn) Read(p []byte) (int, error) {
	if !c.claimed.Load() {
		if err := c.readHello(); err != nil {
			return 0, err
		}
	}
	if len(c.hello) > 0 {
		n := copy(p, c.hello)
		c.hello = c.hello[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	return n, c.afterRead(n, err)
}

func (c *conn) readHello() error {
	head := make([]byte, helloLen)
	n, err := io.ReadFull(c.Conn, head)
	if err := c.afterRead(n, err); err != nil {
		return err
	}
	claim, ok := helloKey(head)
	if !ok {
		return c.cut(disconnect.ProtocolError, c.peer, "the first relay frame is not client info")
	}
	if claim != c.key {
		return c.cut(disconnect.AuthFailed, disconnect.Server, "the relay token is for another node key")
	}
	c.hello = head
	c.claimed.Store(true)
	return nil
}

// helloKey returns the node key that the head of a first frame, helloLen bytes, names.
func helloKey(head []byte) (proto.NodeKey, bool) {
	size := binary.BigEndian.Uint32(head[1:derp.FrameHeaderLen])
	if derp.FrameType(head[0]) != derp.FrameClientInfo || size < minHello || size > maxHello {
		return proto.NodeKey{}, false
	}
	return proto.NodeKey(head[derp.FrameHeaderLen:]), true
}

// afterRead notes the life sign or the ending of a read.
func (c *conn) afterRead(n int, err error) error {
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	if err != nil {
		c.cause.Set(c.judge())
	}
	return err
}

// SetDeadline implements derp.Conn. The DERP server bounds its handshake so; the
// relay does that itself (see Relay.check), and then can tell the node why.
func (c *conn) SetDeadline(t time.Time) error { return c.SetWriteDeadline(t) }

// SetReadDeadline implements derp.Conn; see SetDeadline.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// Write implements derp.Conn. Between the node's claim and its proof the DERP server
// writes nothing: what it writes then is the answer to a proof.
func (c *conn) Write(p []byte) (int, error) {
	if c.claimed.Load() && c.proven.CompareAndSwap(false, true) {
		c.onProven(c)
	}
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.cause.Set(c.attribute(disconnect.SlowPeer, c.peer, "the node did not read what was sent to it in time"))
	}
	// Other write errors are mostly secondary: the reader's is asked first.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.werr == nil {
		c.werr = err
	}
	return n, err
}

// Close implements derp.Conn. The DERP server also calls it when it gives up on the
// connection for what it read, before it says why; then its last call, or finish,
// closes.
func (c *conn) Close() error {
	if _, known := c.cause.Get(); !known && !c.explained() {
		return nil
	}
	return c.finish()
}

// finish closes the connection after the DERP server's part. If no cause is known by
// now, the server did not like what it read.
func (c *conn) finish() error {
	c.cause.Set(c.whyClosed())
	return c.close()
}

// explained reports whether there is more to go by than the DERP server's silence.
func (c *conn) explained() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.werr != nil || c.word != "" || !c.Conn.Ending().IsZero()
}

func (c *conn) whyClosed() disconnect.Attribution {
	c.mu.Lock()
	werr, word := c.werr, c.word
	c.mu.Unlock()
	if werr != nil || !c.Conn.Ending().IsZero() {
		return c.judge()
	}
	detail := "invalid relay frame"
	if word != "" {
		detail += ": " + word
	}
	return c.attribute(disconnect.ProtocolError, c.peer, detail)
}

// close says the recorded cause to the node and releases the connection; a cause
// must be recorded before.
func (c *conn) close() error {
	var err error
	c.closing.Do(func() {
		c.stop()
		cause, _ := c.cause.Get()
		err = c.Conn.CloseWith(cause.Goodbye().CloseCode())
	})
	return err
}

// cut ends the connection for a reason of the relay's own.
func (c *conn) cut(reason disconnect.Reason, by disconnect.Initiator, detail string) error {
	a := c.attribute(reason, by, detail)
	c.cause.Set(a)
	c.close()
	return &disconnect.EndedError{Attribution: a}
}

// judge reads the ending from the WebSocket.
func (c *conn) judge() disconnect.Attribution {
	return wsconn.Judge(c.Conn.Ending(), c.leg, disconnect.Server, c.peer)
}

func (c *conn) attribute(reason disconnect.Reason, by disconnect.Initiator, detail string) disconnect.Attribution {
	return disconnect.Attribution{ConnectType: c.leg, Reason: reason, Initiator: by, Detail: detail}
}

// extend moves the end of the admission, but never nearer; the zero time is never.
func (c *conn) extend(to time.Time) {
	if to.IsZero() {
		return
	}
	for {
		now := c.expires.Load()
		if to.UnixNano() <= now || c.expires.CompareAndSwap(now, to.UnixNano()) {
			return
		}
	}
}

func (c *conn) expired(now time.Time) bool {
	at := c.expires.Load()
	return at != 0 && now.UnixNano() >= at
}

// setWord keeps what the DERP server says about the connection's end; it does so
// before it closes.
func (c *conn) setWord(word string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.word = word
}

// silence returns how long nothing was heard of the node.
func (c *conn) silence(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, c.heard.Load()))
}

// ping asks for a life sign; the pong ends it, or the connection's end does.
func (c *conn) ping() {
	defer c.pinging.Store(false)
	if c.Conn.Ping(c.ctx) == nil {
		c.heard.Store(time.Now().UnixNano())
	}
}

// name identifies the connection to the DERP server, whose log lines then lead back.
func (c *conn) name() string { return c.from + "#" + strconv.FormatUint(c.id, 10) }
