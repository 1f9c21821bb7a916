package agentssh

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

const (
	defaultHandshakeTimeout = 30 * time.Second
	defaultKillGrace        = 5 * time.Second

	// tellTimeout bounds what is said to a peer before it is cut off.
	tellTimeout = 200 * time.Millisecond

	// settleTime is how long the transport's end is held back from the SSH layer.
	// A channel close that arrived just before it is then known to be the cause,
	// where x/crypto shows both in the same way.
	settleTime = 100 * time.Millisecond

	acceptRetry = 100 * time.Millisecond

	serverVersion = "SSH-2.0-Fairlead"
)

// Config says how a Server serves. HostKey is required, everything else optional.
type Config struct {
	// Logger takes one line per session that ended: "ssh session closed", or
	// "reconnecting pty closed" for a viewer, "port forward closed" and "jetbrains channel
	// closed" for forwards. Nil discards.
	Logger *slog.Logger
	// HostKey identifies this agent to clients.
	HostKey ssh.Signer
	// Settings is called at the start of each session and must not block. Nil means
	// zero settings.
	Settings func() Settings
	// StripEnv lists environment names that no child process ever gets, from
	// whatever source. An entry that ends in "_" or "*" is a prefix.
	StripEnv []string
	// Track is called when a session or a forward starts. The func that it returns is
	// called exactly once, when that ended. Neither may block.
	Track func(Session) (id string, ended func(Ended))
	// PeerEnding says what the peer declared over another channel, or what the agent
	// decided about it, before the transport to remote ended.
	PeerEnding func(remote net.Addr) (disconnect.Attribution, bool)
	// Judge turns a transport error into an ending. Nil means disconnect.Judge.
	Judge func(err error) disconnect.Attribution
	// Terminals serves the subsystem of terminals that outlive their viewers. Nil refuses
	// it.
	Terminals Terminals
	// HandshakeTimeout bounds the SSH handshake. Zero means 30 s.
	HandshakeTimeout time.Duration
	// OutOfMemory reports whether a session's process that has just been killed was killed
	// by the kernel, for want of memory; sure asks for one in the agent's own cgroup. nil:
	// nobody knows.
	OutOfMemory func(sure bool) bool
	// KillGrace is the time between SIGHUP and SIGKILL. Zero means 5 s.
	KillGrace time.Duration
}

// Settings are what the workspace wants for one session.
type Settings struct {
	// Directory is where the session starts; "~/" and relative paths start at the
	// home directory, which is also the default. A missing directory is replaced by
	// "/" with a warning in the log.
	Directory string
	// Environment is set for the session's process.
	Environment map[string]string
	// MOTDFile is shown before a login shell on a terminal.
	MOTDFile string
}

// Kind is what a session runs.
type Kind string

// Kinds of sessions.
const (
	KindShell Kind = "shell"
	KindExec  Kind = "exec"
	// KindAttach is a viewer of a terminal that outlives it.
	KindAttach Kind = "attach"
	// KindSFTP serves files.
	KindSFTP Kind = "sftp"
	// KindForward is no session but a channel to a port or a unix socket.
	KindForward Kind = "port_forward"
)

// closed is the log line for the end of a session.
func (k Kind) closed() string {
	switch k {
	case KindAttach:
		return "reconnecting pty closed"
	case KindForward:
		return "port forward closed"
	}
	return "ssh session closed"
}

// Session describes a session or a forward that starts. Text from the peer is scrubbed.
type Session struct {
	RemoteAddr    net.Addr
	ClientVersion string // as in "SSH-2.0-OpenSSH_9.2"
	User          string // the name the client asked for; it selects nothing
	App           App    // as far as it is known at the start
	Kind          Kind
	// Behind is the app that listens where a forward leads; "" if it is none that is known.
	Behind string
	// Target is where a forward leads, as the client asked for it; "" for several.
	Target string
	// Name is what the client calls the session in the variable FAIRLEAD_SESSION.
	Name string
	// End ends the session for that cause, unless another came first. It does not wait,
	// and may be called at any time, Track included.
	End func(disconnect.Attribution)
}

// Ended is how a session ended.
type Ended struct {
	disconnect.Attribution
	App App // what was learnt by the end
	// ExitCode is -1 when the session ended before its process did.
	ExitCode int
	// Exited says that its process' end is what ended the session; Signal is then what
	// killed it, as in KILL, and empty if it exited by itself.
	Exited bool
	Signal string
	// OutOfMemory says that the kernel killed it for want of memory.
	OutOfMemory bool
	// BytesSent went to the client (output and errors), BytesReceived came from it, as
	// the process wrote and read them.
	BytesSent, BytesReceived uint64
}

// Server serves SSH. Its methods are safe for concurrent use.
type Server struct {
	cfg       Config
	ssh       *ssh.ServerConfig
	logger    *slog.Logger
	closing   chan struct{} // closed when Close begins
	hard      chan struct{} // closed when Close has no time left
	hardOnce  sync.Once
	orders    orders
	listeners listeners
	connected sync.WaitGroup // all of conns, until their last goroutine

	mu        sync.Mutex // guards all below
	closed    bool       // closing is closed
	accepting map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// New returns a server that serves nothing until Serve or ServeConn is called.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Settings == nil {
		cfg.Settings = func() Settings { return Settings{} }
	}
	if cfg.Judge == nil {
		cfg.Judge = func(err error) disconnect.Attribution {
			return disconnect.Judge(err, disconnect.AgentToClient, disconnect.Agent)
		}
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = defaultHandshakeTimeout
	}
	if cfg.KillGrace <= 0 {
		cfg.KillGrace = defaultKillGrace
	}
	sc := &ssh.ServerConfig{Config: algorithms(), NoClientAuth: true, ServerVersion: serverVersion}
	sc.AddHostKey(cfg.HostKey)
	return &Server{
		cfg:       cfg,
		ssh:       sc,
		logger:    cfg.Logger,
		closing:   make(chan struct{}),
		hard:      make(chan struct{}),
		accepting: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
	}
}

// algorithms are those of x/crypto/ssh without the curves and hashes that auditors reject
// (ssh-audit). All of it is inside WireGuard: this decides nothing but which clients can
// connect, and every one of docs/interop.md can.
func algorithms() ssh.Config {
	return ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeDH16SHA512},
		Ciphers: []string{
			ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
			ssh.CipherAES256CTR, ssh.CipherAES192CTR, ssh.CipherAES128CTR,
		},
		MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512},
	}
}

// Serve accepts connections from l, which it closes, until l fails or the server is
// closed; then it returns nil if the server was closed, and l's error otherwise. It
// does not wait for the connections.
func (s *Server) Serve(l net.Listener) error {
	if !s.addListener(l) {
		_ = l.Close()
		return nil
	}
	defer s.removeListener(l)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			if c := s.newConn(nc); c != nil {
				go s.serve(c)
			}
		case s.isClosing():
			return nil
		case temporary(err):
			s.logger.Warn("accept ssh connection failed", "error", err)
			if !s.pause(acceptRetry) {
				return nil
			}
		default:
			return err
		}
	}
}

// temporary reports whether accepting may work again later: Linux says so when
// descriptors or memory run out, or the peer gave up in the backlog.
func temporary(err error) bool {
	return exhausted(err) || errors.Is(err, syscall.ECONNABORTED)
}

func (s *Server) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}

// ServeConn serves one connection and returns when it ended and the processes of its
// sessions were dealt with. It closes nc.
func (s *Server) ServeConn(nc net.Conn) {
	if c := s.newConn(nc); c != nil {
		s.serve(c)
	}
}

// newConn registers nc, or closes it and returns nil when the server is closing.
func (s *Server) newConn(nc net.Conn) *conn {
	c := &conn{
		srv:      s,
		nc:       newSettlingConn(nc, settleTime),
		stopped:  make(chan struct{}),
		done:     make(chan struct{}),
		sessions: make(map[*session]struct{}),
		forwards: make(map[*forward]struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = nc.Close()
		return nil
	}
	c.refused = s.connsFrom(nc.RemoteAddr()) >= maxPeerConns
	s.conns[c] = struct{}{}
	s.connected.Add(1)
	return c
}

// connsFrom counts the connections that a peer has; mu is held. Those that are being
// refused count too, so that refusing is bounded as well.
func (s *Server) connsFrom(remote net.Addr) (n int) {
	peer, ok := addrPort(remote)
	if !ok {
		return 0
	}
	for c := range s.conns {
		if ap, ok := addrPort(c.nc.RemoteAddr()); ok && ap.Addr() == peer.Addr() {
			n++
		}
	}
	return n
}

func (s *Server) serve(c *conn) {
	defer s.connected.Done()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	if c.refused {
		c.refuse(attribute(disconnect.LimitExceeded, disconnect.Agent, tooManyConns))
		return
	}
	c.serve()
}

// EndPeer ends all connections of this peer for that cause, which must be an ending
// and not only an interruption. It does not wait for them. A cause that names the
// client or the network means that the peer is gone: it is cut off without a word.
func (s *Server) EndPeer(addr netip.Addr, a disconnect.Attribution) {
	a = a.On(disconnect.AgentToClient)
	for _, c := range s.snapshot() {
		if ap, ok := addrPort(c.nc.RemoteAddr()); ok && ap.Addr().Unmap() == addr.Unmap() {
			c.evidence.Set(a)
			c.stop(a)
		}
	}
}

// Close refuses new connections and ends every session with this cause, unless it
// ended for another one before. The user reads the cause on the session's standard
// error, programs get it as the global request "disconnect@fairlead.dev". Processes
// get SIGHUP, and SIGKILL after Config.KillGrace. Close returns when all goroutines
// have ended. When ctx ends first, it kills and cuts what is left and returns
// ctx's cause if that does not finish promptly either.
func (s *Server) Close(ctx context.Context, g disconnect.Goodbye) error {
	a := g.On(disconnect.AgentToClient)
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for l := range s.accepting {
		_ = l.Close()
	}
	s.mu.Unlock()
	for _, c := range s.snapshot() {
		c.stop(a)
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		s.connected.Wait()
	}()
	select {
	case <-all:
		return nil
	case <-ctx.Done():
	}
	s.hardOnce.Do(func() { close(s.hard) })
	for _, c := range s.snapshot() {
		_ = c.nc.Close()
	}
	t := time.NewTimer(tellTimeout)
	defer t.Stop()
	select {
	case <-all:
		return nil
	case <-t.C: // a process in an uninterruptible sleep
		return context.Cause(ctx)
	}
}

func (s *Server) snapshot() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.accepting[l] = struct{}{}
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.accepting, l)
	_ = l.Close()
}

func (s *Server) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort(), true
	}
	if a == nil {
		return netip.AddrPort{}, false
	}
	ap, err := netip.ParseAddrPort(a.String())
	return ap, err == nil
}
