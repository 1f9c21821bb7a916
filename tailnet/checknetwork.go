package tailnet

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"

	"fairlead.dev/fairlead/tailnet/proto"
)

const (
	// stunTries times stunWait is how long an answer over UDP is waited for.
	stunTries = 4
	stunWait  = 500 * time.Millisecond
	// relayLook bounds one look at a relay.
	relayLook = 10 * time.Second
)

// UDP is what becomes of UDP packets.
type UDP string

// Fates of UDP packets.
const (
	UDPUnknown UDP = "unknown" // no relay in reach offers STUN, so nobody could answer
	UDPWorks   UDP = "works"
	UDPBlocked UDP = "blocked"
)

// NAT is what a network does to the addresses of UDP packets.
type NAT string

// Kinds of NAT.
const (
	NATUnknown NAT = "unknown" // fewer than two STUN servers have answered
	NATNone    NAT = "none"    // this host's own address is seen
	NATEasy    NAT = "easy"    // the same address for all: direct paths are likely
	NATHard    NAT = "hard"    // another for each: direct only to hosts with easy NAT or none
)

// NetworkReport is what one look at the network around this host found.
type NetworkReport struct {
	UDP UDP
	// IPv4 and IPv6 are the addresses that others see; invalid if none is known.
	IPv4, IPv6 netip.AddrPort
	NAT        NAT
	Relays     []RelayReport // in the order of their regions
}

// RelayReport is what one look at a relay found.
type RelayReport struct {
	Region     int32
	Code, Name string
	// Latency is one round trip over HTTP, the server's work included; 0 with an Err.
	Latency time.Duration
	Err     error
	// UDP is one round trip to its STUN server; 0 if none came back.
	UDP  time.Duration
	STUN bool // it offers STUN
	Home bool // this node has chosen it
}

// CheckNetwork looks at the relays of the map that the node has, which it waits for, and
// at what happens to UDP on the way to them. It takes a few seconds at most where
// nothing answers, and opens connections and a socket of its own: what the node uses is
// not touched.
func (n *Node) CheckNetwork(ctx context.Context, relay *RelayDialer) (NetworkReport, error) {
	select {
	case <-n.haveRelay:
	case <-ctx.Done():
		return NetworkReport{}, fmt.Errorf("wait for the list of relays: %w", context.Cause(ctx))
	}
	n.change.Lock()
	var regions []*proto.DERPRegion
	for _, r := range n.home.regions {
		regions = append(regions, r)
	}
	stunHost := n.home.stunHost
	n.change.Unlock()
	slices.SortFunc(regions, func(a, b *proto.DERPRegion) int { return cmp.Compare(a.GetId(), b.GetId()) })
	report := lookAround(ctx, regions, stunHost, relay)
	for i := range report.Relays {
		report.Relays[i].Home = int(report.Relays[i].Region) == n.self.homeRegion()
	}
	return report, nil
}

func lookAround(ctx context.Context, regions []*proto.DERPRegion, stunHost string, relay *RelayDialer) NetworkReport {
	report := NetworkReport{UDP: UDPUnknown, NAT: NATUnknown, Relays: make([]RelayReport, len(regions))}
	var looks sync.WaitGroup
	for i, region := range regions {
		r := &report.Relays[i]
		r.Region, r.Code = region.GetId(), region.GetCode()
		r.Name = cmp.Or(region.GetName(), r.Code)
		r.STUN = hasSTUN(region)
		looks.Go(func() { r.Latency, r.Err = lookAtRelay(ctx, region, relay) })
	}
	seen := askSTUN(ctx, stunTargets(ctx, regions, stunHost))
	looks.Wait()
	for _, r := range report.Relays {
		if r.STUN && r.Err == nil { // a host that is there, and silent over UDP
			report.UDP = UDPBlocked
		}
	}
	for _, s := range seen {
		report.UDP = UDPWorks
		r := &report.Relays[s.region]
		if r.UDP == 0 || s.rtt < r.UDP {
			r.UDP = s.rtt
		}
		if s.mapped.Addr().Is4() {
			report.IPv4 = s.mapped
		} else {
			report.IPv6 = s.mapped
		}
	}
	report.NAT = natOf(seen)
	return report
}

// lookAtRelay opens a relay connection and measures the one round trip in which the
// relay answered the request.
func lookAtRelay(ctx context.Context, region *proto.DERPRegion, relay *RelayDialer) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, relayLook)
	defer cancel()
	var mu sync.Mutex // guards asked and answered
	var asked, answered time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { mu.Lock(); defer mu.Unlock(); asked = time.Now() },
		GotFirstResponseByte: func() { mu.Lock(); defer mu.Unlock(); answered = time.Now() },
	})
	conn, err := relay.Dial(ctx, region)
	if err != nil {
		return 0, err
	}
	hangUp(conn)
	mu.Lock()
	defer mu.Unlock()
	return max(answered.Sub(asked), time.Microsecond), nil
}

// stunTarget is one address to ask; region is its index.
type stunTarget struct {
	region int
	addr   netip.AddrPort
}

// stunTargets are all STUN servers, by one address of each family.
func stunTargets(ctx context.Context, regions []*proto.DERPRegion, stunHost string) (targets []stunTarget) {
	b := &derpMapBuilder{stunHost: stunHost, resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, nil }}
	for i, region := range regions {
		node := b.stunNode(region)
		if node == nil {
			continue
		}
		lookup := &derpMapBuilder{resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			ctx, cancel := context.WithTimeout(ctx, stunWait)
			defer cancel()
			return resolveHost(ctx, host)
		}}
		v4, v6 := lookup.lookup(node.HostName)
		for _, addr := range []netip.Addr{v4, v6} {
			if addr.IsValid() {
				targets = append(targets, stunTarget{i, netip.AddrPortFrom(addr, uint16(node.STUNPort))})
			}
		}
	}
	return targets
}

// stunSeen is one answer.
type stunSeen struct {
	stunTarget
	mapped netip.AddrPort // where our packet came from, as the server saw it
	local  netip.AddrPort // and where it was sent from: the port counts, the address may be unspecified
	rtt    time.Duration
}

// askSTUN asks all targets, each family from one socket, until all have answered or the
// time is over.
func askSTUN(ctx context.Context, targets []stunTarget) []stunSeen {
	var all []stunSeen
	var mu sync.Mutex // guards all
	var families sync.WaitGroup
	for _, network := range []string{"udp4", "udp6"} {
		var mine []stunTarget
		for _, t := range targets {
			if t.addr.Addr().Is4() == (network == "udp4") {
				mine = append(mine, t)
			}
		}
		if len(mine) == 0 {
			continue
		}
		families.Go(func() {
			seen := askFamily(ctx, network, mine)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, seen...)
		})
	}
	families.Wait()
	return all
}

func askFamily(ctx context.Context, network string, targets []stunTarget) (seen []stunSeen) {
	conn, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil // this family is not there
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	type question struct {
		target stunTarget
		sent   time.Time
	}
	open := make(map[stun.TxID]question)
	answered := make(map[stunTarget]bool)
	buf := make([]byte, 1500)
	for range stunTries {
		for _, t := range targets {
			if !answered[t] {
				id := stun.NewTxID()
				open[id] = question{t, time.Now()}
				_, _ = conn.WriteToUDPAddrPort(stun.Request(id), t.addr) // what is not sent is not answered
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(stunWait))
		for len(answered) < len(targets) {
			n, _, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				break // the time is over, or the socket is of no use
			}
			id, mapped, err := stun.ParseResponse(buf[:n])
			if q, ok := open[id]; err == nil && ok && !answered[q.target] {
				answered[q.target] = true
				seen = append(seen, stunSeen{q.target, netip.AddrPortFrom(mapped.Addr().Unmap(), mapped.Port()), local, time.Since(q.sent)})
			}
		}
		if len(answered) == len(targets) || ctx.Err() != nil {
			break
		}
	}
	return seen
}

// natOf says what the network does to IPv4, or else to IPv6: by what several servers saw
// of one socket.
func natOf(seen []stunSeen) NAT {
	regular, loopback, err := netmon.LocalAddresses()
	if err != nil {
		regular = nil
	}
	for _, v4 := range []bool{true, false} {
		var mapped, asked []netip.AddrPort
		for _, s := range seen {
			if s.mapped.Addr().Is4() != v4 {
				continue
			}
			if s.mapped.Port() == s.local.Port() && (slices.Contains(regular, s.mapped.Addr()) || slices.Contains(loopback, s.mapped.Addr())) {
				return NATNone
			}
			if !slices.Contains(asked, s.addr) {
				asked, mapped = append(asked, s.addr), append(mapped, s.mapped)
			}
		}
		switch {
		case len(asked) >= 2 && len(slices.Compact(mapped)) > 1:
			return NATHard
		case len(asked) >= 2:
			return NATEasy
		}
	}
	return NATUnknown
}
