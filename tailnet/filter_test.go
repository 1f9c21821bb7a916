package tailnet

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/filter"
)

// A secret service listens on the host's loopback. A peer must not reach it through
// the agent's tailnet address, whether or not the port is one that peers may open.
func TestHostLoopbackIsOutOfReach(t *testing.T) {
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	reached := make(chan struct{})
	go func() {
		if c, err := secret.Accept(); err == nil {
			_ = c.Close()
			close(reached)
		}
	}()
	defer func() { require.NoError(t, secret.Close()) }()
	port := uint16(secret.Addr().(*net.TCPAddr).Port)

	for _, allowed := range [][]uint16{{testPort}, {testPort, port}} {
		agent := newTestNode(t, Options{AllowInbound: allowed})
		client := newTestNode(t, Options{})
		introduce(t, agent, client)
		atAgent, atClient := connect(t, agent, client) // the path works
		exchange(t, atClient, atAgent)

		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := client.DialTCP(ctx, agent.Key(), port)
		cancel()
		require.Error(t, err)
		select {
		case <-reached:
			require.Fail(t, "a peer reached the host's loopback on port "+strconv.Itoa(int(port)))
		default:
		}
	}
}

// An agent cannot open a flow to a client, nor to a port of another agent that is
// not allowed; nothing answers.
func TestInboundIsClosedByDefault(t *testing.T) {
	agent, client := newPair(t)
	atAgent, atClient := connect(t, agent, client)
	exchange(t, atClient, atAgent)
	_, err := client.Listen(testPort)
	require.ErrorContains(t, err, "not one that peers may open")
	// As if a listener had been opened all the same.
	l, err := client.stack.listen(testPort, client.PeerByAddr)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	for _, dial := range []struct {
		from, to *Node
		port     uint16
	}{{agent, client, testPort}, {agent, client, 1}, {client, agent, testPort + 1}} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := dial.from.DialTCP(ctx, dial.to.Key(), dial.port)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	exchange(t, atClient, atAgent)
}

// tcpPacket is a bare IPv6 packet with a TCP header.
func tcpPacket(src, dst netip.Addr, port uint16, flags byte) []byte {
	pkt := make([]byte, ipv6HeaderLen+tcpHeaderLen)
	pkt[0], pkt[5], pkt[6], pkt[7] = 6<<4, tcpHeaderLen, nextHeaderTCP, 64
	s, d := src.As16(), dst.As16()
	copy(pkt[8:], s[:])
	copy(pkt[24:], d[:])
	pkt[ipv6HeaderLen+2], pkt[ipv6HeaderLen+3] = byte(port>>8), byte(port)
	pkt[ipv6HeaderLen+12], pkt[ipv6HeaderLen+tcpFlagsOffset] = 5<<4, flags
	return pkt
}

func TestGate(t *testing.T) {
	self, peer := NewPrivateKey().Public().Address(), NewPrivateKey().Public().Address()
	g := newGate(self, []uint16{22})
	edit := func(pkt []byte, f func([]byte)) []byte { f(pkt); return pkt }
	const syn, ack, rst = tcpFlagSYN, tcpFlagACK, 0x04
	for name, row := range map[string]struct {
		pkt  []byte
		want bool
	}{
		"new flow, allowed port":    {tcpPacket(peer, self, 22, syn), true},
		"new flow, other port":      {tcpPacket(peer, self, 23, syn), false},
		"new flow with odd flags":   {tcpPacket(peer, self, 23, syn|0xc8), false},
		"answer to our own flow":    {tcpPacket(peer, self, 40000, syn|ack), true},
		"segment of a flow":         {tcpPacket(peer, self, 40000, ack), true},
		"reset":                     {tcpPacket(peer, self, 40000, rst), true},
		"source outside":            {tcpPacket(netip.MustParseAddr("fd00::1"), self, 22, syn), false},
		"source loopback":           {tcpPacket(netip.IPv6Loopback(), self, 22, syn), false},
		"other destination":         {tcpPacket(peer, peer, 22, syn), false},
		"loopback destination":      {tcpPacket(peer, netip.IPv6Loopback(), 22, syn), false},
		"udp":                       {edit(tcpPacket(peer, self, 22, syn), func(p []byte) { p[6] = 17 }), false},
		"fragment":                  {edit(tcpPacket(peer, self, 22, syn), func(p []byte) { p[6] = 44 }), false},
		"hop-by-hop options":        {edit(tcpPacket(peer, self, 22, syn), func(p []byte) { p[6] = 0 }), false},
		"icmp packet too big":       {edit(tcpPacket(peer, self, 0, 0), func(p []byte) { p[6], p[40] = nextHeaderICMPv6, 2 }), true},
		"icmp echo":                 {edit(tcpPacket(peer, self, 0, 0), func(p []byte) { p[6], p[40] = nextHeaderICMPv6, 128 }), false},
		"icmp router advertisement": {edit(tcpPacket(peer, self, 0, 0), func(p []byte) { p[6], p[40] = nextHeaderICMPv6, 134 }), false},
		"ipv4":                      {edit(tcpPacket(peer, self, 22, syn), func(p []byte) { p[0] = 4 << 4 }), false},
		"short header":              {tcpPacket(peer, self, 22, syn)[:39], false},
		"short tcp header":          {tcpPacket(peer, self, 22, ack)[:59], false},
		"empty":                     {nil, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, row.want, g.admits(row.pkt)) })
	}
}

func TestEngineFilter(t *testing.T) {
	self, peer := NewPrivateKey().Public().Address(), NewPrivateKey().Public().Address()
	f, err := newFilter(self, []uint16{22, 4}, logger.Discard)
	require.NoError(t, err)
	require.Equal(t, filter.Accept, f.CheckTCP(peer, self, 22))
	require.Equal(t, filter.Accept, f.CheckTCP(peer, self, 4))
	require.True(t, f.CheckTCP(peer, self, 23).IsDrop())
	require.True(t, f.CheckTCP(netip.MustParseAddr("fd00::1"), self, 22).IsDrop())
	require.True(t, f.CheckTCP(peer, netip.IPv6Loopback(), 22).IsDrop())
	require.True(t, f.Check(peer, self, 22, ipproto.UDP).IsDrop())
	f, err = newFilter(self, nil, logger.Discard)
	require.NoError(t, err)
	require.True(t, f.CheckTCP(peer, self, 22).IsDrop())
}
