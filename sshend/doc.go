// Package sshend holds what both ends of an SSH connection must understand alike about
// how it ended: disconnect codes, the names of signals, the request that tells the cause,
// and the transport's own first error, which golang.org/x/crypto/ssh blurs.
//
// It runs no SSH, and knows nothing of agents, clients or the companion stream.
package sshend
