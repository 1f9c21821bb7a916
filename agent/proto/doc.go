// Package proto holds what a workspace agent says to the server (manifest and
// connection reports) and to its clients (the companion stream). It is the only
// part of agent that client and server may import.
package proto
