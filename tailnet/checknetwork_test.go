package tailnet

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"tailscale.com/net/stun"

	"fairlead.dev/fairlead/tailnet/proto"
)

// stunAt answers as a STUN server does that sees everybody at what see makes of where they are.
// It returns its port; silent ones answer nothing.
func stunAt(t *testing.T, see func(netip.AddrPort) netip.AddrPort) uint32 {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var buf [1500]byte
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf[:])
			if err != nil {
				return
			}
			if id, err := stun.ParseBindingRequest(buf[:n]); err == nil && see != nil {
				_, _ = conn.WriteToUDPAddrPort([]byte("not STUN"), from)
				_, _ = conn.WriteToUDPAddrPort(stun.Response(stun.NewTxID(), from), from) // to nobody's question
				_, _ = conn.WriteToUDPAddrPort(stun.Response(id, see(from)), from)
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return uint32(conn.LocalAddr().(*net.UDPAddr).Port)
}

func seenAt(text string) func(netip.AddrPort) netip.AddrPort {
	return func(netip.AddrPort) netip.AddrPort { return netip.MustParseAddrPort(text) }
}

// TestLookAround: what several STUN servers saw of one socket tells the kind of NAT, and
// what nobody could see stays unknown.
func TestLookAround(t *testing.T) {
	asIs := func(from netip.AddrPort) netip.AddrPort { return from }
	const here = "203.0.113.7:41000"
	for name, tc := range map[string]struct {
		see  []func(netip.AddrPort) netip.AddrPort
		udp  UDP
		nat  NAT
		seen string
	}{
		"no STUN":           {nil, UDPUnknown, NATUnknown, ""},
		"silence":           {[]func(netip.AddrPort) netip.AddrPort{nil}, UDPBlocked, NATUnknown, ""},
		"no NAT":            {[]func(netip.AddrPort) netip.AddrPort{asIs}, UDPWorks, NATNone, ""},
		"one server":        {[]func(netip.AddrPort) netip.AddrPort{seenAt(here)}, UDPWorks, NATUnknown, here},
		"easy":              {[]func(netip.AddrPort) netip.AddrPort{seenAt(here), seenAt(here)}, UDPWorks, NATEasy, here},
		"one of two silent": {[]func(netip.AddrPort) netip.AddrPort{seenAt(here), nil}, UDPWorks, NATUnknown, here},
		"hard":              {[]func(netip.AddrPort) netip.AddrPort{seenAt(here), seenAt("203.0.113.7:41001")}, UDPWorks, NATHard, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			regions := []*proto.DERPRegion{{Id: 1, Code: "plain"}}
			for i, see := range tc.see {
				regions = append(regions, &proto.DERPRegion{Id: int32(i + 2), StunPort: stunAt(t, see)})
			}
			relay := newWSRelay(t)
			report := lookAround(t.Context(), regions, "127.0.0.1", NewRelayDialer(relay.access, nil).withToken(relayTestToken))
			require.Equal(t, []any{tc.udp, tc.nat}, []any{report.UDP, report.NAT})
			if tc.seen != "" {
				require.Equal(t, tc.seen, report.IPv4.String())
			}
			for i, r := range report.Relays {
				require.NoError(t, r.Err)
				require.Positive(t, r.Latency)
				require.Less(t, r.Latency, time.Minute)
				require.Equal(t, i > 0, r.STUN)
				require.Equal(t, i > 0 && tc.see[i-1] != nil, r.UDP > 0)
			}
		})
	}
}

// TestLookAroundWithoutRelay: a relay that is not there is one, with the reason.
func TestLookAroundWithoutRelay(t *testing.T) {
	dialer := NewRelayDialer(parseURL(t, "http://127.0.0.1:1"), nil).withToken("x")
	report := lookAround(t.Context(), []*proto.DERPRegion{{Id: 1}}, "", dialer)
	require.Error(t, report.Relays[0].Err)
	require.Zero(t, report.Relays[0].Latency)
}
