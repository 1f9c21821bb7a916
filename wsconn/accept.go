package wsconn

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"fairlead.dev/fairlead/disconnect"
)

// AcceptOptions are the options of [Accept].
type AcceptOptions struct {
	// Subprotocols are those that this end speaks, best first. A client that offers
	// none of them is refused. Empty: none is negotiated.
	Subprotocols []string
	// ReadBuffer and WriteBuffer are bytes that the connection holds for all of its
	// life; what is larger passes them by, at the price of another system call. 0: 4096.
	ReadBuffer, WriteBuffer int
}

// defaultBuffer is the size of a buffer unless the options say otherwise, in bytes.
const defaultBuffer = 4096

// Accept upgrades an HTTP request. On failure it has answered the request already,
// with the header [HTTPReason]: 426 and version_mismatch if there is no common
// sub-protocol. The handler may return; the connection lives on and does not depend
// on r's context.
func Accept(w http.ResponseWriter, r *http.Request, opts AcceptOptions) (*Conn, error) {
	if len(opts.Subprotocols) > 0 && isUpgrade(r) && !offersOne(r, opts.Subprotocols) {
		ErrorHeader(w.Header(), disconnect.VersionMismatch)
		http.Error(w, "this server speaks "+strings.Join(opts.Subprotocols, ", "), http.StatusUpgradeRequired)
		return nil, fmt.Errorf("accept websocket: %w: offered %q", ErrSubprotocol,
			disconnect.Scrub(strings.Join(r.Header.Values(subprotocolHeader), ",")))
	}
	up := &upgrade{ResponseWriter: w, rec: new(record), readBuffer: opts.ReadBuffer, writeBuffer: opts.WriteBuffer}
	ws, err := websocket.Accept(up, r, &websocket.AcceptOptions{Subprotocols: opts.Subprotocols})
	if err != nil {
		return nil, fmt.Errorf("accept websocket: %w", err)
	}
	return newConn(ws, up.raw, up.rec, up.conn), nil
}

func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(strings.TrimSpace(r.Header.Get("Upgrade")), "websocket")
}

func offersOne(r *http.Request, spoken []string) bool {
	for _, line := range r.Header.Values(subprotocolHeader) {
		for offer := range strings.SplitSeq(line, ",") {
			if slices.Contains(spoken, strings.TrimSpace(offer)) {
				return true
			}
		}
	}
	return false
}

// upgrade is the ResponseWriter given to the library: it puts the recorder below the
// WebSocket and the reason into error answers.
type upgrade struct {
	http.ResponseWriter
	rec  *record
	raw  *raw
	conn net.Conn

	readBuffer, writeBuffer int // bytes; 0: defaultBuffer
}

// WriteHeader implements http.ResponseWriter.
func (u *upgrade) WriteHeader(status int) {
	switch {
	case status == http.StatusForbidden: // another origin
		ErrorHeader(u.Header(), disconnect.AuthFailed)
	case status >= 500:
		ErrorHeader(u.Header(), disconnect.InternalError)
	case status >= 400:
		ErrorHeader(u.Header(), disconnect.ProtocolError)
	}
	u.ResponseWriter.WriteHeader(status)
}

// Hijack implements http.Hijacker. The writer that net/http hands out writes past
// the connection it hands out, and both of its buffers are larger than most peers
// need, so they are replaced.
func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.conn = conn
	u.raw = &raw{rwc: conn, rec: u.rec}
	recorded := recordedConn{Conn: conn, raw: u.raw}
	reader := rebuffered(brw.Reader, cmp.Or(u.readBuffer, defaultBuffer))
	writer := bufio.NewWriterSize(u.raw, cmp.Or(u.writeBuffer, defaultBuffer))
	return recorded, bufio.NewReadWriter(reader, writer), nil
}

// rebuffered returns a reader with a buffer of that size, or what it takes, that holds
// what r holds: the beginning of what the peer sent. The library reads the rest from
// the connection.
func rebuffered(r *bufio.Reader, size int) *bufio.Reader {
	early, _ := r.Peek(r.Buffered()) // is there
	held := bufio.NewReaderSize(bytes.NewReader(bytes.Clone(early)), max(size, len(early)))
	_, _ = held.Peek(len(early)) // takes it into the buffer
	return held
}

// recordedConn is a net.Conn whose traffic passes through raw.
type recordedConn struct {
	net.Conn
	raw *raw
}

func (c recordedConn) Read(p []byte) (int, error)  { return c.raw.Read(p) }
func (c recordedConn) Write(p []byte) (int, error) { return c.raw.Write(p) }
func (c recordedConn) Close() error                { return c.raw.Close() }
