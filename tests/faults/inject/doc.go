// Package inject does to a lab what happens to networks and machines: cables, filters,
// NATs, bad links, killed and frozen processes, full disks, clocks. One file is one family
// of faults.
//
// Each function has done its work when it returns, and gives back an [Injection]: the
// truth as data (what, to whom, when on CLOCK_MONOTONIC), and the way back. That a fault
// works is shown in this package's tests by what packets and processes do, not by what a
// tool says.
//
// What needs the machine's root says so in an error that matches [ErrNeedsRoot].
// The package knows nothing of what should be said about a fault: that is the scenario's.
package inject
