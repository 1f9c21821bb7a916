package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// boot: on macOS this clock goes on while the machine sleeps.
func boot() time.Duration { return gettime(unix.CLOCK_MONOTONIC) }
