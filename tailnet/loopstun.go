package tailnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/net/stun"
)

// loopSTUNDelay lets the engine note that it has sent before it sees the answer,
// which else may end the check first.
const loopSTUNDelay = 5 * time.Millisecond

// loopSTUN is a UDP socket on loopback that stands in the map of relays as the
// shim's STUN port.
//
// The engine takes "I could not send one IPv4 STUN packet" as a broken socket: it
// binds new ones at every check, forgets all direct paths and, because the shim is on
// loopback and so not on the main interface, cuts the relay. This socket can always
// be sent to. It stays silent where a real STUN server is known, whose answer must
// not be forestalled. Where none is, it answers with an address of this host, and
// the check ends in some milliseconds instead of after 3 s of waiting.
type loopSTUN struct {
	conn   *net.UDPConn
	answer atomic.Pointer[netip.AddrPort] // nil: stay silent
	done   sync.WaitGroup
}

func newLoopSTUN() (*loopSTUN, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	s := &loopSTUN{conn: conn}
	s.done.Go(s.serve)
	return s, nil
}

func (s *loopSTUN) port() uint16 { return uint16(s.conn.LocalAddr().(*net.UDPAddr).Port) }

// set makes the responder answer with addr, or nil: stay silent.
func (s *loopSTUN) set(addr *netip.AddrPort) { s.answer.Store(addr) }

func (s *loopSTUN) serve() {
	var buf [1500]byte
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf[:])
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // of one packet, such as a late ICMP error on some systems
		}
		answer := s.answer.Load()
		if answer == nil {
			continue
		}
		if id, err := stun.ParseBindingRequest(buf[:n]); err == nil {
			time.Sleep(loopSTUNDelay)
			_, _ = s.conn.WriteToUDPAddrPort(stun.Response(id, *answer), from)
		}
	}
}

func (s *loopSTUN) close() {
	_ = s.conn.Close()
	s.done.Wait()
}
