// Package httpport opens the port of a program that others reach over HTTP: with TLS
// from two files that are read anew when they change, or plain, which it refuses beyond
// loopback unless that was asked for. Every error is a sentence for the person who
// started the program.
//
// It does not serve, and knows nothing of who may ask for what.
package httpport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// OptionError is what another try with the same options, and the files that they name,
// meets again.
type OptionError struct{ Err error }

func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *OptionError) Unwrap() error { return e.Err }

// ErrHalfTLS is a certificate without its key, or the other way round.
var ErrHalfTLS error = &OptionError{errors.New("a TLS certificate and its key must be given together")}

// inTheClear refuses to serve tokens in the clear to a network.
func inTheClear(listen string) error {
	return &OptionError{errors.New("refusing to serve " + listen +
		" without TLS: give --tls-cert and --tls-key, or --behind-proxy if a proxy does TLS, or --insecure-http to accept the risk")}
}

// Options say what to open.
type Options struct {
	// Listen is the address and port, such as "127.0.0.1:8080". Port 0 takes a free one.
	Listen string
	// Listener, unless it is nil, is the open port to use instead of Listen.
	Listener net.Listener
	// TLSCert and TLSKey are PEM files; both or none.
	TLSCert, TLSKey string
	// BehindProxy says that a proxy does TLS, InsecureHTTP that nobody does: either
	// allows an address that is not loopback without a certificate.
	BehindProxy, InsecureHTTP bool
	Logger                    *slog.Logger
	Now                       func() time.Time // nil: time.Now
}

// Open opens the port. The caller must close the listener, which owns Options.Listener.
func Open(ctx context.Context, opts Options) (net.Listener, error) {
	if (opts.TLSCert == "") != (opts.TLSKey == "") {
		return nil, ErrHalfTLS
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	var config *tls.Config
	if opts.TLSCert != "" {
		cert, err := loadCertificate(opts.TLSCert, opts.TLSKey, opts.Logger, opts.Now)
		if err != nil {
			return nil, err
		}
		config = cert.config()
	}
	ln := opts.Listener
	if ln == nil {
		var err error
		if ln, err = new(net.ListenConfig).Listen(ctx, "tcp", opts.Listen); err != nil {
			return nil, listenError(opts.Listen, err)
		}
	}
	if config != nil {
		return tls.NewListener(ln, config), nil
	}
	// Judging the bound address, not the text, sees through names and empty hosts.
	if !opts.BehindProxy && !opts.InsecureHTTP && !isLoopback(ln.Addr()) {
		return nil, errors.Join(inTheClear(opts.listenText(ln)), ln.Close())
	}
	return ln, nil
}

// listenText names the listening address as it was given.
func (opts Options) listenText(ln net.Listener) string {
	if opts.Listener != nil {
		return ln.Addr().String()
	}
	return opts.Listen
}

// listenError says in one sentence why a port cannot be opened.
func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("cannot listen on %s: the port is in use by another program", addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("cannot listen on %s: this user may not open that port", addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("cannot listen on %s: this host does not have that address", addr)
	}
	cause := err
	var opErr *net.OpError
	if errors.As(err, &opErr) {
		cause = opErr.Err // the rest repeats the address
	}
	return fmt.Errorf("cannot listen on %s: %w", addr, cause)
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
