// Package hostclock reads the clocks of this host that nobody can set, and that tell
// sleep from silence: how long the machine has run, with and without its sleep.
//
// It is not the wall clock: what is written down for people has the time of package
// time. It keeps no timers, which stop while the machine sleeps.
package hostclock

import "time"

// Reading is one moment by both clocks. Only differences of readings mean something, and
// only within one life of one process.
type Reading struct {
	Boot  time.Duration // since the machine started, its sleep included
	Awake time.Duration // the same without its sleep
}

// Now reads the clocks. Where the system does not tell them apart they are the same.
func Now() Reading { return now() }

// began is where the clocks begin that the system does not have.
var began = time.Now()
