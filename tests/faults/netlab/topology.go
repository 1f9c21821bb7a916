package netlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
)

var (
	clientAddr = netip.MustParseAddr("10.77.1.2")
	natAddr    = netip.MustParseAddr("10.77.9.2")
	routerAddr = netip.MustParseAddr("10.77.9.1")
	agentAddr  = netip.MustParseAddr("10.77.2.2")
	serverAddr = netip.MustParseAddr("10.77.2.3")
	relayAddr  = netip.MustParseAddr("10.77.2.4")
)

// Renumbered is the address in the NAT's outer network that nobody has.
var Renumbered = netip.MustParseAddr("10.77.9.3")

// Port is the far end of a host's cable: a device of that name in a bridge.
type Port struct {
	Of     *Host // the switch, or the NAT for the client
	Device string
	Bridge string
}

// Port returns where the cable of the client, agent, server, relay or router ends.
func (h *Host) Port() Port {
	if h == h.lab.Client {
		return Port{h.lab.NAT, "client", "lan"}
	}
	return Port{h.lab.Switch, h.Name, "switch"}
}

// Device is the interface at the host's own end of that cable.
func (h *Host) Device() string {
	if h == h.lab.Router {
		return "site"
	}
	return "eth0"
}

// Lab returns the lab that the host is part of.
func (h *Host) Lab() *Lab { return h.lab }

// wire draws the cables and gives the addresses. All but the forwarding hosts' rules is
// one batch of ip(8) each.
func (l *Lab) wire(ctx context.Context) error {
	for _, h := range l.Hosts() {
		// Bridged packets are no business of the NAT's rules, which some kernels have them pass.
		for _, sysctl := range [][2]string{{"net/ipv6/conf/all/disable_ipv6", "1"}, {"net/bridge/bridge-nf-call-iptables", "0"}} {
			if err := h.Sysctl(sysctl[0], sysctl[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := h.IP(ctx, "link set lo up"); err != nil {
			return err
		}
	}
	if err := l.wireBridges(ctx); err != nil {
		return err
	}
	for _, h := range []*Host{l.Client, l.Agent, l.Server, l.Relay} {
		if err := h.AddressUp(ctx); err != nil {
			return err
		}
	}
	if err := l.wireRouter(ctx); err != nil {
		return err
	}
	return l.wireNAT(ctx)
}

// wireBridges makes every cable that ends in a bridge.
func (l *Lab) wireBridges(ctx context.Context) error {
	if err := l.Switch.IP(ctx, "link add switch type bridge", "link set switch up"); err != nil {
		return err
	}
	// An address of its own, or it would take another one whenever its ports change.
	if err := l.NAT.IP(ctx, "link add lan address 02:00:00:77:01:01 type bridge", "link set lan up"); err != nil {
		return err
	}
	for _, h := range []*Host{l.Client, l.Agent, l.Server, l.Relay, l.Router} {
		p := h.Port()
		if err := h.IP(ctx, fmt.Sprintf("link add %s type veth peer name %s netns %s", h.Device(), p.Device, p.Of.NS)); err != nil {
			return err
		}
		// One segment at a time, as on a cable: what passes has its real size and number.
		if err := h.IP(ctx, "link set "+h.Device()+" gso_max_segs 1"); err != nil {
			return err
		}
		if err := p.Of.IP(ctx, "link set "+p.Device+" master "+p.Bridge+" gso_max_segs 1 up"); err != nil {
			return err
		}
	}
	return nil
}

// AddressUp sets a host's interface up with its address and routes, as its DHCP client
// would; it may be called again, after the interface was down.
func (h *Host) AddressUp(ctx context.Context) error {
	size, gateway := "/32", "10.77.2.1"
	if h == h.lab.Client {
		size, gateway = "/24", "10.77.1.1"
	}
	return h.IP(ctx,
		"link set eth0 up",
		"addr replace "+h.Addr.String()+size+" dev eth0",
		"route replace "+gateway+" dev eth0",
		"route replace default via "+gateway+" dev eth0")
}

// wireRouter sends what comes from one site host for another back to the switch, without
// telling them that they could talk to each other.
func (l *Lab) wireRouter(ctx context.Context) error {
	err := l.Router.IP(ctx,
		"addr add 10.77.2.1/24 dev site", "link set site up",
		"link add wan type veth peer name wan netns "+l.NAT.NS, "link set wan gso_max_segs 1",
		"addr add "+routerAddr.String()+"/24 dev wan", "link set wan up",
		"route add blackhole 10.77.1.0/24") // as in the internet, where it would be lost
	if err != nil {
		return err
	}
	return l.Router.Sysctls("net/ipv4/conf/all/send_redirects", "0", "net/ipv4/conf/site/send_redirects", "0", "net/ipv4/ip_forward", "1")
}

func (l *Lab) wireNAT(ctx context.Context) error {
	err := l.NAT.IP(ctx,
		"addr add 10.77.1.1/24 dev lan",
		"addr add "+natAddr.String()+"/24 dev wan", "link set wan gso_max_segs 1 up",
		"route add default via "+routerAddr.String())
	if err != nil {
		return err
	}
	if err := l.NAT.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	return l.NAT.NFT(ctx, `table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "wan" masquerade
	}
}
table ip filter {
	chain input { # what nobody inside asked for is lost, and leaves no state behind
		type filter hook input priority filter
		iifname "wan" ct state new,invalid drop
	}
}`)
}

// IP gives ip(8) a batch of commands in the host's network namespace.
func (h *Host) IP(ctx context.Context, commands ...string) error {
	var batch string
	for _, c := range commands {
		batch += c + "\n"
	}
	if err := run(ctx, batch, "ip", "-netns", h.NS, "-batch", "-"); err != nil {
		return fmt.Errorf("on %s: %q: %w", h.Name, commands, err)
	}
	return nil
}

// NFT gives nft(8) a script in the host's network namespace. It is one transaction.
func (h *Host) NFT(ctx context.Context, script string) error {
	_, err := h.RunWith(ctx, script, "nft", "-f", "-")
	return err
}

// Sysctl sets what /proc/sys shows of the host's network, by its path there.
func (h *Host) Sysctl(path, value string) error {
	return h.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) })
}

// Sysctls sets several, given as path and value in turn.
func (h *Host) Sysctls(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := h.Sysctl(pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}
