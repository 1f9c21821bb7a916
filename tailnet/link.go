package tailnet

import (
	"math"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the stack's side of the tunDevice. The stack gives it TCP packets far larger
// than the MTU, which the device cuts into segments, and waits while the queue is full:
// a packet that is dropped here has cost most of its way already, and looks to TCP like
// a loss on the path.
type link struct {
	queue  chan *stack.PacketBuffer
	closed chan struct{}
	once   sync.Once

	mu         sync.RWMutex // guards dispatcher
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(queue int) *link {
	return &link{queue: make(chan *stack.PacketBuffer, queue), closed: make(chan struct{})}
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		select {
		case l.queue <- pkt.IncRef():
		case <-l.closed:
			pkt.DecRef()
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return pkts.Len(), nil
}

// next waits for a packet of the stack, which the caller must release. It returns nil
// after close.
func (l *link) next() *stack.PacketBuffer {
	select {
	case pkt := <-l.queue:
		return pkt
	case <-l.closed:
		return nil
	}
}

// ready returns a packet of the stack if there is one.
func (l *link) ready() *stack.PacketBuffer {
	select {
	case pkt := <-l.queue:
		return pkt
	default:
		return nil
	}
}

// deliver hands the stack a packet, which stays the caller's.
func (l *link) deliver(pkt *stack.PacketBuffer) {
	l.mu.RLock()
	to := l.dispatcher
	l.mu.RUnlock()
	if to != nil {
		to.DeliverNetworkPacket(header.IPv6ProtocolNumber, pkt)
	}
}

// close ends next and lets nobody wait in WritePackets.
func (l *link) close() {
	l.once.Do(func() { close(l.closed) })
}

// GSOMaxSize implements stack.GSOEndpoint: the largest packet that IPv6's length tells.
func (l *link) GSOMaxSize() uint32 { return math.MaxUint16 }

// SupportedGSO implements stack.GSOEndpoint: the device does it.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// Capabilities implements stack.NetworkLinkEndpoint. Every packet comes out of an
// authenticated cipher: its checksum can say nothing new.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// Attach implements stack.NetworkLinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// Close implements stack.NetworkLinkEndpoint.
func (l *link) Close() { l.close() }

// The rest of stack.NetworkLinkEndpoint: there is no link layer.
func (l *link) MTU() uint32                             { return mtu }
func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) SetOnCloseAction(func())                 {}
