//go:build !windows

package clock

import "time"

// started is the fixed point where the system has none to offer.
var started = time.Now()
