//go:build linux || darwin

package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

func gettime(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return time.Since(started) // a sandbox that forbids it
	}
	return time.Duration(ts.Nano())
}
