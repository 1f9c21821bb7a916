package tailnet

import (
	"bytes"
	"encoding/binary"
	"math"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// run is the beginning of a batch of packets that the stack may get as one: segments of
// one TCP flow that follow each other and differ in nothing else.
type run struct {
	count  int // packets; at least one
	header int // length of IPv6's and TCP's header; 0: a packet that stays alone
	length int // of the one packet
	push   bool
}

// nextRun returns the run at the beginning of pkts, all of which the gate has admitted.
func nextRun(pkts [][]byte, offset int) run {
	first := pkts[0][offset:]
	r := run{count: 1, length: len(first)}
	if r.header = dataHeader(first); r.header == 0 {
		return r
	}
	r.push = pushes(first)
	seq := sequence(first) + uint32(len(first)-r.header)
	for _, pkt := range pkts[1:] {
		pkt = pkt[offset:]
		if dataHeader(pkt) != r.header || sequence(pkt) != seq || !sameFlow(first, pkt, r.header) {
			break
		}
		body := len(pkt) - r.header
		if r.length+body-ipv6HeaderLen > math.MaxUint16 {
			break
		}
		r.count++
		r.length += body
		r.push = r.push || pushes(pkt)
		seq += uint32(body)
	}
	return r
}

// packet makes the run's one packet of its packets. The caller must release it. The
// headers get memory of their own: the stack copies what holds them.
func (r run) packet(pkts [][]byte, offset int) *stack.PacketBuffer {
	first := pkts[0][offset:]
	if r.header == 0 {
		return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(first)})
	}
	head := buffer.NewViewWithData(first[:r.header])
	if header := head.AsSlice(); r.count > 1 {
		binary.BigEndian.PutUint16(header[ipv6LengthOffset:], uint16(r.length-ipv6HeaderLen))
		if r.push {
			header[ipv6HeaderLen+tcpFlagsOffset] |= tcpFlagPSH
		}
		// The checksum is that of the first segment, and nobody looks at it.
	}
	body := buffer.NewView(r.length - r.header)
	for _, pkt := range pkts[:r.count] {
		_, _ = body.Write(pkt[offset+r.header:]) // it grows as needed
	}
	payload := buffer.MakeWithView(head)
	_ = payload.Append(body) // it fails for a nil view
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
}

// dataHeader returns the length of both headers of a TCP packet that has payload and
// no flag but ACK and PSH, and 0 for any other packet.
func dataHeader(pkt []byte) int {
	const least = ipv6HeaderLen + tcpHeaderLen
	if len(pkt) <= least || pkt[6] != nextHeaderTCP || pkt[ipv6HeaderLen+tcpFlagsOffset]&^tcpFlagPSH != tcpFlagACK {
		return 0
	}
	if int(binary.BigEndian.Uint16(pkt[ipv6LengthOffset:])) != len(pkt)-ipv6HeaderLen {
		return 0
	}
	n := ipv6HeaderLen + int(pkt[ipv6HeaderLen+tcpDataOffset]>>4)*4
	if n < least || n >= len(pkt) {
		return 0
	}
	return n
}

func sequence(pkt []byte) uint32 {
	return binary.BigEndian.Uint32(pkt[ipv6HeaderLen+tcpSeqOffset:])
}

func pushes(pkt []byte) bool { return pkt[ipv6HeaderLen+tcpFlagsOffset]&tcpFlagPSH != 0 }

// sameFlow reports whether two packets with headers of that length differ at most in
// lengths, sequence number, PSH, checksum and payload.
func sameFlow(a, b []byte, header int) bool {
	const tcp = ipv6HeaderLen
	return bytes.Equal(a[:ipv6LengthOffset], b[:ipv6LengthOffset]) && // version, class and flow label
		bytes.Equal(a[ipv6LengthOffset+2:tcp+tcpSeqOffset], b[ipv6LengthOffset+2:tcp+tcpSeqOffset]) && // to the ports
		bytes.Equal(a[tcp+tcpSeqOffset+4:tcp+tcpFlagsOffset], b[tcp+tcpSeqOffset+4:tcp+tcpFlagsOffset]) && // acknowledgement
		bytes.Equal(a[tcp+tcpFlagsOffset+1:tcp+tcpChecksumOffset], b[tcp+tcpFlagsOffset+1:tcp+tcpChecksumOffset]) && // window
		bytes.Equal(a[tcp+tcpChecksumOffset+2:header], b[tcp+tcpChecksumOffset+2:header]) // options
}
