package inject

import (
	"context"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// BreakDNS makes the lab's name server answer that way until it is undone.
func BreakDNS(ctx context.Context, lab *netlab.Lab, how netlab.DNSAnswer) (*Injection, error) {
	return inject(ctx, Truth{Fault: "DNS failure", Whom: "any", Detail: how.String()},
		func(context.Context) error { lab.SetDNS(how); return nil },
		func(context.Context) error { lab.SetDNS(netlab.DNSWorks); return nil })
}
