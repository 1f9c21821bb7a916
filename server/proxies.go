package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"fairlead.dev/fairlead/disconnect"
)

// headerForwardedFor is where a proxy tells for whom it asks.
const headerForwardedFor = "X-Forwarded-For"

// proxies are the addresses whose word about others counts.
type proxies []netip.Prefix

// loopbackProxies is who is trusted behind a proxy of which nothing else is known.
var loopbackProxies = proxies{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// parseProxies reads addresses and networks.
func parseProxies(list []string) (proxies, error) {
	var all proxies
	for _, entry := range list {
		entry = strings.TrimSpace(entry)
		prefix, err := netip.ParsePrefix(entry)
		if addr, e := netip.ParseAddr(entry); e == nil {
			addr = addr.Unmap().WithZone("")
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if addr := prefix.Addr(); err == nil && addr.Is4In6() && prefix.Bits() >= 96 { // else it would match nobody
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
		}
		if err != nil {
			return nil, fmt.Errorf("trusted proxies: %q is not an address or a network such as 10.0.0.0/8", disconnect.Scrub(entry))
		}
		all = append(all, prefix.Masked())
	}
	return all, nil
}

func (p proxies) trust(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(p, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// caller returns the address of who makes a request, as a trusted proxy tells it. Every
// proxy appends to the list whom it saw, so that it is read from its end for as long as
// the teller is trusted; what comes before is the caller's own word. ignored says that
// there was a list, but from somebody whose word does not count.
func (p proxies) caller(r *http.Request) (addr string, ignored bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	list := r.Header.Values(headerForwardedFor)
	if err != nil || len(list) == 0 {
		return r.RemoteAddr, false
	}
	if !p.trust(peer.Addr()) {
		return r.RemoteAddr, true
	}
	entries := strings.Split(strings.Join(list, ","), ",")
	found := r.RemoteAddr
	for _, entry := range slices.Backward(entries) {
		told, err := parseForwarded(entry)
		if err != nil {
			break // what is unreadable tells nothing, nor does what lies behind it
		}
		found = net.JoinHostPort(told.String(), "0")
		if !p.trust(told) {
			break
		}
	}
	return found, false
}

// parseForwarded reads an entry; some proxies add the port.
func parseForwarded(entry string) (netip.Addr, error) {
	entry = strings.TrimSpace(entry)
	if with, err := netip.ParseAddrPort(entry); err == nil {
		return with.Addr().Unmap(), nil
	}
	addr, err := netip.ParseAddr(strings.Trim(entry, "[]"))
	return addr.Unmap(), err
}

// noteUntrustedProxy warns, once, that everybody's address is the proxy's. It could be
// a stranger who sends that header, so the log does not take it for a fact.
func (s *Server) noteUntrustedProxy() {
	s.untrusted.Do(func() {
		s.logger.Warn("a proxy that is not trusted forwards requests: callers have its address until --trusted-proxies names it")
	})
}
