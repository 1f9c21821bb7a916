package tailnet

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tailcfg"

	"fairlead.dev/fairlead/tailnet/proto"
)

// stunLookupTimeout bounds the look-up of a STUN server's name. The name is mostly
// that of the server we have just reached, so the resolver knows it.
const stunLookupTimeout = 300 * time.Millisecond

// derpMapBuilder makes the engine's map of relays. In every region the only relay is
// the loopback shim, and beside it stands a node for the real STUN server.
type derpMapBuilder struct {
	port     func(*proto.DERPRegion) (int, error) // the shim's port for a region
	resolve  func(ctx context.Context, host string) ([]netip.Addr, error)
	cert     string // pins the shim's certificate, for the engine's latency probes
	loopSTUN uint16 // port of the loopback STUN responder
	stunHost string // for regions that name none
}

// build returns the map, and the lowest region id in it (0: none). Regions whose shim
// does not open are left out and reported to skipped.
func (b *derpMapBuilder) build(m *proto.DERPMap, skipped func(id int32, err error)) (dm *tailcfg.DERPMap, first int) {
	dm = &tailcfg.DERPMap{OmitDefaultRegions: true, Regions: make(map[int]*tailcfg.DERPRegion)}
	for _, r := range m.GetRegions() {
		id := int(r.GetId())
		if id <= 0 || id > maxRegion {
			continue
		}
		port, err := b.port(r)
		if err != nil {
			skipped(r.GetId(), err)
			continue
		}
		dm.Regions[id] = b.region(r, port)
		if first == 0 || id < first {
			first = id
		}
	}
	if !anySTUN(m) {
		// Nothing measures anything real then: stay where we begin.
		dm.HomeParams = &tailcfg.DERPHomeParams{RegionScore: map[int]float64{first: 1e-3}}
	}
	return dm, first
}

func (b *derpMapBuilder) region(r *proto.DERPRegion, shimPort int) *tailcfg.DERPRegion {
	id := int(r.GetId())
	name := strconv.Itoa(id)
	region := &tailcfg.DERPRegion{
		RegionID:   id,
		RegionCode: cmp.Or(r.GetCode(), name),
		RegionName: cmp.Or(r.GetName(), r.GetCode(), name),
	}
	// The STUN server comes first: the engine asks the nodes in turn, 100 ms apart.
	if stun := b.stunNode(r); stun != nil {
		region.Nodes = append(region.Nodes, stun)
	}
	region.Nodes = append(region.Nodes, &tailcfg.DERPNode{
		Name:     name + "-relay",
		RegionID: id,
		HostName: "127.0.0.1",
		IPv4:     "127.0.0.1",
		IPv6:     "none",
		CertName: b.cert,
		DERPPort: shimPort,
		STUNPort: int(b.loopSTUN), // see loopstun.go
	})
	return region
}

func (b *derpMapBuilder) stunNode(r *proto.DERPRegion) *tailcfg.DERPNode {
	if !hasSTUN(r) {
		return nil
	}
	node := &tailcfg.DERPNode{
		Name:     strconv.Itoa(int(r.GetId())) + "-stun",
		RegionID: int(r.GetId()),
		HostName: cmp.Or(r.GetStunHost(), b.stunHost),
		STUNPort: int(r.GetStunPort()),
		STUNOnly: true,
	}
	if node.HostName == "" {
		return nil
	}
	v4, v6 := b.lookup(node.HostName)
	if !v4.IsValid() && !v6.IsValid() {
		return node // the engine asks the resolver itself, later
	}
	// A family without an address must be excluded: the engine would wait 3 s for it
	// at every check.
	node.IPv4, node.IPv6 = "none", "none"
	if v4.IsValid() {
		node.IPv4 = v4.String()
	}
	if v6.IsValid() {
		node.IPv6 = v6.String()
	}
	return node
}

func hasSTUN(r *proto.DERPRegion) bool {
	return r.GetStunPort() > 0 && r.GetStunPort() <= 1<<16-1
}

// anySTUN reports whether a region of m has a STUN server.
func anySTUN(m *proto.DERPMap) bool { return slices.ContainsFunc(m.GetRegions(), hasSTUN) }

// lookup returns the lowest address of each family, so that the same answer in
// another order makes the same map: a region that changes loses its connection.
func (b *derpMapBuilder) lookup(host string) (v4, v6 netip.Addr) {
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, ip)
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), stunLookupTimeout)
		defer cancel()
		addrs, _ = b.resolve(ctx, host)
	}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		switch {
		case a.Is4() && (!v4.IsValid() || a.Less(v4)):
			v4 = a
		case a.Is6() && (!v6.IsValid() || a.Less(v6)):
			v6 = a
		}
	}
	return v4, v6
}

// resolveHost asks the system's resolver.
func resolveHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
