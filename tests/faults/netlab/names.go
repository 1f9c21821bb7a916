package netlab

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// Domain is where the hosts have names: server.lab.test, and so on. Any name below a
// host's own is that host's too.
const Domain = "lab.test"

// DNSName returns what others call the host.
func (h *Host) DNSName() string { return h.Name + "." + Domain }

// DNSAnswer is how the lab's name server behaves.
type DNSAnswer int32

// Ways to answer.
const (
	DNSWorks    DNSAnswer = iota // the hosts have their names, others have none
	DNSServFail                  // "I cannot say" to every question
	DNSNoSuch                    // no name exists
	DNSSilent                    // nothing is answered
)

// SetDNS changes how the name server behaves from the next question on.
func (l *Lab) SetDNS(a DNSAnswer) { l.names.answer.Store(int32(a)) }

// names is the lab's name server, on the router.
type names struct {
	conn   net.PacketConn
	hosts  map[string]netip.Addr // by DNSName with the last dot; never written after the start
	answer atomic.Int32          // a DNSAnswer
	done   chan struct{}         // closed when serve has returned
}

func serveNames(router *Host) (*names, error) {
	n := &names{hosts: map[string]netip.Addr{}, done: make(chan struct{})}
	for _, h := range router.lab.Hosts() {
		if h.Addr.IsValid() {
			n.hosts[h.DNSName()+"."] = h.Addr
		}
	}
	err := router.Do(func() (err error) {
		n.conn, err = net.ListenPacket("udp4", netip.AddrPortFrom(routerAddr, 53).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	go n.serve()
	return n, nil
}

func (n *names) serve() {
	defer close(n.done)
	buf := make([]byte, 512)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an earlier answer met
		}
		if reply := n.reply(buf[:size]); reply != nil {
			_, _ = n.conn.WriteTo(reply, from) // who hears nothing asks again
		}
	}
}

// reply returns the answer to one question, nil for none.
func (n *names) reply(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	addr, known := n.find(strings.ToLower(q.Name.String()))
	m = dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true, RecursionDesired: m.RecursionDesired},
		Questions: m.Questions,
	}
	switch answer := DNSAnswer(n.answer.Load()); {
	case answer == DNSSilent:
		return nil
	case answer == DNSServFail:
		m.RCode = dnsmessage.RCodeServerFailure
	case answer == DNSNoSuch || !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 0},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}

// find returns the host whose name is name, or above it.
func (n *names) find(name string) (netip.Addr, bool) {
	for {
		if addr, ok := n.hosts[name]; ok {
			return addr, true
		}
		_, above, found := strings.Cut(name, ".")
		if !found || above == "" {
			return netip.Addr{}, false
		}
		name = above
	}
}

func (n *names) close() error {
	err := n.conn.Close()
	<-n.done
	return err
}

func (a DNSAnswer) String() string {
	return [...]string{"works", "SERVFAIL", "no such name", "silent"}[a]
}
