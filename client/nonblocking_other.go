//go:build !unix

package client

// nonBlocking keeps an open from waiting for the other end of a pipe.
const nonBlocking = 0
