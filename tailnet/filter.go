package tailnet

import (
	"encoding/binary"
	"net/netip"

	"go4.org/netipx"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/logger"
	"tailscale.com/types/views"
	"tailscale.com/wgengine/filter"

	"fairlead.dev/fairlead/tailnet/proto"
)

// What a peer may send is said twice, and both have to agree: once to the engine's
// stateful filter (newFilter), and once in front of our own stack (gate). The
// engine's filter lets through what we have no use for: later IP fragments, ICMP to
// an address with any open port, its own control packets.

// newFilter allows new TCP flows from any tailnet address to the given ports of
// self, and nothing else to begin. WireGuard has already proved the source address.
func newFilter(self netip.Addr, ports []uint16, logf logger.Logf) (*filter.Filter, error) {
	var local netipx.IPSetBuilder
	local.Add(self)
	localNets, err := local.IPSet()
	if err != nil {
		return nil, err
	}
	var matches []filter.Match
	if len(ports) > 0 {
		match := filter.Match{
			IPProto: views.SliceOf([]ipproto.Proto{ipproto.TCP}),
			Srcs:    []netip.Prefix{proto.Prefix},
		}
		for _, port := range ports {
			match.Dsts = append(match.Dsts, filter.NetPortRange{
				Net:   netip.PrefixFrom(self, self.BitLen()),
				Ports: filter.PortRange{First: port, Last: port},
			})
		}
		matches = append(matches, match)
	}
	return filter.New(matches, nil, localNets, nil, nil, logf), nil
}

// Offsets and numbers of IPv6, TCP and ICMPv6 headers (RFC 8200, 9293, 4443).
const (
	ipv6HeaderLen     = 40
	nextHeaderTCP     = 6
	nextHeaderICMPv6  = 58
	tcpHeaderLen      = 20
	tcpFlagsOffset    = 13
	tcpFlagSYN        = 0x02
	tcpFlagACK        = 0x10
	icmpv6FirstNotErr = 128
)

// gate decides which packets reach our own stack: TCP between tailnet addresses,
// new flows only to allowed ports, and ICMPv6 errors. It is immutable.
type gate struct {
	self  [16]byte
	ports map[uint16]bool
}

func newGate(self netip.Addr, ports []uint16) *gate {
	g := &gate{self: self.As16(), ports: make(map[uint16]bool, len(ports))}
	for _, port := range ports {
		g.ports[port] = true
	}
	return g
}

// admits reports whether the stack may see the packet. Extension headers, and so
// fragments, have no use here: TCP's segments fit the MTU.
func (g *gate) admits(pkt []byte) bool {
	if len(pkt) < ipv6HeaderLen || pkt[0]>>4 != 6 {
		return false
	}
	src, dst := netip.AddrFrom16([16]byte(pkt[8:24])), [16]byte(pkt[24:40])
	if dst != g.self || !proto.Prefix.Contains(src) {
		return false
	}
	payload := pkt[ipv6HeaderLen:]
	switch pkt[6] {
	case nextHeaderTCP:
		if len(payload) < tcpHeaderLen {
			return false
		}
		if payload[tcpFlagsOffset]&(tcpFlagSYN|tcpFlagACK) != tcpFlagSYN {
			return true // belongs to a flow, or the stack answers with a reset
		}
		return g.ports[binary.BigEndian.Uint16(payload[2:4])]
	case nextHeaderICMPv6:
		return len(payload) > 0 && payload[0] < icmpv6FirstNotErr
	default:
		return false
	}
}
