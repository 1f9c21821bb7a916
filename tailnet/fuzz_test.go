package tailnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tailnet/proto"
)

func FuzzPrivateKeyText(f *testing.F) {
	text, err := NewPrivateKey().MarshalText()
	require.NoError(f, err)
	f.Add(string(text))
	f.Add(" " + string(text) + "\n")
	f.Add(privateKeyPrefix)
	f.Add(privateKeyPrefix + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, s string) {
		var k PrivateKey
		if err := k.UnmarshalText([]byte(s)); err != nil {
			require.True(t, k.IsZero(), "a failure changes nothing")
			return
		}
		text, err := k.MarshalText()
		require.NoError(t, err)
		var again PrivateKey
		require.NoError(t, again.UnmarshalText(text))
		require.True(t, k == again)
	})
}

// FuzzGate: of whatever a peer sends, nothing but TCP and ICMPv6 errors for us gets
// to the stack, and a new flow only to an allowed port.
func FuzzGate(f *testing.F) {
	self, peer := NewPrivateKey().Public().Address(), NewPrivateKey().Public().Address()
	for _, port := range []uint16{22, 23} {
		for _, flags := range []byte{tcpFlagSYN, tcpFlagACK, tcpFlagSYN | tcpFlagACK} {
			f.Add(tcpPacket(peer, self, port, flags)[:8], tcpPacket(peer, self, port, flags)[40:])
		}
	}
	g := newGate(self, []uint16{22})
	f.Fuzz(func(t *testing.T, head, payload []byte) {
		g.admits(head) // alone it is any packet
		pkt := tcpPacket(peer, self, 22, 0)[:40]
		copy(pkt[:8], head)
		pkt = append(pkt, payload...)
		if !g.admits(pkt) {
			return
		}
		require.EqualValues(t, 6, pkt[0]>>4)
		switch pkt[6] {
		case nextHeaderTCP:
			if payload[tcpFlagsOffset]&(tcpFlagSYN|tcpFlagACK) == tcpFlagSYN {
				require.Equal(t, []byte{0, 22}, payload[2:4])
			}
		case nextHeaderICMPv6:
			require.Less(t, payload[0], byte(icmpv6FirstNotErr))
		default:
			t.Fatalf("protocol %d was let in", pkt[6])
		}
		for _, src := range []string{"::1", "fd00::1", "fe80::1"} {
			from := netip.MustParseAddr(src).As16()
			copy(pkt[8:], from[:])
			require.False(t, g.admits(pkt), "from %s", src)
		}
	})
}

func FuzzEndpoints(f *testing.F) {
	f.Add("192.0.2.1:9\n[2001:db8::1]:9\n[::ffff:192.0.2.1]:9\n[::ffff:0.0.0.0]:9\nlocalhost:22\n224.0.0.1:9\n[fd66:6169:726c::1]:1")
	f.Fuzz(func(t *testing.T, lines string) {
		eps := parseEndpoints(strings.Split(lines, "\n"))
		require.LessOrEqual(t, len(eps), proto.MaxEndpoints)
		for _, ep := range eps {
			require.True(t, ep.IsValid() && ep.Port() != 0)
			require.False(t, ep.Addr().IsMulticast() || ep.Addr().IsUnspecified() || proto.Prefix.Contains(ep.Addr()), "%s", ep)
		}
	})
}
