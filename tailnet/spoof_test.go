package tailnet

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestAddressOfAnotherIsDropped: a peer that puts another peer's address into its
// packets is not heard. A port without a listener is used: the stack answers each packet
// that arrives with a reset, and counts those.
func TestAddressOfAnotherIsDropped(t *testing.T) {
	agent := newTestNode(t, Options{AllowInbound: []uint16{testPort}})
	victim, thief := newTestNode(t, Options{}), newTestNode(t, Options{})
	introduce(t, agent, victim)
	introduce(t, agent, thief)
	send := func(src netip.Addr) {
		pkt := tcpPacket(src, agent.Key().Address(), testPort, tcpFlagSYN)
		require.Nil(t, thief.stack.stack.WriteRawPacket(nicID, header.IPv6ProtocolNumber, buffer.MakeWithData(pkt)))
	}
	arrived := func() uint64 { return agent.stack.stack.Stats().TCP.ResetsSent.Value() }
	await := func(n uint64) {
		t.Helper()
		require.Eventually(t, func() bool { return arrived() >= n }, 20*time.Second, time.Millisecond)
	}
	before := arrived()
	send(thief.Key().Address())
	await(before + 1)
	for range 10 {
		send(victim.Key().Address())
		send(agent.Key().Address())
		send(netip.IPv6Loopback())
	}
	send(thief.Key().Address()) // packets of one peer keep their order
	await(before + 2)
	require.Equal(t, before+2, arrived())
}
