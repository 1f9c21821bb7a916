//go:build !linux && !darwin && !windows

package clock

import "time"

func boot() time.Duration { return time.Since(started) }
