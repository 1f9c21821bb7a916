// Package baddays holds the tests of what goes wrong around Fairlead rather than in it:
// an address that leads elsewhere, a token that is withdrawn while nobody can tell, full
// disks, damaged files, clocks that disagree, everybody at once. They use real processes.
// It has no code of its own.
package baddays
