package httpport

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certCheckEvery is how often at most the files of the certificate are looked at.
const certCheckEvery = time.Second

// certificate is the TLS certificate in two files. Each handshake finds out whether
// they have changed, so that a renewal needs no restart and no signal. Files that are
// not a pair, as they are between the writing of the first and the second, leave the
// certificate that was read before in place.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger
	now               func() time.Time

	mu      sync.Mutex // guards all below
	current *tls.Certificate
	read    [2]fileState // of the last attempt to read
	checked time.Time
}

// fileState is what changes when a file is written or replaced.
type fileState struct {
	info fs.FileInfo // nil: cannot be seen
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}
	}
	return fileState{info}
}

func (s fileState) same(other fileState) bool {
	if s.info == nil || other.info == nil {
		return s.info == nil && other.info == nil
	}
	return os.SameFile(s.info, other.info) && s.info.Size() == other.info.Size() && s.info.ModTime().Equal(other.info.ModTime())
}

// loadCertificate reads the two files for the first time.
func loadCertificate(certFile, keyFile string, logger *slog.Logger, now func() time.Time) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger, now: now}
	c.read = [2]fileState{stateOf(certFile), stateOf(keyFile)}
	c.checked = time.Now()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, &OptionError{fmt.Errorf("load TLS certificate: %w", err)}
	}
	c.take(&pair)
	return c, nil
}

// config returns how to serve TLS with it.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
		MinVersion:     tls.VersionTLS12,
		// HTTP/2 has no upgrade to WebSocket that the clients could use.
		NextProtos: []string{"http/1.1"},
	}
}

// get returns the certificate, read anew if its files have changed.
func (c *certificate) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certCheckEvery {
		return c.current
	}
	c.checked = time.Now()
	// Looked at before reading: a change during the reading is then seen next time.
	files := [2]fileState{stateOf(c.certFile), stateOf(c.keyFile)}
	if files[0].same(c.read[0]) && files[1].same(c.read[1]) {
		return c.current
	}
	c.read = files
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.logger.Warn("tls certificate cannot be read anew, the one before stays in use", "tls_cert", c.certFile, "error", err)
		return c.current
	}
	c.take(&pair)
	return c.current
}

// take makes pair the certificate in use.
func (c *certificate) take(pair *tls.Certificate) {
	c.current = pair
	leaf := pair.Leaf // set by tls.LoadX509KeyPair
	level, msg := slog.LevelInfo, "tls certificate read"
	if c.now().After(leaf.NotAfter) {
		level, msg = slog.LevelWarn, "tls certificate has expired: clients will refuse it"
	}
	c.logger.LogAttrs(context.Background(), level, msg,
		slog.String("tls_cert", c.certFile), slog.Time("not_after", leaf.NotAfter), slog.Any("dns_names", leaf.DNSNames))
}
