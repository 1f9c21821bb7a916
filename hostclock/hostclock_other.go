//go:build !linux

package hostclock

import "time"

func now() Reading {
	passed := time.Since(began)
	return Reading{Boot: passed, Awake: passed}
}
