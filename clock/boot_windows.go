package clock

import (
	"time"

	"golang.org/x/sys/windows"
)

func boot() time.Duration { return windows.DurationSinceBoot() }
