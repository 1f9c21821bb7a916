package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

func boot() time.Duration { return gettime(unix.CLOCK_BOOTTIME) }
