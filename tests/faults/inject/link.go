package inject

import (
	"context"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// LinkDown sets a host's own interface down: sends fail at once, the default route is lost.
// The undo gives address and routes back, as a DHCP client would.
func LinkDown(ctx context.Context, h *netlab.Host) (*Injection, error) {
	return inject(ctx, Truth{Fault: "link down", Whom: h.Name},
		func(ctx context.Context) error { return h.IP(ctx, "link set "+h.Device()+" down") },
		h.AddressUp)
}

// CableOut takes the carrier away: the interface stays up, routes stay, and sends are lost
// without an error.
func CableOut(ctx context.Context, h *netlab.Host) (*Injection, error) {
	p := h.Port()
	return inject(ctx, Truth{Fault: "cable out", Whom: h.Name},
		func(ctx context.Context) error { return p.Of.IP(ctx, "link set "+p.Device+" down") },
		func(ctx context.Context) error { return p.Of.IP(ctx, "link set "+p.Device+" up") })
}

// Unplug takes a host out of the network behind its switch: it notices nothing but silence.
func Unplug(ctx context.Context, h *netlab.Host) (*Injection, error) {
	return inject(ctx, Truth{Fault: "unplugged behind the switch", Whom: h.Name},
		func(ctx context.Context) error { return unplug(ctx, h) },
		func(ctx context.Context) error { return plug(ctx, h) })
}

func unplug(ctx context.Context, h *netlab.Host) error {
	p := h.Port()
	return p.Of.IP(ctx, "link set "+p.Device+" nomaster")
}

func plug(ctx context.Context, h *netlab.Host) error {
	p := h.Port()
	return p.Of.IP(ctx, "link set "+p.Device+" master "+p.Bridge)
}
