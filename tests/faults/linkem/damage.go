package linkem

import (
	"encoding/binary"
	"math/rand/v2"
)

const ethernetHeader = 14

// flipBit makes one bit wrong behind the Ethernet header, and reports whether there was one.
func flipBit(frame []byte, random *rand.Rand) bool {
	if len(frame) <= ethernetHeader {
		return false
	}
	frame[ethernetHeader+random.IntN(len(frame)-ethernetHeader)] ^= 1 << random.IntN(8)
	return true
}

// swapWords exchanges two different 16-bit words in the payload of TCP or UDP over IPv4,
// which leaves the sum, and so the checksum, as it was. It reports whether it could.
func swapWords(frame []byte, random *rand.Rand) bool {
	words := payload(frame)
	words = words[:len(words)&^1]
	if len(words) < 4 {
		return false
	}
	at := func(i int) uint16 { return binary.BigEndian.Uint16(words[i:]) }
	first := random.IntN(len(words)/2) * 2
	for i := range len(words) / 2 {
		other := (first + 2*i) % len(words)
		if a, b := at(first), at(other); a != b {
			binary.BigEndian.PutUint16(words[first:], b)
			binary.BigEndian.PutUint16(words[other:], a)
			return true
		}
	}
	return false
}

// payload returns what TCP or UDP carries in a frame, nil of any other.
func payload(frame []byte) []byte {
	const ipv4, tcp, udp = 0x0800, 6, 17
	if len(frame) < ethernetHeader+20 || binary.BigEndian.Uint16(frame[12:]) != ipv4 {
		return nil
	}
	packet := frame[ethernetHeader:]
	if size := int(binary.BigEndian.Uint16(packet[2:])); size <= len(packet) {
		packet = packet[:size] // without padding
	}
	header := int(packet[0]&15) * 4
	switch protocol := packet[9]; {
	case protocol == tcp && len(packet) >= header+20:
		header += int(packet[header+12]>>4) * 4
	case protocol == udp && len(packet) >= header+8:
		header += 8
	default:
		return nil
	}
	if header > len(packet) {
		return nil
	}
	return packet[header:]
}
