package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"tailscale.com/net/stun"
)

// maxSTUNPacket bounds what is read of one datagram, in bytes; a binding request is
// far smaller.
const maxSTUNPacket = 1500

// stunErrorPause keeps a broken socket from spinning.
const stunErrorPause = 100 * time.Millisecond

// stunDelay holds each answer back. The engine notes that it could send a packet
// after the system call: an answer that is there before, as it can be on the same host,
// ends its check with "cannot send", and it then rebinds its sockets and cuts its relay
// connection (measured: one cold start in ten).
const stunDelay = 2 * time.Millisecond

// maxSTUNWaiting bounds the answers that are held back; more are dropped, and asked
// for again.
const maxSTUNWaiting = 4096

// stunAnswer is one answer that is held back.
type stunAnswer struct {
	packet []byte
	to     netip.AddrPort
	due    time.Time
}

// STUNServer tells nodes the address from which their UDP packets arrive. It answers
// binding requests and nothing else.
type STUNServer struct {
	conn   *net.UDPConn
	logger *slog.Logger
	held   chan stunAnswer
	done   chan struct{} // closed by Close
	once   sync.Once
	wg     sync.WaitGroup
}

// ListenSTUN binds the UDP address addr ("host:port") and serves until Close. A nil
// logger discards.
func ListenSTUN(addr string, logger *slog.Logger) (*STUNServer, error) {
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for stun on %s: %w", addr, err)
	}
	conn, err := net.ListenUDP("udp", udp)
	if err != nil {
		return nil, fmt.Errorf("listen for stun on %s: %w", addr, err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &STUNServer{conn: conn, logger: logger, held: make(chan stunAnswer, maxSTUNWaiting), done: make(chan struct{})}
	s.wg.Go(s.serve)
	s.wg.Go(s.send)
	return s, nil
}

// Addr returns the bound address.
func (s *STUNServer) Addr() netip.AddrPort {
	return s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close stops the server and waits for it.
func (s *STUNServer) Close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = s.conn.Close()
	})
	s.wg.Wait()
	return err
}

func (s *STUNServer) serve() {
	buf := make([]byte, maxSTUNPacket)
	failing := false
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !failing {
				s.logger.Warn("stun read failed", "error", err)
			}
			failing = true
			if !s.pause() {
				return
			}
			continue
		}
		failing = false
		s.answer(buf[:n], from)
	}
}

func (s *STUNServer) pause() bool {
	timer := time.NewTimer(stunErrorPause)
	defer timer.Stop()
	select {
	case <-s.done:
		return false
	case <-timer.C:
		return true
	}
}

func (s *STUNServer) answer(packet []byte, from netip.AddrPort) {
	if !stun.Is(packet) {
		return
	}
	id, err := stun.ParseBindingRequest(packet)
	if err != nil {
		return
	}
	seen := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	select {
	case s.held <- stunAnswer{stun.Response(id, seen), from, time.Now().Add(stunDelay)}:
	default: // too many: like a lost packet
	}
}

// send sends the answers when they are due, in order.
func (s *STUNServer) send() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var a stunAnswer
		select {
		case a = <-s.held:
		case <-s.done:
			return
		}
		timer.Reset(time.Until(a.due))
		select {
		case <-timer.C:
		case <-s.done:
			return
		}
		// An answer that cannot be sent is like one that is lost: the node asks again.
		if _, err := s.conn.WriteToUDPAddrPort(a.packet, a.to); err != nil {
			s.logger.Debug("stun reply failed", "remote_addr", a.to.String(), "error", err)
		}
	}
}
