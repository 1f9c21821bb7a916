//go:build !windows

package disconnect

import "syscall"

// platformErrnos is empty where sockets give POSIX error numbers.
var platformErrnos map[syscall.Errno]Reason
