package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/sdk"
)

// Options configure [New].
type Options struct {
	// Listen is the address and port of HTTP, such as "127.0.0.1:8080". Port 0 takes a
	// free one.
	Listen string
	// Listener, unless it is nil, is the open port to use instead of Listen; the server
	// closes it.
	Listener net.Listener
	// AccessURL is how agents and clients reach the server, perhaps through a proxy and
	// under a path. Empty: made from the listening address.
	AccessURL string
	// StateDir holds the database and the one-time admin code.
	StateDir string
	// STUNListen is the UDP address and port of STUN; empty turns it off. Without STUN
	// peers behind address translation connect over the relay.
	STUNListen string
	// BehindProxy says that a proxy in front of the server does TLS. Without
	// TrustedProxies it is one on this host.
	BehindProxy bool
	// TrustedProxies are the addresses and networks whose X-Forwarded-For is believed.
	TrustedProxies []string
	// InsecureHTTP allows a listening address that is not loopback without TLS.
	InsecureHTTP bool
	// TLSCert and TLSKey are PEM files; both or none. They are read anew when they
	// change.
	TLSCert, TLSKey string
	// Local says that [Server.EnsureLocal] will make the first user: no admin code.
	Local bool
	// Version is the software version that every answer names.
	Version string
	// MaxLinksPerUser and MaxLinksPerAddress bound the control links of one user, or
	// one workspace's agents, and of one address; 0 means the default.
	MaxLinksPerUser, MaxLinksPerAddress int
	// MetricsListen is the address and port of /metrics and, at a loopback address,
	// pprof; empty turns both off.
	MetricsListen string
	Logger        *slog.Logger // nil discards
	// Now is the clock of tokens and codes; nil: time.Now.
	Now func() time.Time
}

// normalized returns opts with defaults filled in, or what is wrong with them in one
// sentence.
func (opts Options) normalized() (Options, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxLinksPerUser < 0 || opts.MaxLinksPerAddress < 0 {
		return opts, errors.New("a limit of connections cannot be less than zero")
	}
	if opts.MaxLinksPerUser == 0 {
		opts.MaxLinksPerUser = DefaultMaxLinksPerUser
	}
	if opts.MaxLinksPerAddress == 0 {
		opts.MaxLinksPerAddress = DefaultMaxLinksPerAddress
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Version == "" {
		opts.Version = "dev"
	}
	if opts.StateDir == "" {
		return opts, errors.New("no state directory is given")
	}
	if (opts.TLSCert == "") != (opts.TLSKey == "") {
		return opts, errHalfTLS
	}
	if _, err := opts.proxies(); err != nil {
		return opts, err
	}
	if opts.AccessURL != "" {
		if _, err := sdk.ParseURL(opts.AccessURL); err != nil {
			return opts, fmt.Errorf("access URL: %w", err)
		}
	}
	return opts, nil
}

// proxies returns who is trusted to tell for whom it asks.
func (opts Options) proxies() (proxies, error) {
	if opts.BehindProxy && len(opts.TrustedProxies) == 0 {
		return loopbackProxies, nil
	}
	return parseProxies(opts.TrustedProxies)
}

// listen opens the HTTP port, with TLS when there is a certificate, and refuses to
// serve tokens in the clear to a network.
func (opts Options) listen(ctx context.Context) (net.Listener, error) {
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
		refusal := fmt.Errorf("refusing to serve %s without TLS: give --tls-cert and --tls-key, or --behind-proxy if a proxy does TLS, or --insecure-http to accept the risk", opts.listenText(ln))
		return nil, errors.Join(refusal, ln.Close())
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

// accessURL returns the URL of the option, or the one that a listening address means.
// Every address of the host is reached by its loopback from the host itself, which is
// all that can be said without being told.
func (opts Options) accessURL(addr net.Addr) (*url.URL, error) {
	if opts.AccessURL != "" {
		return sdk.ParseURL(opts.AccessURL)
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("make access URL: %v is not a TCP address", addr)
	}
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	if name, _, err := net.SplitHostPort(opts.Listen); err == nil && name == "localhost" {
		host = name
	}
	scheme := "http"
	if opts.TLSCert != "" {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(strings.TrimSpace(host), strconv.Itoa(tcp.Port))}, nil
}
