package inject

import (
	"context"
	"syscall"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// PowerOff takes the power from a host: first its cable, so that its kernel can say
// goodbye to nobody, then all that runs there. The undo plugs the cable in again, as of a
// host that boots; what ran is gone.
func PowerOff(ctx context.Context, h *netlab.Host) (*Injection, error) {
	return inject(ctx, Truth{Fault: "power off", Whom: h.Name},
		func(ctx context.Context) error {
			if err := unplug(ctx, h); err != nil {
				return err
			}
			return await(ctx, "all to be dead", func() bool {
				pids, err := h.Processes()
				for _, pid := range pids {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
				return err == nil && len(pids) == 0
			})
		},
		func(ctx context.Context) error { return plug(ctx, h) })
}
