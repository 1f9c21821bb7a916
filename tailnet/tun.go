package tailnet

import (
	"context"
	"os"
	"sync"

	"github.com/tailscale/wireguard-go/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// mtu is the IPv6 minimum: every path carries it inside WireGuard inside UDP.
	mtu = 1280
	// outboundQueue is how many packets of the stack may wait for the engine. A full
	// queue drops, and TCP slows down.
	outboundQueue = 512
	// tunBatch is how many packets one Read of the engine takes at most.
	tunBatch = 64
)

// tunDevice is what WireGuard takes for the host's network device: packets that it
// reads come from our stack, packets that it writes go to our stack.
type tunDevice struct {
	link *channel.Endpoint
	gate *gate

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	events    chan tun.Event
	closeOnce sync.Once
}

var _ tun.Device = (*tunDevice)(nil)

func newTunDevice(g *gate) *tunDevice {
	link := channel.New(outboundQueue, mtu, "")
	// Every packet comes out of an authenticated cipher: its checksum can say nothing new.
	link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	ctx, cancel := context.WithCancel(context.Background())
	return &tunDevice{link: link, gate: g, ctx: ctx, cancel: cancel, events: make(chan tun.Event)}
}

// Read waits for packets of the stack, and takes as many as are there.
func (d *tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	pkt := d.link.ReadContext(d.ctx)
	if pkt == nil {
		return 0, os.ErrClosed
	}
	n := 0
	for {
		sizes[n] = copyPacket(bufs[n][offset:], pkt)
		pkt.DecRef()
		n++
		if n == len(bufs) {
			return n, nil
		}
		if pkt = d.link.Read(); pkt == nil {
			return n, nil
		}
	}
}

func copyPacket(dst []byte, pkt *stack.PacketBuffer) int {
	n := 0
	for _, part := range pkt.AsSlices() {
		n += copy(dst[n:], part)
	}
	return n
}

// Write hands packets from peers to the stack. Those that the gate does not admit
// disappear here.
func (d *tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	if d.ctx.Err() != nil {
		return 0, os.ErrClosed
	}
	for _, buf := range bufs {
		data := buf[offset:]
		if !d.gate.admits(data) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(data)})
		d.link.InjectInbound(header.IPv6ProtocolNumber, pkt)
		pkt.DecRef()
	}
	return len(bufs), nil
}

func (d *tunDevice) File() *os.File           { return nil }
func (d *tunDevice) MTU() (int, error)        { return mtu, nil }
func (d *tunDevice) Name() (string, error)    { return "fairlead", nil }
func (d *tunDevice) Events() <-chan tun.Event { return d.events }
func (d *tunDevice) BatchSize() int           { return tunBatch }

// Close ends Read and Write. The engine calls it too.
func (d *tunDevice) Close() error {
	d.closeOnce.Do(func() {
		d.cancel()
		d.link.Close()
		close(d.events)
	})
	return nil
}
