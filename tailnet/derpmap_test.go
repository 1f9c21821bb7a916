package tailnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"tailscale.com/net/stun"

	"fairlead.dev/fairlead/tailnet/proto"
)

func TestDERPMap(t *testing.T) {
	b := &derpMapBuilder{
		port: func(r *proto.DERPRegion) (int, error) {
			if r.GetId() == 4 {
				return 0, errors.New("no port")
			}
			return 1000 + int(r.GetId()), nil
		},
		resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "stun.example" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.1")}, nil
		},
		cert: "pin", loopSTUN: 99, stunHost: "192.0.2.7",
	}
	var skipped []int32
	dm, first := b.build(&proto.DERPMap{Regions: []*proto.DERPRegion{
		{Id: 3, Code: "c", Name: "third", StunPort: 3478, StunHost: "stun.example"},
		{Id: 2, StunPort: 3479},
		{Id: 4}, {Id: 0}, {Id: -1}, {Id: 70000},
		{Id: 5, StunPort: 3478, StunHost: "unknown.example"},
		{Id: 6, StunPort: 3478, StunHost: "2001:db8::1"},
	}}, func(id int32, _ error) { skipped = append(skipped, id) })
	require.Equal(t, 2, first)
	require.Equal(t, []int32{4}, skipped)
	require.Len(t, dm.Regions, 4)
	require.Nil(t, dm.HomeParams)

	third := dm.Regions[3]
	require.Equal(t, "c", third.RegionCode)
	require.True(t, third.Nodes[0].STUNOnly)
	require.Equal(t, "192.0.2.1", third.Nodes[0].IPv4, "the lowest, whatever the order of the answer")
	require.Equal(t, "none", third.Nodes[0].IPv6, "else each check waits 3 s for it")
	relay := third.Nodes[1]
	require.Equal(t, "127.0.0.1", relay.HostName)
	require.Equal(t, 1003, relay.DERPPort)
	require.Equal(t, 99, relay.STUNPort)
	require.Equal(t, "pin", relay.CertName)

	require.Equal(t, "192.0.2.7", dm.Regions[2].Nodes[0].IPv4)
	require.Equal(t, 3479, dm.Regions[2].Nodes[0].STUNPort)
	require.Equal(t, "2", dm.Regions[2].RegionCode)
	require.Equal(t, "unknown.example", dm.Regions[5].Nodes[0].HostName)
	require.Empty(t, dm.Regions[5].Nodes[0].IPv4, "the engine looks it up itself")
	require.Equal(t, "none", dm.Regions[6].Nodes[0].IPv4)

	dm, first = b.build(&proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 8}, {Id: 9}}}, nil)
	require.Equal(t, 8, first)
	require.Less(t, dm.HomeParams.RegionScore[8], 1.0, "nothing is measured: stay at the first")
	require.Len(t, dm.Regions[8].Nodes, 1)
	_, first = b.build(nil, nil)
	require.Zero(t, first)
}

func TestLoopSTUN(t *testing.T) {
	s, err := newLoopSTUN()
	require.NoError(t, err)
	defer s.close()
	c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port()).String())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	id := stun.NewTxID()
	ask := func() (int, []byte) {
		_, err := c.Write(stun.Request(id))
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		buf := make([]byte, 1500)
		n, err := c.Read(buf)
		if err != nil {
			return 0, nil
		}
		return n, buf[:n]
	}
	n, _ := ask()
	require.Zero(t, n, "silent unless it is the only one")
	want := netip.MustParseAddrPort("192.0.2.1:77")
	s.set(&want)
	n, answer := ask()
	require.NotZero(t, n)
	gotID, got, err := stun.ParseResponse(answer)
	require.NoError(t, err)
	require.Equal(t, id, gotID)
	require.Equal(t, want, got)
}
