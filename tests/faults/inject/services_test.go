package inject

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCertificateExpires(t *testing.T) {
	t.Parallel()
	lab := build(t, "certificate")
	cert, err := NewCertificate(t.TempDir(), lab.Server.DNSName(), lab.Server.Addr.String())
	require.NoError(t, err)
	l, err := lab.Server.Listen(lab.Server.Addr.String() + ":0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if pair, err := tls.LoadX509KeyPair(cert.CertFile, cert.KeyFile); err == nil {
				_, _ = io.WriteString(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}}), "hello")
			}
			c.Close()
		}
	}()
	defer func() { l.Close(); <-served }()
	authority, err := os.ReadFile(cert.CAFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(authority))
	for _, name := range []string{lab.Server.DNSName(), lab.Server.Addr.String()} {
		greet := func() error {
			c, err := lab.Agent.Dial(t.Context(), "tcp4", l.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			_, err = tls.Client(c, &tls.Config{RootCAs: pool, ServerName: name}).Read(make([]byte, 5))
			return err
		}
		require.NoError(t, greet())
		expired := done[*Injection](t)(cert.Expire(t.Context()))
		var invalid x509.CertificateInvalidError
		require.ErrorAs(t, greet(), &invalid)
		require.Equal(t, x509.Expired, invalid.Reason)
		undo(t, expired)
		require.NoError(t, greet())
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	lab := build(t, "proxy")
	p, err := StartProxy(lab.Server, ":8080", serveEcho(t, lab.Server).addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	through := &echo{addr: p.Address}

	idle, busy := dial(t, lab.Client, through), dial(t, lab.Client, through)
	cut := done[*Injection](t)(p.CutIdle(t.Context(), time.Second))
	ended := make(chan error, 1)
	go func() {
		_ = idle.SetReadDeadline(time.Now().Add(patience))
		_, err := idle.Read(make([]byte, 1))
		ended <- err
	}()
	for waiting := true; waiting; {
		require.NoError(t, exchange(busy, patience), "what is used stays")
		select {
		case err := <-ended:
			require.ErrorIs(t, err, io.EOF)
			waiting = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	undo(t, cut)

	bad := done[*Injection](t)(p.BadGateway(t.Context(), false))
	require.NoError(t, exchange(busy, patience))
	c, err := lab.Client.Dial(t.Context(), "tcp4", p.Address)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(answer), "502 Bad Gateway")
	undo(t, bad)
	dial(t, lab.Client, through)

	done[*Injection](t)(p.BadGateway(t.Context(), true))
	require.Error(t, exchange(busy, patience))
}

func TestSendGarbage(t *testing.T) {
	t.Parallel()
	lab := build(t, "garbage")
	e := serveEcho(t, lab.Server)
	g := done[*Garbage](t)(SendGarbage(t.Context(), lab.Relay, e.addr, []byte("\x00\xffgarbage")))
	answer, ended, err := g.Answer(time.Second)
	require.NoError(t, err)
	require.Equal(t, "\x00\xffgarbage", answer)
	require.False(t, ended)
	undo(t, g)
	_, err = SendGarbage(t.Context(), lab.Relay, net.JoinHostPort(lab.Server.Addr.String(), "9"), nil)
	require.ErrorContains(t, err, "refused")
}
