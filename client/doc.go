// Package client reaches workspaces from a user's machine: it keeps the control
// link and the tailnet node of one process ([Client]), opens the way to one
// workspace's agent ([Workspace]), runs commands and shells there, carries a stock
// SSH client's bytes, and says of every session how it ended and who began that.
//
// It is not the command line: it prints nothing, reads no configuration, installs no
// signal handler and touches no terminal; callers give it readers, writers and
// channels. Nor is it the REST API, which is package sdk's.
package client
