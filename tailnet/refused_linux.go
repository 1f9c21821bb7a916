package tailnet

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// askWhoAnswers has the kernel keep the origin of each ICMP error of the socket.
func askWhoAnswers(raw syscall.RawConn) (ok bool) {
	err := raw.Control(func(fd uintptr) {
		err4 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		err6 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		ok = err4 == nil || err6 == nil
	})
	return ok && err == nil
}

// extendedErr is the size of the kernel's struct sock_extended_err, which the address
// follows that the error came from.
const extendedErr = 16

// whoAnswered returns the origin of the first ICMP error that is kept.
func whoAnswered(raw syscall.RawConn) (from netip.Addr) {
	oob := make([]byte, 512)
	n := 0
	err := raw.Control(func(fd uintptr) {
		var err error
		if _, n, _, _, err = unix.Recvmsg(int(fd), make([]byte, 1), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT); err != nil {
			n = 0
		}
	})
	if err != nil {
		return netip.Addr{}
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		if len(m.Data) < extendedErr+8 {
			continue
		}
		offender := m.Data[extendedErr:]
		switch family := binary.NativeEndian.Uint16(offender); {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && family == unix.AF_INET:
			return netip.AddrFrom4([4]byte(offender[4:8]))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR && family == unix.AF_INET6 && len(offender) >= 24:
			return netip.AddrFrom16([16]byte(offender[8:24])).Unmap()
		}
	}
	return netip.Addr{}
}
