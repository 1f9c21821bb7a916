package hostwatch

import (
	"context"
	"net"
	"net/netip"

	"fairlead.dev/fairlead/disconnect/verdict"
)

// way is how the host reaches out. The zero value: it does not.
type way struct {
	iface  string
	local  netip.Addr // the address that it has there
	routed bool       // by a route to everywhere; otherwise the host knows its neighbours only
}

// links is where a watcher learns of the host's links.
type links interface {
	// out returns the way out as it is now.
	out() way
	// ailment says what is wrong with an interface that was the way out.
	ailment(iface string) string
	// follow makes changed ready whenever something may have changed, until ctx ends.
	follow(ctx context.Context, changed chan<- struct{})
}

// routeLocked takes note of the way out. A host that never had one is not down; it may
// have nobody to reach but itself.
func (w *Watcher) routeLocked(now Reading, is way) (news bool) {
	down := w.downLocked()
	was := w.way
	if is == (way{}) || (was.routed && !is.routed) {
		if down == nil && was != (way{}) {
			w.keepLocked(now, &record{kind: verdict.LinkDown, at: now.Boot, lasts: true, iface: was.iface, text: w.links.ailment(was.iface)})
		}
		return false
	}
	if down != nil {
		down.lasts, down.till = false, max(now.Boot, down.at+1)
		news = true
	}
	w.way = is
	if is == was || was == (way{}) {
		return news
	}
	text := is.iface + " has another address"
	if is.iface != was.iface {
		text = "from " + was.iface + " to " + is.iface
	}
	w.keepLocked(now, &record{kind: verdict.LinkChanged, at: now.Boot, till: now.Boot, iface: is.iface, text: text})
	return true
}

// downLocked returns the record of a link that is down, if it is.
func (w *Watcher) downLocked() *record {
	for _, r := range w.records {
		if r.lasts {
			return r
		}
	}
	return nil
}

// systemLinks are this host's.
type systemLinks struct{}

// everywhere are addresses that nobody has (RFC 5737, RFC 3849): the route to them is the
// one to everywhere.
var everywhere = []string{"198.51.100.1:9", "[2001:db8::1]:9"}

func (systemLinks) out() way {
	interfaces, err := net.Interfaces()
	if err != nil {
		return way{}
	}
	dead := false
	for _, target := range everywhere {
		local := routeTo(target)
		i, ok := holder(interfaces, local)
		if ok && works(i) {
			return way{iface: i.Name, local: local, routed: true}
		}
		dead = dead || ok
	}
	if dead {
		return way{} // the route is there, and the carrier is not
	}
	for _, i := range interfaces {
		if !works(i) {
			continue
		}
		for _, addr := range addresses(i) {
			return way{iface: i.Name, local: addr}
		}
	}
	return way{}
}

// routeTo returns from which address packets to target would go. A UDP socket that is
// connected asks for the route, and sends nothing.
func routeTo(target string) netip.Addr {
	conn, err := net.Dial("udp", target)
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = conn.Close() }()
	addr, _ := conn.LocalAddr().(*net.UDPAddr)
	return addr.AddrPort().Addr().Unmap().WithZone("")
}

func holder(interfaces []net.Interface, addr netip.Addr) (net.Interface, bool) {
	for _, i := range interfaces {
		for _, a := range addresses(i) {
			if a == addr {
				return i, true
			}
		}
	}
	return net.Interface{}, false
}

// works reports whether an interface leads out of the host, is up, and has a carrier.
func works(i net.Interface) bool {
	return i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0
}

// addresses returns those of an interface that are good beyond its link.
func addresses(i net.Interface) (all []netip.Addr) {
	addrs, err := i.Addrs()
	if err != nil {
		return nil // it has just gone
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, addr.Unmap())
			}
		}
	}
	return all
}

func (systemLinks) ailment(name string) string {
	i, err := net.InterfaceByName(name)
	switch {
	case err != nil:
		return name + " is gone"
	case i.Flags&net.FlagUp == 0:
		return name + " is down"
	case i.Flags&net.FlagRunning == 0:
		return name + " has no carrier"
	case len(addresses(*i)) == 0:
		return name + " has no address"
	}
	return "no route by " + name
}
