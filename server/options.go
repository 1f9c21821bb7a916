package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	walltime "fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/httpport"
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
	// NoRelay turns the server's own relay and STUN off: nodes use those that are
	// processes of their own.
	NoRelay bool
	// Local says that [Server.EnsureLocal] will make the first user: no admin code.
	Local bool
	// Version is the software version that every answer names.
	Version string
	// MaxLinksPerUser and MaxLinksPerAddress bound the control links of one user, or
	// one workspace's agents, and of one address; 0 means the default.
	MaxLinksPerUser, MaxLinksPerAddress int
	// IdleTimeout and SessionLimit bound the sessions of workspaces that have no policy
	// of their own; 0: never.
	IdleTimeout, SessionLimit time.Duration
	// OutageLimit is how long a client may be silent before its sessions end, which agents
	// are told; 0 means DefaultOutageLimit.
	OutageLimit time.Duration
	// ConnectionRetention is how long closed connections stay in the connection log; 0: for
	// ever.
	ConnectionRetention time.Duration
	// MetricsListen is the address and port of /metrics and, at a loopback address,
	// pprof; empty turns both off.
	MetricsListen string
	Logger        *slog.Logger // nil discards
	// Event is told of each connection that the connection log opens (EventOpened) or closes
	// (EventClosed); nil: nobody is. It holds up the log until it returns.
	Event func(ctx context.Context, name string, at time.Time, level slog.Level, attrs ...slog.Attr)
	// Now is the clock of tokens and codes; nil: that of package clock.
	Now func() time.Time
}

// DefaultConnectionRetention is how long a server keeps its connection log unless it is
// told otherwise.
const DefaultConnectionRetention = 90 * 24 * time.Hour

// DefaultOutageLimit is how long a client may be silent unless the server, or its agent,
// is told otherwise. longestOutageLimit is what the network between them is made for.
const (
	DefaultOutageLimit = 30 * time.Minute
	longestOutageLimit = 24 * time.Hour
)

// Check returns what is wrong with opts in one sentence, as far as no port and no file
// needs to be opened to tell.
func (opts Options) Check() error {
	_, err := opts.normalized()
	return err
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
	for name, d := range map[string]time.Duration{"the idle time-out": opts.IdleTimeout, "the session limit": opts.SessionLimit} {
		if err := checkBound(name, d); err != nil {
			return opts, err
		}
	}
	if opts.OutageLimit < 0 || opts.OutageLimit > longestOutageLimit {
		return opts, errors.New("the outage limit lies between 0, which is the default, and 24 hours")
	}
	if opts.OutageLimit == 0 {
		opts.OutageLimit = DefaultOutageLimit
	}
	if opts.ConnectionRetention < 0 {
		return opts, errors.New("the connection log cannot be kept for less than no time: give a duration, or 0 to keep it for ever")
	}
	if opts.MaxLinksPerUser == 0 {
		opts.MaxLinksPerUser = DefaultMaxLinksPerUser
	}
	if opts.MaxLinksPerAddress == 0 {
		opts.MaxLinksPerAddress = DefaultMaxLinksPerAddress
	}
	if opts.Now == nil {
		opts.Now = walltime.Now
	}
	if opts.Version == "" {
		opts.Version = "dev"
	}
	if opts.StateDir == "" {
		return opts, errors.New("no state directory is given")
	}
	if (opts.TLSCert == "") != (opts.TLSKey == "") {
		return opts, httpport.ErrHalfTLS
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
	return httpport.Open(ctx, httpport.Options{
		Listen: opts.Listen, Listener: opts.Listener, TLSCert: opts.TLSCert, TLSKey: opts.TLSKey,
		BehindProxy: opts.BehindProxy, InsecureHTTP: opts.InsecureHTTP, Logger: opts.Logger, Now: opts.Now,
	})
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
