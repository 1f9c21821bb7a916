package inject

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// LimitFiles lets a running process have no more than so many open files; those that it
// has stay open. The undo gives the old limit back.
func LimitFiles(ctx context.Context, who string, pid int, files uint64) (*Injection, error) {
	var before unix.Rlimit
	return inject(ctx, Truth{Fault: "file limit", Whom: fmt.Sprintf("%s (%d)", who, pid), Detail: fmt.Sprint(files)},
		func(context.Context) error {
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
				return err
			}
			return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: before.Max}, nil)
		},
		func(context.Context) error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil) })
}
