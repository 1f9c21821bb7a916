package tailnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"tailscale.com/net/netmon"
)

// refusedWait is how long a machine has for its answer.
const refusedWait = time.Second

// Refused reports whether the machine at a UDP address says itself that nothing listens on
// that port: an answer that a program which lives there and a dead path do not give. A
// firewall on the way gives it in its own name, which is no such answer. A router gives it
// in the machine's name if the address is its own and it forwards the port no more: only
// for an address of the machine's own interfaces ([HostAddresses]) is the answer the
// machine's. It takes a second at most; where the system does not tell who answered, it
// reports false.
func Refused(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, refusedWait)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", address)
	if err != nil {
		return false
	}
	defer c.Close()
	conn := c.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil || !askWhoAnswers(raw) {
		return false
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err = conn.Write([]byte{0}); err == nil { // too short for any protocol of ours
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Is(err, syscall.ECONNREFUSED) && whoAnswered(raw) == conn.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// HostAddresses returns the IP addresses of this host's interfaces, those of its loopback
// last; none when they cannot be read.
func HostAddresses() []netip.Addr {
	regular, loopback, err := netmon.LocalAddresses()
	if err != nil {
		return nil
	}
	return slices.Concat(regular, loopback)
}
