package disconnect

import "syscall"

// platformErrnos holds the Winsock numbers, which differ from package syscall's
// POSIX names on Windows.
var platformErrnos = map[syscall.Errno]Reason{
	10024: ResourceExhausted,  // WSAEMFILE
	10049: NetworkUnreachable, // WSAEADDRNOTAVAIL
	10050: NetworkUnreachable, // WSAENETDOWN
	10051: NetworkUnreachable, // WSAENETUNREACH
	10054: ConnectionReset,    // WSAECONNRESET
	10055: ResourceExhausted,  // WSAENOBUFS
	10060: NetworkTimeout,     // WSAETIMEDOUT
	10061: ConnectionRefused,  // WSAECONNREFUSED
	10064: NetworkUnreachable, // WSAEHOSTDOWN
	10065: NetworkUnreachable, // WSAEHOSTUNREACH
}
