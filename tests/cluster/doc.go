// Package cluster holds the tests that start Fairlead as its users do: the real
// binary, built with the race detector, as separate processes on loopback, with
// stock OpenSSH where that is what people use. It has no code of its own; what one
// package can show by itself is tested there.
package cluster
