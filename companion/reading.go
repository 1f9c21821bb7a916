package companion

import (
	"time"

	"fairlead.dev/fairlead/clock"
)

// Reading is one moment by this host's clocks that nobody can set. Only differences of
// readings mean something, and only within one life of one process.
type Reading struct {
	Boot  time.Duration // goes on while the machine sleeps
	Awake time.Duration // does not
}

var started = time.Now()

// now reads the system's clocks.
func now() Reading { return Reading{Boot: clock.Boot(), Awake: time.Since(started)} }
