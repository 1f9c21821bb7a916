package inject

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// MountDisk gives a host a disk of its own of so many bytes at an existing directory. Only
// commands on the host see it. Mount it before anything there has files open; it lasts as
// long as the lab.
func MountDisk(ctx context.Context, h *netlab.Host, dir string, bytes int64) error {
	_, err := h.Run(ctx, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", bytes), "disk", dir)
	return err
}

// FillDisk leaves no room on a disk that MountDisk made. The undo gives the room back.
func FillDisk(ctx context.Context, h *netlab.Host, dir string) (*Injection, error) {
	filler := path.Join(dir, ".filler")
	return inject(ctx, Truth{Fault: "disk full", Whom: h.Name, Detail: dir},
		func(ctx context.Context) error {
			kind, err := h.Run(ctx, "stat", "--file-system", "--format=%T", dir)
			if err != nil {
				return err
			}
			if _, err := h.Run(ctx, "mountpoint", "--quiet", dir); err != nil || strings.TrimSpace(kind) != "tmpfs" {
				return errors.New("it is no disk that MountDisk made")
			}
			_, err = h.Run(ctx, "sh", "-c", `cat /dev/zero >"$1"`, "sh", filler)
			if err == nil || !strings.Contains(err.Error(), "No space left on device") {
				return fmt.Errorf("the disk did not fill: %w", err)
			}
			return nil
		},
		func(ctx context.Context) error {
			_, err := h.Run(ctx, "rm", "-f", filler)
			return err
		})
}
