package inject

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// KillSockets ends a host's sockets that match a filter of ss(8), as "state established
// dport = :7080": their owners get ECONNABORTED, their peers a RST.
func KillSockets(ctx context.Context, h *netlab.Host, filter ...string) (*Injection, error) {
	if len(filter) == 0 {
		return nil, errors.New("kill sockets: a filter is needed: all would be too many")
	}
	return inject(ctx, Truth{Fault: "sockets killed", Whom: h.Name, Detail: strings.Join(filter, " ")},
		func(ctx context.Context) error {
			before, err := sockets(ctx, h, filter)
			if err != nil {
				return err
			}
			if before == "" {
				return errors.New("there is no such socket")
			}
			// It complains also when it worked, so look at the sockets instead.
			_, _ = h.Run(ctx, "ss", append([]string{"-K", "-n"}, filter...)...)
			after, err := sockets(ctx, h, filter)
			if err != nil {
				return err
			}
			for line := range strings.Lines(before) {
				if strings.Contains(after, line) {
					return fmt.Errorf("it is still there: %s", strings.TrimSpace(line))
				}
			}
			return nil
		}, nil)
}

func sockets(ctx context.Context, h *netlab.Host, filter []string) (string, error) {
	return h.Run(ctx, "ss", append([]string{"-H", "-n", "-t", "-u"}, filter...)...)
}
