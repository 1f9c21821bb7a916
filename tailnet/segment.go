package tailnet

import (
	"encoding/binary"

	"github.com/tailscale/wireguard-go/tun"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Offsets in headers of IPv6 and TCP, and TCP's flags (RFC 8200, 9293).
const (
	ipv6LengthOffset  = 4
	ipv6SrcOffset     = 8
	ipv6DstOffset     = 24
	tcpSeqOffset      = 4
	tcpDataOffset     = 12 // in its upper four bits, in units of four bytes
	tcpChecksumOffset = 16
	maxTCPHeaderLen   = 60
	tcpFlagFIN        = 0x01
	tcpFlagPSH        = 0x08
)

// segments cuts one packet of the stack, which may be far larger than the MTU, into
// packets for the wire. It is used by one goroutine.
type segments struct {
	pkt    *stack.PacketBuffer // nil: nothing left
	header []byte              // IPv6 and TCP, as the stack wrote them
	store  [ipv6HeaderLen + maxTCPHeaderLen]byte
	rest   [][]byte // payload not sent yet
	left   int      // its length
	size   int      // payload of a segment
	seq    uint32   // of the next segment
}

// start takes over pkt, and its release.
func (s *segments) start(pkt *stack.PacketBuffer) {
	s.pkt, s.rest = pkt, pkt.AsSlices()
	s.left = pkt.Size()
	s.size, s.header = s.left, nil
	gso := pkt.GSOOptions
	network, transport := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	if gso.Type != stack.GSOTCPv6 || len(network) != ipv6HeaderLen || len(transport) > maxTCPHeaderLen {
		return // whole, as it is
	}
	s.header = append(append(s.store[:0], network...), transport...)
	s.skip(len(s.header))
	s.size = int(gso.MSS)
	s.seq = binary.BigEndian.Uint32(transport[tcpSeqOffset:])
}

// done reports whether the packet is used up, and has been released.
func (s *segments) done() bool { return s.pkt == nil }

// next writes the next packet for the wire into dst, and returns its length.
func (s *segments) next(dst []byte) int {
	n := len(s.header)
	body := min(s.left, s.size)
	last := body == s.left
	s.take(dst[n : n+body])
	if n > 0 {
		s.writeHeader(dst[:n+body], last)
	}
	if last {
		s.release()
	}
	return n + body
}

// writeHeader puts the headers in front of a segment's payload.
func (s *segments) writeHeader(pkt []byte, last bool) {
	copy(pkt, s.header)
	length := len(pkt) - ipv6HeaderLen
	binary.BigEndian.PutUint16(pkt[ipv6LengthOffset:], uint16(length))
	segment := pkt[ipv6HeaderLen:]
	binary.BigEndian.PutUint32(segment[tcpSeqOffset:], s.seq)
	s.seq += uint32(len(pkt) - len(s.header))
	if !last {
		segment[tcpFlagsOffset] &^= tcpFlagFIN | tcpFlagPSH
	}
	segment[tcpChecksumOffset], segment[tcpChecksumOffset+1] = 0, 0
	sum := tun.PseudoHeaderChecksum(nextHeaderTCP, pkt[ipv6SrcOffset:ipv6DstOffset], pkt[ipv6DstOffset:ipv6HeaderLen], uint16(length))
	binary.BigEndian.PutUint16(segment[tcpChecksumOffset:], ^tun.Checksum(segment, sum))
}

// take fills dst with the next bytes of the packet.
func (s *segments) take(dst []byte) {
	s.left -= len(dst)
	for len(dst) > 0 {
		n := copy(dst, s.rest[0])
		dst = dst[n:]
		s.advance(n)
	}
}

// skip passes by the next n bytes of the packet.
func (s *segments) skip(n int) {
	s.left -= n
	for n > 0 {
		step := min(n, len(s.rest[0]))
		n -= step
		s.advance(step)
	}
}

func (s *segments) advance(n int) {
	if s.rest[0] = s.rest[0][n:]; len(s.rest[0]) == 0 {
		s.rest = s.rest[1:]
	}
}

// release lets go of the packet.
func (s *segments) release() {
	if s.pkt != nil {
		s.pkt.DecRef()
		s.pkt, s.rest = nil, nil
	}
}
