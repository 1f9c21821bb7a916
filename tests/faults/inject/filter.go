package inject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Flow is packets from one host to another, as they pass the router. The zero Flow is all.
type Flow struct {
	From, To *netlab.Host // nil for any
	Protocol string       // "tcp", "udp" or "icmp"; empty for any
	Port     uint16       // of TCP or UDP, at either end; 0 for any
}

// Both are the two directions between two hosts.
func Both(a, b *netlab.Host) []Flow { return []Flow{{From: a, To: b}, {From: b, To: a}} }

// With returns the flows narrowed to one protocol, and to one port if it is not 0.
func With(flows []Flow, protocol string, port uint16) []Flow {
	var narrow []Flow
	for _, f := range flows {
		f.Protocol, f.Port = protocol, port
		narrow = append(narrow, f)
	}
	return narrow
}

func (f Flow) String() string {
	text := "any"
	if f.From != nil {
		text = f.From.Name
	}
	text += "->"
	if f.To != nil {
		text += f.To.Name
	} else {
		text += "any"
	}
	if f.Protocol != "" {
		text += "/" + f.Protocol
	}
	if f.Port != 0 {
		text += fmt.Sprintf(":%d", f.Port)
	}
	return text
}

// matches returns the flow in words of nft, one alternative each. Whatever comes from the
// NAT's network is the client's, by whatever address.
func (f Flow) matches() ([]string, error) {
	var match string
	for _, end := range []struct {
		host            *netlab.Host
		device, address string
	}{{f.From, "iifname", "saddr"}, {f.To, "oifname", "daddr"}} {
		switch h := end.host; {
		case h == nil:
		case h == h.Lab().Client || h == h.Lab().NAT:
			match += end.device + ` "wan" `
		case h.Addr.IsValid():
			match += "ip " + end.address + " " + h.Addr.String() + " "
		default:
			return nil, fmt.Errorf("the %s sends no packets of its own", h.Name)
		}
	}
	switch {
	case f.Port != 0 && f.Protocol != "tcp" && f.Protocol != "udp":
		return nil, errors.New("a port needs tcp or udp")
	case f.Port != 0:
		return []string{fmt.Sprintf("%s%s sport %d ", match, f.Protocol, f.Port), fmt.Sprintf("%s%s dport %d ", match, f.Protocol, f.Port)}, nil
	case f.Protocol != "":
		match += "meta l4proto " + f.Protocol + " "
	}
	return []string{match}, nil
}

var tables atomic.Int64 // how many filters there were, which names the next

// hooks are where packets pass the router.
const (
	through  = "forward"
	toRouter = "forward input" // and questions for names
	all      = "forward input output"
)

// filter applies a statement of nft to flows at the router, until it is undone.
func filter(ctx context.Context, lab *netlab.Lab, fault, hooks, statement string, flows []Flow) (*Injection, error) {
	if len(flows) == 0 {
		flows = []Flow{{}}
	}
	rules := map[string]string{}
	var whom []string
	for _, f := range flows {
		whom = append(whom, f.String())
		matches, err := f.matches()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", fault, err)
		}
		for hook := range strings.FieldsSeq(hooks) {
			if hook == "output" && f.From != nil {
				continue // what the router says is from nobody else
			}
			for _, match := range matches {
				rules[hook] += "\t\t" + match + "counter " + statement + "\n"
			}
		}
	}
	table := fmt.Sprintf("fault%d", tables.Add(1))
	script := "table ip " + table + " {\n"
	for hook, lines := range rules {
		script += "\tchain " + hook + " {\n\t\ttype filter hook " + hook + " priority 0\n" + lines + "\t}\n"
	}
	return inject(ctx, Truth{Fault: fault, Whom: strings.Join(whom, ", ")},
		func(ctx context.Context) error { return lab.Router.NFT(ctx, script+"}\n") },
		func(ctx context.Context) error { return lab.Router.NFT(ctx, "delete table ip "+table) })
}

// Drop loses packets without a word.
func Drop(ctx context.Context, lab *netlab.Lab, flows ...Flow) (*Injection, error) {
	return filter(ctx, lab, "silent drop", all, "drop", flows)
}

// DropSome loses a share of the packets, in percent; whoever needs delay or damage too has Impair.
func DropSome(ctx context.Context, lab *netlab.Lab, percent float64, flows ...Flow) (*Injection, error) {
	return filter(ctx, lab, "some loss", all, fmt.Sprintf("numgen random mod 100000 < %d drop", int(percent*1000)), flows)
}

// BlockUDP loses all UDP between hosts; the router still answers questions for names.
func BlockUDP(ctx context.Context, lab *netlab.Lab, flows ...Flow) (*Injection, error) {
	return filter(ctx, lab, "UDP blocked", through, "drop", With(orAll(flows), "udp", 0))
}

// BlackholeMTU loses packets larger than size bytes, their IP header included, and tells
// nobody.
func BlackholeMTU(ctx context.Context, lab *netlab.Lab, size int, flows ...Flow) (*Injection, error) {
	return filter(ctx, lab, "MTU blackhole", through, fmt.Sprintf("meta length > %d drop", size), flows)
}

// Reset answers every TCP packet of the flows with a RST to its sender, as a middlebox does.
func Reset(ctx context.Context, lab *netlab.Lab, flows ...Flow) (*Injection, error) {
	return filter(ctx, lab, "RST", toRouter, "reject with tcp reset", With(orAll(flows), "tcp", 0))
}

// Unreachable answers every packet of the flows with ICMP. The kind is a word of nft:
// host-unreachable, net-unreachable, port-unreachable, admin-prohibited.
func Unreachable(ctx context.Context, lab *netlab.Lab, kind string, flows ...Flow) (*Injection, error) {
	return filter(ctx, lab, "ICMP "+kind, toRouter, "reject with icmp type "+kind, flows)
}

func orAll(flows []Flow) []Flow {
	if len(flows) == 0 {
		return []Flow{{}}
	}
	return flows
}

// Filtered returns how many packets the faults of the router's filters have hit so far.
func Filtered(ctx context.Context, lab *netlab.Lab) (int64, error) {
	out, err := lab.Router.Run(ctx, "nft", "--json", "list", "ruleset")
	if err != nil {
		return 0, err
	}
	var set struct {
		Nftables []struct {
			Rule *struct {
				Expr []struct {
					Counter *struct{ Packets int64 }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &set); err != nil {
		return 0, fmt.Errorf("read the router's rules: %w", err)
	}
	var hit int64
	for _, item := range set.Nftables {
		if item.Rule != nil {
			for _, e := range item.Rule.Expr {
				if e.Counter != nil {
					hit += e.Counter.Packets
				}
			}
		}
	}
	return hit, nil
}
