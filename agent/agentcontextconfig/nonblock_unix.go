//go:build unix

package agentcontextconfig

import "syscall"

// nonblock keeps an open from waiting for whoever is at the other end of a named pipe.
const nonblock = syscall.O_NONBLOCK
