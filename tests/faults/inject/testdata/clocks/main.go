// Clocks says, for each line that it reads, what the product's clocks say: boot time, the
// kernel's monotonic time, and how far the wall clock is off, in nanoseconds.
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/fairlead/clock"
)

func main() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic(err)
		}
		off := clock.Now().Round(0).Sub(time.Now().Round(0))
		fmt.Println(int64(clock.Boot()), ts.Nano(), int64(off))
	}
}
