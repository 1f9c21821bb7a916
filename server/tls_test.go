package server

import (
	"bytes"
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCertificateIsReadAnew: a renewal is served without a restart; a half-written one
// leaves the old in place; one that was open stays open.
func TestCertificateIsReadAnew(t *testing.T) {
	cert, key, _ := selfSigned(t)
	s := run(t, func(o *Options) { o.TLSCert, o.TLSKey = cert, key })
	served := func() []byte {
		conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // who it is, is the question
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Raw
	}
	first := served()

	newCert, newKey, _ := selfSigned(t)
	replace(t, newCert, cert) // the key does not belong to it yet
	awaitLog(t, s, served, "cannot be read anew")
	require.True(t, bytes.Equal(first, served()), "the certificate before stays in use")

	replace(t, newKey, key)
	require.Eventually(t, func() bool { return !bytes.Equal(first, served()) }, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, 1, strings.Count(s.log.String(), "cannot be read anew"), "told once for each change")
	require.Equal(t, 2, strings.Count(s.log.String(), "tls certificate read"))

	require.NoError(t, os.Remove(cert))
	awaitLog(t, s, served, "no such file")
	require.False(t, bytes.Equal(first, served()))
}

func TestExpiredCertificateIsTold(t *testing.T) {
	cert, key, _ := selfSigned(t)
	clock := newClock()
	clock.advance(200 * 365 * 24 * time.Hour)
	s := run(t, func(o *Options) { o.TLSCert, o.TLSKey, o.Now = cert, key, clock.Now })
	require.Contains(t, s.log.String(), "tls certificate has expired")
}

// awaitLog makes handshakes until the server has said part.
func awaitLog(t *testing.T, s *running, handshake func() []byte, part string) {
	t.Helper()
	require.Eventually(t, func() bool {
		handshake()
		return strings.Contains(s.log.String(), part)
	}, 20*time.Second, 50*time.Millisecond)
}

// replace puts a file in the place of another, as certbot does.
func replace(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Rename(from, to))
}
