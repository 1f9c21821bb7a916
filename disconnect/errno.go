package disconnect

import "syscall"

// errnoReason returns what a system error says about a connection, or Unknown if
// it says nothing in particular. It cannot place a fault: this host's link down, the
// other's, an address removed and packets dropped in silence were all seen to give
// ETIMEDOUT.
func errnoReason(errno syscall.Errno) Reason {
	if reason, ok := platformErrnos[errno]; ok {
		return reason
	}
	switch errno {
	case syscall.ECONNRESET,
		syscall.EPIPE: // a writer's echo of what a reader would have seen
		return ConnectionReset
	case syscall.ETIMEDOUT:
		return NetworkTimeout
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EADDRNOTAVAIL:
		return NetworkUnreachable
	case syscall.ECONNREFUSED:
		return ConnectionRefused
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ENOSPC, syscall.EDQUOT:
		return ResourceExhausted
	}
	return Unknown
}
