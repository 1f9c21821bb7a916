// Package fairlead is the root of the module. It holds no code: its tests guard the
// rules that hold for the whole tree, which layers may import which and how the
// house is kept (layers_test.go, house_test.go). Nothing imports it, and nothing
// that runs belongs here; the program is cmd/fairlead.
package fairlead
