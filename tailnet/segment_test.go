package tailnet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var (
	segmentSrc = netip.MustParseAddr("fd66:6169:726c::1")
	segmentDst = netip.MustParseAddr("fd66:6169:726c::2")
)

// largePacket returns what the stack hands its link: headers, and a payload in views of
// uneven sizes.
func largePacket(payload []byte, options, mss int, flags header.TCPFlags) *stack.PacketBuffer {
	var body buffer.Buffer
	for rest, size := payload, 1; len(rest) > 0; size = size*3 + 1 {
		n := min(size, len(rest))
		_ = body.Append(buffer.NewViewWithData(rest[:n]))
		rest = rest[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: ipv6HeaderLen + maxTCPHeaderLen, Payload: body})
	tcp := header.TCP(pkt.TransportHeader().Push(tcpHeaderLen + options))
	tcp.Encode(&header.TCPFields{
		SrcPort: 4001, DstPort: 22, SeqNum: 0xfffff000, AckNum: 77, Flags: flags, WindowSize: 1000,
		DataOffset: uint8(tcpHeaderLen + options),
	})
	for i := range options {
		tcp[tcpHeaderLen+i] = header.TCPOptionNOP
	}
	header.IPv6(pkt.NetworkHeader().Push(ipv6HeaderLen)).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(tcp) + len(payload)), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(segmentSrc.As16()), DstAddr: tcpip.AddrFrom16(segmentDst.As16()),
	})
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, CsumOffset: tcpChecksumOffset, MSS: uint16(mss), L3HdrLen: ipv6HeaderLen}
	return pkt
}

// cut reads everything that device has, in batches of the given size.
func cut(t *testing.T, device *tunDevice, batch, offset int) (wire [][]byte) {
	t.Helper()
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, offset+2*mtu)
	}
	for len(device.link.queue) > 0 || !device.cutting.done() {
		n, err := device.Read(bufs, sizes, offset)
		require.NoError(t, err)
		require.Positive(t, n)
		for i := range n {
			wire = append(wire, bytes.Clone(bufs[i][:offset+sizes[i]]))
		}
	}
	return wire
}

func randomBytes(seed uint64, n int) []byte {
	data := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(data)
	return data
}

// A large packet becomes segments that fit the MTU, follow each other, and have right
// checksums, whatever its size, its options and the batches it is read in.
func TestLargePacketIsCut(t *testing.T) {
	const offset = 16
	for _, options := range []int{0, 12, 40} {
		mss := mtu - ipv6HeaderLen - tcpHeaderLen - options
		for _, size := range []int{0, 1, mss - 1, mss, mss + 1, 2 * mss, 5*mss + 3, 65000} {
			for _, batch := range []int{1, 3, tunBatch} {
				payload := randomBytes(uint64(size), size)
				device := newTunDevice(newGate(segmentDst, []uint16{22}))
				device.link.queue <- largePacket(payload, options, mss, header.TCPFlagAck|header.TCPFlagPsh|header.TCPFlagFin)
				device.link.queue <- largePacket([]byte("next"), options, mss, header.TCPFlagAck)
				wire := cut(t, device, batch, offset)

				require.Len(t, wire, max(1, (size+mss-1)/mss)+1)
				require.Equal(t, "next", string(wire[len(wire)-1][offset+ipv6HeaderLen+tcpHeaderLen+options:]))
				var got []byte
				for i, data := range wire[:len(wire)-1] {
					pkt := header.IPv6(data[offset:])
					require.LessOrEqual(t, len(pkt), mtu)
					require.True(t, pkt.IsValid(len(pkt)))
					tcp := header.TCP(pkt.Payload())
					require.True(t, tcp.IsChecksumValid(pkt.SourceAddress(), pkt.DestinationAddress(), checksum.Checksum(tcp.Payload(), 0), uint16(len(tcp.Payload()))))
					require.Equal(t, uint32(0xfffff000)+uint32(len(got)), tcp.SequenceNumber(), "the number wraps")
					last := i == len(wire)-2
					require.Equal(t, last, tcp.Flags()&(header.TCPFlagPsh|header.TCPFlagFin) != 0)
					got = append(got, tcp.Payload()...)
				}
				require.Equal(t, payload, append([]byte{}, got...))
			}
		}
	}
}

// What is no TCP segment of a connection leaves as the stack made it.
func TestOtherPacketIsNotTouched(t *testing.T) {
	data := randomBytes(1, 300)
	device := newTunDevice(newGate(segmentDst, nil))
	device.link.queue <- stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(data)})
	require.Equal(t, [][]byte{data}, cut(t, device, 4, 0))
}

// segmentsOf cuts a payload into packets for the wire.
func segmentsOf(t *testing.T, payload []byte, mss int, flags header.TCPFlags) [][]byte {
	t.Helper()
	device := newTunDevice(newGate(segmentDst, []uint16{22}))
	device.link.queue <- largePacket(payload, 12, mss, flags)
	return cut(t, device, tunBatch, 0)
}

// joined is what the stack gets for packets, flat.
func joined(pkts [][]byte) (out [][]byte, counts []int) {
	for len(pkts) > 0 {
		r := nextRun(pkts, 0)
		pkt := r.packet(pkts, 0)
		view := pkt.ToView()
		out, counts = append(out, bytes.Clone(view.AsSlice())), append(counts, r.count)
		view.Release()
		pkt.DecRef()
		pkts = pkts[r.count:]
	}
	return out, counts
}

func TestSegmentsAreJoined(t *testing.T) {
	payload := randomBytes(2, 20000)
	wire := segmentsOf(t, payload, 1200, header.TCPFlagAck|header.TCPFlagPsh)
	out, counts := joined(wire)
	require.Equal(t, []int{len(wire)}, counts)
	pkt := header.IPv6(out[0])
	require.True(t, pkt.IsValid(len(pkt)))
	tcp := header.TCP(pkt.Payload())
	require.Equal(t, payload, tcp.Payload())
	require.Equal(t, uint32(0xfffff000), tcp.SequenceNumber())
	require.Equal(t, header.TCPFlagAck|header.TCPFlagPsh, tcp.Flags())
}

// No packet becomes longer than IPv6's length can tell.
func TestJoinedPacketIsBounded(t *testing.T) {
	payload := randomBytes(3, 54*1200)
	wire := append(segmentsOf(t, payload, 1200, header.TCPFlagAck), segmentsOf(t, payload, 1200, header.TCPFlagAck)...)
	for i, pkt := range wire {
		binary.BigEndian.PutUint32(pkt[ipv6HeaderLen+tcpSeqOffset:], uint32(i*1200))
	}
	out, counts := joined(wire)
	require.Equal(t, []int{54, 54}, counts)
	for _, pkt := range out {
		require.True(t, header.IPv6(pkt).IsValid(len(pkt)))
	}
}

// What differs in anything that TCP acts on is not joined.
func TestOnlyOneFlowIsJoined(t *testing.T) {
	const tcp = ipv6HeaderLen
	for name, change := range map[string]func(second []byte){
		"traffic class":   func(p []byte) { p[1] ^= 0x20 },
		"hop limit":       func(p []byte) { p[7]-- },
		"source":          func(p []byte) { p[ipv6DstOffset-1]++ },
		"source port":     func(p []byte) { p[tcp]++ },
		"gap":             func(p []byte) { p[tcp+tcpSeqOffset+3]++ },
		"acknowledgement": func(p []byte) { p[tcp+8]++ },
		"RST":             func(p []byte) { p[tcp+tcpFlagsOffset] |= 0x04 },
		"SYN":             func(p []byte) { p[tcp+tcpFlagsOffset] |= tcpFlagSYN },
		"FIN":             func(p []byte) { p[tcp+tcpFlagsOffset] |= tcpFlagFIN },
		"URG":             func(p []byte) { p[tcp+tcpFlagsOffset] |= 0x20 },
		"congestion":      func(p []byte) { p[tcp+tcpFlagsOffset] |= 0x40 },
		"window":          func(p []byte) { p[tcp+14]++ },
		"options":         func(p []byte) { p[tcp+tcpHeaderLen+5]++ },
		"header length":   func(p []byte) { p[tcp+tcpDataOffset] = 6 << 4 },
		"no header":       func(p []byte) { p[tcp+tcpDataOffset] = 0 },
		"declared length": func(p []byte) { p[ipv6LengthOffset+1]-- },
		"no TCP":          func(p []byte) { p[6] = nextHeaderICMPv6 },
	} {
		wire := segmentsOf(t, randomBytes(4, 2000), 1000, header.TCPFlagAck)
		change(wire[1])
		out, counts := joined(wire)
		require.Equal(t, []int{1, 1}, counts, name)
		require.Equal(t, wire, out, name)
	}
}

// FuzzJoin damages a batch of segments. Whatever came, each byte that arrives stands
// where TCP would have put it, and nothing is added or lost.
func FuzzJoin(f *testing.F) {
	f.Add([]byte("some payload of a flow that is cut"), uint8(5), []byte{})
	f.Add(bytes.Repeat([]byte("0123456789"), 50), uint8(100), []byte{0, 60, 1, 1, 45, 9, 2, 4, 200, 1, 0xff, 0})
	f.Fuzz(func(t *testing.T, payload []byte, mss uint8, damage []byte) {
		if len(payload) > 4000 {
			return
		}
		wire := segmentsOf(t, payload, int(mss)+1, header.TCPFlagAck)
		for ; len(damage) >= 3; damage = damage[3:] {
			i := int(damage[0]) % len(wire)
			switch at := int(damage[1]); {
			case at == 0xff: // the end is missing
				wire[i] = wire[i][:max(1, len(wire[i])-int(damage[2]))]
			case at == 0xfe: // reordered
				j := int(damage[2]) % len(wire)
				wire[i], wire[j] = wire[j], wire[i]
			default:
				wire[i][at%len(wire[i])] ^= damage[2]
			}
		}
		out, counts := joined(wire)
		for n, pkt := range out {
			count := counts[n]
			if count == 1 {
				require.Equal(t, wire[0], pkt)
			} else {
				requireJoined(t, wire[:count], pkt)
			}
			wire = wire[count:]
		}
		require.Empty(t, wire)
	})
}

func requireJoined(t *testing.T, parts [][]byte, pkt []byte) {
	t.Helper()
	require.True(t, header.IPv6(pkt).IsValid(len(pkt)))
	head := dataHeader(pkt)
	require.Positive(t, head)
	at := head
	for _, part := range parts {
		require.Equal(t, head, dataHeader(part))
		require.Equal(t, sequence(pkt)+uint32(at-head), sequence(part))
		require.Equal(t, part[head:], pkt[at:at+len(part)-head])
		require.Equal(t, part[ipv6SrcOffset:ipv6HeaderLen+tcpSeqOffset], pkt[ipv6SrcOffset:ipv6HeaderLen+tcpSeqOffset])
		at += len(part) - head
	}
	require.Len(t, pkt, at)
}
