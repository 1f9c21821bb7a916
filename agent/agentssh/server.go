package agentssh

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// Config says how a Server serves. HostKey is required, everything else optional.
type Config struct {
	// Logger takes one "ssh session closed" line per session. Nil discards.
	Logger *slog.Logger
	// HostKey identifies this agent to clients.
	HostKey ssh.Signer
	// Settings is called at the start of each session. Nil means zero settings.
	Settings func() Settings
	// StripEnv lists environment names that no child process ever gets, from
	// whatever source. An entry that ends in "_" or "*" is a prefix.
	StripEnv []string
	// Track is called when a session starts. The func that it returns is called
	// exactly once, when that session ended; exitCode is -1 when the session ended
	// before its process did. Neither may block.
	Track func(Session) (id string, ended func(a disconnect.Attribution, exitCode int))
	// PeerEnding says what the peer declared over another channel, or what the agent
	// decided about it, before the transport to remote ended.
	PeerEnding func(remote net.Addr) (disconnect.Attribution, bool)
	// Judge turns a transport error into an ending. Nil means disconnect.Judge.
	Judge func(err error) disconnect.Attribution
	// HandshakeTimeout bounds the SSH handshake. Zero means 30 s.
	HandshakeTimeout time.Duration
	// KillGrace is the time between SIGHUP and SIGKILL. Zero means 5 s.
	KillGrace time.Duration
}

// Settings are what the workspace wants for one session.
type Settings struct {
	// Directory is where the session starts. Empty means the home directory.
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
)

// Session describes a session that starts. Strings from the peer are scrubbed.
type Session struct {
	RemoteAddr    net.Addr
	ClientVersion string
	User          string
	App           string
	Kind          Kind
}

// Server serves SSH. Its methods are safe for concurrent use.
type Server struct {
	cfg Config
}

// New returns a server that serves nothing until Serve or ServeConn is called.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Serve accepts connections from l until l fails or the server is closed.
func (s *Server) Serve(l net.Listener) error { return nil }

// ServeConn serves one connection and returns when it and its sessions ended.
func (s *Server) ServeConn(nc net.Conn) {}

// EndPeer ends all connections of this peer for that cause.
func (s *Server) EndPeer(addr netip.Addr, a disconnect.Attribution) {}

// Close ends every session with this cause and waits.
func (s *Server) Close(ctx context.Context, g disconnect.Goodbye) error { return nil }
