package disconnect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sysErr(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, errno)}
}

func TestJudgeErrors(t *testing.T) {
	told := Attribution{ConnectType: ServerToAgent, Reason: ServerShutdown, Initiator: Server, Detail: "upgrade"}
	cause, cancel := context.WithCancelCause(t.Context())
	cancel(&EndedError{Attribution: told})

	tests := []struct {
		name      string
		err       error
		reason    Reason
		initiator Initiator
	}{
		{"told, whatever was seen", fmt.Errorf("read: %w", &EndedError{told, io.EOF}), ServerShutdown, Server},
		{"told by a context", context.Cause(cause), ServerShutdown, Server},
		{"cancelled without a cause", context.Canceled, ServerShutdown, Agent},
		{"cancelled dial", &net.OpError{Op: "dial", Err: context.Canceled}, ServerShutdown, Agent},
		{"end of file", io.EOF, NetworkError, Network},
		{"cut in the middle", io.ErrUnexpectedEOF, NetworkError, Network},
		{"closed", &net.OpError{Op: "read", Err: net.ErrClosed}, NetworkError, Network},
		{"closed pipe", io.ErrClosedPipe, NetworkError, Network},
		{"reset", sysErr("read", syscall.ECONNRESET), ConnectionReset, Network},
		{"broken pipe", sysErr("write", syscall.EPIPE), ConnectionReset, Network},
		{"aborted", sysErr("read", syscall.ECONNABORTED), NetworkError, Network},
		{"timed out by the kernel", sysErr("read", syscall.ETIMEDOUT), NetworkTimeout, Network},
		{"no network", sysErr("dial", syscall.ENETUNREACH), NetworkUnreachable, Network},
		{"no host", sysErr("dial", syscall.EHOSTUNREACH), NetworkUnreachable, Network},
		{"interface down", sysErr("dial", syscall.ENETDOWN), NetworkUnreachable, Network},
		{"address gone", sysErr("dial", syscall.EADDRNOTAVAIL), NetworkUnreachable, Network},
		{"refused", sysErr("dial", syscall.ECONNREFUSED), ConnectionRefused, Client},
		{"forbidden by this host", sysErr("dial", syscall.EPERM), NetworkUnreachable, Network},
		{"forbidden, not a dial", sysErr("read", syscall.EACCES), NetworkError, Network},
		{"own files", sysErr("accept", syscall.EMFILE), ResourceExhausted, Agent},
		{"system's files", sysErr("accept", syscall.ENFILE), ResourceExhausted, Agent},
		{"memory", sysErr("write", syscall.ENOMEM), ResourceExhausted, Agent},
		{"buffers", sysErr("write", syscall.ENOBUFS), ResourceExhausted, Agent},
		{"disk", sysErr("write", syscall.ENOSPC), ResourceExhausted, Agent},
		{"disk quota", sysErr("write", syscall.EDQUOT), ResourceExhausted, Agent},
		{"deadline", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, NetworkTimeout, Network},
		{"context deadline", context.DeadlineExceeded, NetworkTimeout, Network},
		{"time-out deep inside", &url.Error{Op: "Get", Err: fmt.Errorf("x: %w", bareTimeout{})}, NetworkTimeout, Network},
		{"name unknown", &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}, DNSFailure, Network},
		{"resolver silent", &net.DNSError{Err: "i/o timeout", Name: "x", IsTimeout: true}, DNSFailure, Network},
		{"resolver out of reach", &net.DNSError{Err: "dial udp: connect: network is unreachable", Name: "x"}, NetworkUnreachable, Network},
		{"not TLS", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, ProtocolError, Client},
		{"not HTTP", errors.New(`malformed HTTP response "SSH-2.0-OpenSSH"`), ProtocolError, Client},
		{"certificate", &tls.CertificateVerificationError{Err: errors.New("x")}, TLSFailure, Server},
		{"alert: certificate", &net.OpError{Op: "remote error", Err: tls.AlertError(42)}, TLSFailure, Client},
		{"alert: version", &net.OpError{Op: "remote error", Err: tls.AlertError(70)}, VersionMismatch, Client},
		{"alert: access denied", &net.OpError{Op: "remote error", Err: tls.AlertError(49)}, AuthFailed, Client},
		{"alert: MAC", &net.OpError{Op: "remote error", Err: tls.AlertError(20)}, ProtocolError, Client},
		{"something else", errors.New("the dog ate it"), NetworkError, Network},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Judge(tt.err, AgentToClient, Agent)
			require.Equal(t, tt.reason, got.Reason)
			require.Equal(t, tt.initiator, got.Initiator)
			require.Equal(t, AgentToClient, got.ConnectType)
			require.NotEqual(t, Graceful, got.Reason)
			if _, isTold := FromError(tt.err); isTold {
				require.Equal(t, "upgrade", got.Detail)
			} else {
				require.Contains(t, got.Detail, tt.err.Error(), "the original text is kept")
			}
		})
	}
}

type bareTimeout struct{}

func (bareTimeout) Error() string { return "too slow" }
func (bareTimeout) Timeout() bool { return true }

func TestJudgeCancellationDependsOnTheParty(t *testing.T) {
	for self, want := range map[Initiator]Goodbye{
		Client: {Reason: ClientClosed, Initiator: Client},
		Agent:  {Reason: ServerShutdown, Initiator: Agent},
		Server: {Reason: ServerShutdown, Initiator: Server},
	} {
		got := Judge(context.Canceled, ClientToServer, self)
		require.Equal(t, want.Reason, got.Reason)
		require.Equal(t, want.Initiator, got.Initiator)
	}
}

func TestJudgeNilIsUnknown(t *testing.T) {
	got := Judge(nil, ClientToServer, Client)
	require.Equal(t, Unknown, got.Reason)
	require.NotEmpty(t, got.Detail)
}

func TestJudgeNeverGivesAnUnknownInitiator(t *testing.T) {
	for _, self := range append(Initiators(), 99) {
		for _, connectType := range append(ConnectTypes(), 0, 99) {
			for _, err := range []error{io.EOF, syscall.EMFILE, syscall.ECONNREFUSED, context.Canceled, tls.RecordHeaderError{}} {
				got := Judge(err, connectType, self)
				require.NotEqual(t, InitiatorUnknown, got.Initiator, "%v %v %v", err, self, connectType)
				require.True(t, got.Initiator.Valid())
			}
		}
	}
}

func TestJudgeScrubsTheText(t *testing.T) {
	got := Judge(errors.New("bad\x1b[31m\n"+strings.Repeat("x", 1000)), AgentToClient, Client)
	require.True(t, strings.HasPrefix(got.Detail, "bad [31m xxx"), got.Detail)
	require.LessOrEqual(t, len(got.Detail), maxText)
}

// The errors that real sockets, resolvers and certificates give.
func TestJudgeRealErrors(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		_, err = net.Dial("tcp", listener.Addr().String())
		require.Equal(t, ConnectionRefused, Judge(err, ClientToServer, Client).Reason)
		require.Equal(t, Server, Judge(err, ClientToServer, Client).Initiator)
	})
	t.Run("reset by the peer", func(t *testing.T) {
		near, far := tcpPair(t)
		require.NoError(t, far.SetLinger(0))
		require.NoError(t, far.Close())
		_, err := near.Read(make([]byte, 1))
		require.Equal(t, ConnectionReset, Judge(err, ClientToServer, Client).Reason)
	})
	t.Run("polite close", func(t *testing.T) {
		near, far := tcpPair(t)
		require.NoError(t, far.Close())
		_, err := near.Read(make([]byte, 1))
		require.Equal(t, NetworkError, Judge(err, ClientToServer, Client).Reason)
	})
	t.Run("our own close", func(t *testing.T) {
		near, _ := tcpPair(t)
		require.NoError(t, near.Close())
		_, err := near.Read(make([]byte, 1))
		require.Equal(t, NetworkError, Judge(err, ClientToServer, Client).Reason)
	})
	t.Run("deadline", func(t *testing.T) {
		near, _ := tcpPair(t)
		require.NoError(t, near.SetReadDeadline(time.Unix(1, 0)))
		_, err := near.Read(make([]byte, 1))
		require.Equal(t, NetworkTimeout, Judge(err, ClientToServer, Client).Reason)
	})
	t.Run("dial cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1")
		require.Equal(t, ClientClosed, Judge(err, ClientToServer, Client).Reason)
	})
}

func TestJudgeRealTLSErrors(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = quietLog()
	server.StartTLS()
	defer server.Close()
	addr := server.Listener.Addr().String()
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	at := func(when time.Time) func() time.Time { return func() time.Time { return when } }

	tests := []struct {
		note      string
		initiator Initiator
		config    *tls.Config
	}{
		{"unknown_ca: ", Network, &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}},
		{"name: ", Server, &tls.Config{RootCAs: trusted, ServerName: "elsewhere.invalid"}},
		{"expired: ", Server, &tls.Config{RootCAs: trusted, ServerName: "example.com", Time: at(server.Certificate().NotAfter.AddDate(1, 0, 0))}},
		{"not_yet_valid: ", Server, &tls.Config{RootCAs: trusted, ServerName: "example.com", Time: at(server.Certificate().NotBefore.AddDate(-1, 0, 0))}},
	}
	for _, tt := range tests {
		t.Run(tt.note, func(t *testing.T) {
			_, err := tls.Dial("tcp", addr, tt.config)
			got := Judge(err, ClientToServer, Client)
			require.Equal(t, TLSFailure, got.Reason)
			require.Equal(t, tt.initiator, got.Initiator)
			require.True(t, strings.HasPrefix(got.Detail, tt.note), got.Detail)
		})
	}
	t.Run("alert from the server", func(t *testing.T) {
		old := &tls.Config{RootCAs: trusted, ServerName: "example.com", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		_, err := tls.Dial("tcp", addr, old)
		got := Judge(err, ClientToServer, Client)
		require.Equal(t, VersionMismatch, got.Reason, got.Detail)
		require.Equal(t, Server, got.Initiator)
	})
	t.Run("not a TLS server", func(t *testing.T) {
		plain := httptest.NewServer(http.NotFoundHandler())
		defer plain.Close()
		_, err := tls.Dial("tcp", plain.Listener.Addr().String(), &tls.Config{ServerName: "example.com"})
		require.Equal(t, ProtocolError, Judge(err, ClientToServer, Client).Reason)
	})
	t.Run("not an HTTP server", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		served := make(chan struct{})
		go func() {
			defer close(served)
			if conn, err := listener.Accept(); err == nil {
				conn.Read(make([]byte, 1<<10)) // an answer before the question would be ignored
				fmt.Fprint(conn, "SSH-2.0-OpenSSH_9.2\r\n")
				conn.Close()
			}
		}()
		_, err = http.Get("http://" + listener.Addr().String())
		<-served
		require.Equal(t, ProtocolError, Judge(err, ClientToServer, Client).Reason)
	})
}

// tcpPair returns the two ends of a TCP connection over loopback.
func tcpPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	accepted, err := listener.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted
}
