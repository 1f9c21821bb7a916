// Package clock is where the program reads the time when a lie about it must be possible
// in the fault lab: the boot clock, which goes on while the machine sleeps, and the wall
// clock. Durations within one run come from time.Now and timers as everywhere; their
// clock stands still during sleep, and what Boot has gained on it was sleep.
//
// A build with the tag faultclock adds what a file says to both clocks; no other build has
// the code for it.
package clock

import "time"

// Boot returns the time since the machine started, its sleep included, from an arbitrary
// but fixed point. Where the system does not tell, sleep is missing. It never fails.
func Boot() time.Duration { return boot() + bootOffset() }

// Now is time.Now. Its monotonic reading is the right one in every build.
func Now() time.Time { return shift(time.Now()) }
