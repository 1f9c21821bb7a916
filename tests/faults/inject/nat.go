package inject

import (
	"context"
	"fmt"
	"sync/atomic"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

var rebinds atomic.Int64 // each has ports of its own

// Rebind makes the NAT forget its flows and use other outer ports from then on: UDP goes
// on from another port, TCP does not go on. The undo lets it choose freely for new flows.
func Rebind(ctx context.Context, lab *netlab.Lab) (*Injection, error) {
	// Above those that Linux gives to sockets: a port that lies in the range already is kept.
	first := 61000 + rebinds.Add(1)%20*200
	return inject(ctx, Truth{Fault: "NAT rebinding", Whom: lab.Client.Name, Detail: fmt.Sprintf("outer ports from %d", first)},
		func(ctx context.Context) error {
			return translate(ctx, lab, fmt.Sprintf("meta l4proto { tcp, udp } oifname \"wan\" masquerade to :%d-%d", first, first+199))
		},
		func(ctx context.Context) error { return setRules(ctx, lab, "") })
}

// Renumber gives the NAT another outer address, as a provider does at night.
func Renumber(ctx context.Context, lab *netlab.Lab) (*Injection, error) {
	move := func(from, to string) func(context.Context) error {
		return func(ctx context.Context) error {
			err := lab.NAT.IP(ctx, "addr del "+from+"/24 dev wan", "addr add "+to+"/24 dev wan",
				"route replace default via "+lab.Router.Addr.String())
			if err != nil {
				return err
			}
			return forget(ctx, lab)
		}
	}
	before, after := lab.NAT.Addr.String(), netlab.Renumbered.String()
	return inject(ctx, Truth{Fault: "NAT renumbering", Whom: lab.Client.Name, Detail: before + " to " + after},
		move(before, after), move(after, before))
}

// ForgetFlows makes the NAT lose its flows and not take them up again in their middle: what
// comes for them from outside is lost, and TCP from inside too. The undo lets it pick up TCP.
func ForgetFlows(ctx context.Context, lab *netlab.Lab) (*Injection, error) {
	const loose = "net/netfilter/nf_conntrack_tcp_loose"
	return inject(ctx, Truth{Fault: "conntrack loss", Whom: lab.NAT.Name},
		func(ctx context.Context) error {
			if err := lab.NAT.Sysctl(loose, "0"); err != nil {
				return err
			}
			if err := lab.NAT.NFT(ctx, "table ip strict { chain forward { type filter hook forward priority 0; ct state invalid drop; }; }"); err != nil {
				return err
			}
			return forget(ctx, lab)
		},
		func(ctx context.Context) error {
			if err := lab.NAT.Sysctl(loose, "1"); err != nil {
				return err
			}
			return lab.NAT.NFT(ctx, "delete table ip strict")
		})
}

// translate sets a rule before the NAT's own, and makes it forget its flows.
func translate(ctx context.Context, lab *netlab.Lab, rule string) error {
	if err := setRules(ctx, lab, rule+"\n"); err != nil {
		return err
	}
	return forget(ctx, lab)
}

func setRules(ctx context.Context, lab *netlab.Lab, first string) error {
	return lab.NAT.NFT(ctx, `flush chain ip nat postrouting
table ip nat {
	chain postrouting {
		`+first+`oifname "wan" masquerade
	}
}`)
}

func forget(ctx context.Context, lab *netlab.Lab) error {
	_, err := lab.NAT.Run(ctx, "conntrack", "--flush")
	return err
}
