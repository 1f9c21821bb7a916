package relay

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"tailscale.com/net/stun"
)

func TestSTUNTellsTheSourceAddress(t *testing.T) {
	s, err := ListenSTUN("127.0.0.1:0", nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()

	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.Addr()))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))

	// What is no binding request gets no answer, and harms nothing.
	for _, junk := range []string{"", "x", "GET / HTTP/1.1\r\n\r\n", string(make([]byte, 1400))} {
		_, err = c.Write([]byte(junk))
		require.NoError(t, err)
	}
	id := stun.NewTxID()
	_, err = c.Write(stun.Request(id))
	require.NoError(t, err)

	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	require.NoError(t, err)
	got, addr, err := stun.ParseResponse(buf[:n])
	require.NoError(t, err)
	require.Equal(t, id, got)
	require.Equal(t, netip.MustParseAddrPort(c.LocalAddr().String()), addr)
}

func TestSTUNPortInUse(t *testing.T) {
	s, err := ListenSTUN("127.0.0.1:0", nil)
	require.NoError(t, err)
	_, err = ListenSTUN(s.Addr().String(), nil)
	require.Error(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())

	again, err := ListenSTUN(s.Addr().String(), nil)
	require.NoError(t, err, "the port must be free again")
	require.NoError(t, again.Close())
}
