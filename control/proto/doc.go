// Package proto holds the control link's own messages: hello, heartbeat and
// goodbye. What agents, clients and nodes say over the link is in agent/proto and
// tailnet/proto.
package proto
