package hostclock

import (
	"time"

	"golang.org/x/sys/unix"
)

func now() Reading {
	boot, awake := clock(unix.CLOCK_BOOTTIME), clock(unix.CLOCK_MONOTONIC)
	// Awake is read later: never let it look as if the machine had slept less than not.
	return Reading{Boot: max(boot, awake), Awake: awake}
}

func clock(id int32) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(id, &ts) != nil { // every kernel that runs Go has both
		return time.Since(began)
	}
	return time.Duration(ts.Nano())
}
