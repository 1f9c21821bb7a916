package baddays

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

func TestMain(m *testing.M) { site.Main(m) }

// front is the address that everybody was told. What answers there can change.
type front struct {
	URL string

	t       *testing.T
	address string
	server  string // where the good server is
	work    sync.WaitGroup

	mu       sync.Mutex // guards below
	ln       net.Listener
	answer   func(net.Conn) // nil: the good server
	conns    map[net.Conn]bool
	requests []string // the first line of each connection since the last change
}

// newFront returns a front of the server at address, which leads there.
func newFront(t *testing.T, server string) *front {
	t.Helper()
	f := &front{t: t, address: site.FreeAddress(t), server: server, conns: map[net.Conn]bool{}}
	f.URL = "http://" + f.address
	f.lead(nil)
	t.Cleanup(func() {
		f.shut()
		f.work.Wait()
	})
	return f
}

// lead cuts what is connected, and has answer meet whoever comes from now on; nil is
// the good server.
func (f *front) lead(answer func(net.Conn)) {
	f.t.Helper()
	f.shut()
	ln, err := net.Listen("tcp", f.address)
	require.NoError(f.t, err)
	f.mu.Lock()
	f.ln, f.answer, f.requests = ln, answer, nil
	f.mu.Unlock()
	f.work.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.work.Go(func() { f.serve(conn) })
		}
	})
}

// shut closes the port and cuts what is connected.
func (f *front) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != nil {
		_ = f.ln.Close()
	}
	for conn := range f.conns {
		_ = conn.Close()
	}
}

// seen returns how many connections since the last change began with a request for
// something under path.
func (f *front) seen(path string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.requests {
		if _, target, ok := strings.Cut(line, " "); ok && strings.HasPrefix(target, path) {
			n++
		}
	}
	return n
}

func (f *front) hold(conn net.Conn) (letGo func()) {
	f.mu.Lock()
	f.conns[conn] = true
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
		_ = conn.Close()
	}
}

func (f *front) serve(conn net.Conn) {
	defer f.hold(conn)()
	first := make([]byte, 4096)
	n, err := conn.Read(first)
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(first[:n]), "\r\n")
	f.mu.Lock()
	answer := f.answer
	f.requests = append(f.requests, line)
	f.mu.Unlock()
	if answer != nil {
		answer(conn)
		return
	}
	up, err := net.Dial("tcp", f.server)
	if err != nil {
		return
	}
	defer f.hold(up)()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, up)
		_ = conn.Close()
	})
	if _, err := up.Write(first[:n]); err == nil {
		_, _ = io.Copy(up, conn)
	}
	_ = up.Close()
	back.Wait()
}

// says answers a request with text, whatever it was.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = io.WriteString(conn, text)
	}
}

// alert is what a TLS port says to plain HTTP: a record of type alert, unexpected message.
const alert = "\x15\x03\x01\x00\x02\x02\x0a"

// certificate makes one for localhost, signed by itself.
func certificate(t *testing.T, from, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(from.UnixNano()), NotBefore: from, NotAfter: until,
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
