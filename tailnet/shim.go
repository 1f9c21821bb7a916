package tailnet

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

// shimTiming is what a shim waits for. It is data so that tests can shorten it.
type shimTiming struct {
	header time.Duration // for a local request to arrive
	// hold is how long an upgrade waits for the relay. The packet engine gives up
	// after 10 s, and then waits up to 5 s itself; an answer just before that keeps
	// its own back-off short.
	hold    time.Duration
	redial  time.Duration // between two dials of one upgrade
	doubt   time.Duration // of dialling without success, until the relay counts as out of reach
	penalty time.Duration // after a refusal, until the next dial
	ping    time.Duration // between two life signs asked of the relay
	silence time.Duration // without a life sign, until the relay is given up
}

var defaultShimTiming = shimTiming{
	header: 5 * time.Second, hold: 9 * time.Second, redial: time.Second, doubt: 1500 * time.Millisecond,
	penalty: 5 * time.Second, ping: 2 * time.Second, silence: 5 * time.Second,
}

const (
	// maxLocal bounds the local connections of one region; the engine uses one or two.
	maxLocal = 16
	// maxLocalHeader bounds a local request, in bytes.
	maxLocalHeader = 8 << 10
	// maxDials bounds the dials that one upgrade has under way.
	maxDials = 5
	// relayBuffer is the copy buffer of each direction, in bytes: several packets
	// that are ready travel in one message.
	relayBuffer = 64 << 10
)

// shim stands between the packet engine, which can reach a relay only as plain DERP
// at a host's root, and the real relay behind a dial function. To the engine it is
// the relay of each region, on the loopback interface; it answers the upgrade once
// the real relay is connected, and copies bytes. So it owns the relay connections,
// and knows why each one ended.
//
// It answers plain HTTP and, for the engine's latency probes, TLS on the same port.
type shim struct {
	logger *slog.Logger
	dial   RelayDialFunc
	timing shimTiming
	// onEnd is told of each relay connection's end, from its goroutine. Set it before
	// the first Port.
	onEnd func(region *proto.DERPRegion, a disconnect.Attribution)
	// onTurn is told, again and again, that a region is out of reach, and that it was
	// reached. It must not block. Set it before the first Port.
	onTurn func(region int32, reached bool)

	tls  *tls.Config
	cert string

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex // guards regions, local and closed
	regions map[int32]*shimRegion
	local   map[*localConn]struct{}
	closed  bool
}

// shimRegion is one relay as the engine sees it.
type shimRegion struct {
	id       int32
	listener net.Listener

	mu      sync.Mutex // guards region, open, notBefore and trouble
	region  *proto.DERPRegion
	open    int       // local connections
	after   time.Time // no dial before this
	trouble string    // the dial failure that was last logged
}

// now returns the region as the server last described it.
func (r *shimRegion) now() *proto.DERPRegion {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.region
}

// newShim returns a shim that reaches relays with dial. A nil logger discards. The
// caller must Close it.
func newShim(logger *slog.Logger, dial RelayDialFunc) (*shim, error) {
	config, pin, err := throwawayTLS()
	if err != nil {
		return nil, fmt.Errorf("start relay shim: %w", err)
	}
	s := &shim{
		logger:  cmp.Or(logger, slog.New(slog.DiscardHandler)),
		dial:    dial,
		timing:  defaultShimTiming,
		tls:     config,
		cert:    pin,
		regions: make(map[int32]*shimRegion),
		local:   make(map[*localConn]struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// CertName returns what to put into a DERP node's CertName, so that TLS to the shim
// accepts its throwaway certificate and no other.
func (s *shim) CertName() string { return s.cert }

// Port returns the loopback port that stands for region, and listens there if it is
// a new one. A known region's particulars are replaced for the dials to come.
func (s *shim) Port(region *proto.DERPRegion) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fmt.Errorf("listen for relay region %d: %w", region.GetId(), net.ErrClosed)
	}
	r := s.regions[region.GetId()]
	if r == nil {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("listen for relay region %d: %w", region.GetId(), err)
		}
		r = &shimRegion{id: region.GetId(), listener: listener}
		s.regions[r.id] = r
		s.wg.Go(func() { s.accept(r) })
	}
	r.mu.Lock()
	r.region = region
	r.mu.Unlock()
	return r.listener.Addr().(*net.TCPAddr).Port, nil
}

// Close says to each relay that this end is leaving, closes everything and waits.
func (s *shim) Close() error {
	s.mu.Lock()
	s.closed = true
	s.stop()
	for _, r := range s.regions {
		r.listener.Close()
	}
	for c := range s.local {
		s.wg.Go(c.leave)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *shim) accept(r *shimRegion) {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && s.pause(100*time.Millisecond) {
				continue // out of file descriptors, most likely
			}
			return
		}
		s.admit(r, conn)
	}
}

// pause waits, and reports whether the shim is still open.
func (s *shim) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// admit serves a local connection, if it is local and there is room for it.
func (s *shim) admit(r *shimRegion, conn net.Conn) {
	from, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !from.IP.IsLoopback() || !r.enter() {
		conn.Close()
		return
	}
	c := &localConn{Conn: conn, shim: s, region: r}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		r.exit()
		return
	}
	s.local[c] = struct{}{}
	s.wg.Go(func() {
		defer r.exit()
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.local, c)
	})
}

func (r *shimRegion) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open >= maxLocal {
		return false
	}
	r.open++
	return true
}

func (r *shimRegion) exit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
}

// localConn is one connection from the engine.
type localConn struct {
	net.Conn
	shim   *shim
	region *shimRegion

	mu      sync.Mutex // guards session and gone
	session *relaySession
	gone    bool // leave was called
}

// leave ends the connection because the shim closes.
func (c *localConn) leave() {
	c.mu.Lock()
	c.gone = true
	session := c.session
	c.mu.Unlock()
	if session != nil {
		session.leave()
	}
	c.Conn.Close()
}

// adopt makes session the connection's, unless the shim closes already.
func (c *localConn) adopt(session *relaySession) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = session
	return !c.gone
}

// serve answers the one request of a local connection.
func (c *localConn) serve() {
	defer c.Conn.Close()
	c.SetDeadline(time.Now().Add(c.shim.timing.header))
	conn, reader, err := c.unwrap()
	if err != nil {
		return
	}
	limited := &io.LimitedReader{R: reader, N: maxLocalHeader}
	buffered := bufio.NewReaderSize(limited, maxLocalHeader)
	request, err := http.ReadRequest(buffered)
	if err != nil {
		return
	}
	limited.N = 1<<63 - 1
	switch {
	case request.URL.Path == "/derp/probe" || request.URL.Path == "/derp/latency-check":
		respond(conn, http.StatusOK)
	case request.URL.Path != "/derp":
		respond(conn, http.StatusNotFound)
	case request.Method != http.MethodGet || !strings.EqualFold(request.Header.Get("Upgrade"), "DERP"):
		respond(conn, http.StatusUpgradeRequired)
	default:
		c.relay(conn, buffered, request.Header.Get("Derp-Fast-Start") == "1")
	}
}

// unwrap returns the connection without TLS, whether it had any or not.
func (c *localConn) unwrap() (net.Conn, io.Reader, error) {
	first := bufio.NewReaderSize(c.Conn, 16)
	head, err := first.Peek(1)
	if err != nil {
		return nil, nil, err
	}
	const handshakeRecord = 22 // TLS content type; no HTTP method begins so
	if head[0] != handshakeRecord {
		return c.Conn, first, nil
	}
	secure := tls.Server(peekedConn{c.Conn, first}, c.shim.tls)
	return secure, secure, secure.Handshake()
}

// peekedConn is a Conn whose first bytes sit in a reader.
type peekedConn struct {
	net.Conn
	reader io.Reader
}

func (c peekedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// respond answers without a body and asks for the connection's end.
func respond(w io.Writer, status int) {
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status, http.StatusText(status))
}

// relay connects the real relay, answers the upgrade and runs the session.
func (c *localConn) relay(conn net.Conn, reader io.Reader, fastStart bool) {
	s := c.shim
	c.SetDeadline(time.Now().Add(s.timing.hold + s.timing.header))
	remote, err := s.reach(c.region)
	if err != nil {
		respond(conn, http.StatusBadGateway)
		return
	}
	session := newRelaySession(s, c.region, relayLocal{conn, reader}, remote)
	if !c.adopt(session) {
		session.leave()
	}
	// With a fast start the engine skips the answer (derp.FastStartHeader).
	if !fastStart {
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\r\n")
	}
	if err != nil {
		session.localGone()
	}
	c.SetDeadline(time.Time{})
	session.run()
}

// throwawayTLS returns a TLS configuration with a certificate of its own, and the
// certificate's pin in the form of DERP nodes.
func throwawayTLS() (*tls.Config, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "fairlead relay shim"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(der)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	}, "sha256-raw:" + hex.EncodeToString(sum[:]), nil
}
