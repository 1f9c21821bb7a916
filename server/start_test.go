package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// refuse checks that a server does not start, for a reason told in one line.
func refuse(t *testing.T, opts Options, parts ...string) {
	t.Helper()
	if opts.StateDir == "" {
		opts.StateDir = t.TempDir()
	}
	s, err := New(t.Context(), opts)
	if err == nil {
		require.NoError(t, s.Close(context.Background()))
	}
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	for _, part := range parts {
		require.Contains(t, err.Error(), part)
	}
}

func TestRefusedListen(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		refuse(t, Options{Listen: addr}, "refusing to serve "+addr+" without TLS", "--tls-cert", "--behind-proxy", "--insecure-http")
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.8.8.8:0"} {
		run(t, func(o *Options) { o.Listen = addr })
	}
	run(t, func(o *Options) { o.Listen, o.InsecureHTTP = "0.0.0.0:0", true })
	run(t, func(o *Options) { o.Listen, o.BehindProxy = "0.0.0.0:0", true })
}

func TestBadStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	addr := taken.Addr().String()
	refuse(t, Options{Listen: addr}, "cannot listen on "+addr+": the port is in use")
	refuse(t, Options{Listen: "127.0.0.1:notaport"}, "cannot listen on 127.0.0.1:notaport")
	refuse(t, Options{Listen: "192.0.2.1:0"}, "cannot listen on 192.0.2.1:0: this host does not have that address")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	refuse(t, Options{Listen: "127.0.0.1:0", StateDir: file}, "cannot use state directory "+file)
	refuse(t, Options{Listen: "127.0.0.1:0", TLSCert: "x.pem"}, "must be given together")
	refuse(t, Options{Listen: "127.0.0.1:0", TLSCert: "x.pem", TLSKey: "y.pem"}, "load TLS certificate")
	for _, u := range []string{"example.com", "ftp://example.com", "https://", "https://u:p@example.com", "https://example.com/?q"} {
		refuse(t, Options{Listen: "127.0.0.1:0", AccessURL: u}, "access URL")
	}
	s := run(t, nil)
	refuse(t, Options{Listen: "127.0.0.1:0", StateDir: s.opts.StateDir}, "in use by another running Fairlead server")
	_, err = New(t.Context(), Options{Listen: "127.0.0.1:0"})
	require.ErrorContains(t, err, "no state directory")
}

func TestAccessURLFromListen(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:0": "http://127.0.0.1:", "localhost:0": "http://localhost:", "0.0.0.0:0": "http://127.0.0.1:",
	} {
		s := run(t, func(o *Options) { o.Listen, o.InsecureHTTP = listen, true })
		require.True(t, strings.HasPrefix(s.URL().String(), want), s.URL())
		require.Equal(t, http.StatusOK, s.send(t, "GET", "/readyz", "", "").StatusCode)
	}
}

func TestSTUNIsOptional(t *testing.T) {
	off := run(t, nil)
	require.Zero(t, off.derpMap().GetRegions()[0].GetStunPort())
	require.NotContains(t, off.log.String(), "stun")

	on := run(t, func(o *Options) { o.STUNListen = "127.0.0.1:0" })
	port := on.derpMap().GetRegions()[0].GetStunPort()
	require.NotZero(t, port)

	blocked := run(t, func(o *Options) { o.STUNListen = on.stun.Addr().String() })
	require.Zero(t, blocked.derpMap().GetRegions()[0].GetStunPort())
	require.Equal(t, 1, strings.Count(blocked.log.String(), "stun is off"))
	require.Equal(t, http.StatusOK, blocked.send(t, "GET", "/readyz", "", "").StatusCode)
}

func TestTLSWithoutHTTP2(t *testing.T) {
	cert, key, pool := selfSigned(t)
	s := run(t, func(o *Options) { o.TLSCert, o.TLSKey, o.Listen = cert, key, "0.0.0.0:0" })
	require.Equal(t, "https", s.URL().Scheme)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(s.URL().String() + "/healthz")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, 1, resp.ProtoMajor)

	// Garbage in place of a handshake.
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n\x1b[31m"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, _ = conn.Read(make([]byte, 512))
	resp, err = (&http.Client{Transport: tr}).Get(s.URL().String() + "/healthz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

// selfSigned writes a certificate for 127.0.0.1 and returns its files and its pool.
func selfSigned(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(cert, certPEM, 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	pool = x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(certPEM))
	return cert, key, pool
}

func TestCloseTwiceAndWithoutServe(t *testing.T) {
	s, err := New(t.Context(), Options{Listen: "127.0.0.1:0", StateDir: t.TempDir(), STUNListen: "127.0.0.1:0"})
	require.NoError(t, err)
	require.NoError(t, s.Close(context.Background()))
	require.NoError(t, s.Close(context.Background()))
	_, err = net.Dial("tcp", s.Addr().String())
	require.Error(t, err)
}

// TestCloseDoesNotWaitForTheSilent: a connection that never says anything holds nobody.
func TestCloseDoesNotWaitForTheSilent(t *testing.T) {
	s := run(t, nil)
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, http.StatusOK, s.send(t, "GET", "/healthz", "", "").StatusCode) // accepted after it
	begin := time.Now()
	s.stop()
	require.Less(t, time.Since(begin), requestGrace)
}
