package tailnet

import (
	"os"
	"sync"

	"github.com/tailscale/wireguard-go/tun"
)

const (
	// mtu is the IPv6 minimum: every path carries it inside WireGuard inside UDP.
	mtu = 1280
	// outboundQueue is how many packets of the stack, of up to 64 KiB, may wait for the
	// engine before the stack does.
	outboundQueue = 128
	// tunBatch is how many packets one Read of the engine takes at most, which is the
	// engine's own bound. The largest packet of the stack fits twice.
	tunBatch = 128
)

// tunDevice is what WireGuard takes for the host's network device: packets that it
// reads come from our stack, packets that it writes go to our stack. Like such a
// device with segmentation offload, it spares the stack the single segments: it cuts
// the stack's large packets, and joins what came in one batch.
type tunDevice struct {
	link *link
	gate *gate

	cutting segments // of Read

	events    chan tun.Event
	closeOnce sync.Once
}

var _ tun.Device = (*tunDevice)(nil)

func newTunDevice(g *gate) *tunDevice {
	return &tunDevice{link: newLink(outboundQueue), gate: g, events: make(chan tun.Event)}
}

// Read waits for packets of the stack, and takes as many as are there. One goroutine
// may call it at a time.
func (d *tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for n := 0; ; n++ {
		if n == len(bufs) {
			return n, nil
		}
		if d.cutting.done() {
			pkt := d.link.ready()
			if pkt == nil && n > 0 {
				return n, nil
			}
			if pkt == nil {
				pkt = d.link.next()
			}
			if pkt == nil {
				return 0, os.ErrClosed
			}
			d.cutting.start(pkt)
		}
		sizes[n] = d.cutting.next(bufs[n][offset:])
	}
}

// Write hands packets from peers to the stack. Those that the gate does not admit
// disappear here.
func (d *tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	select {
	case <-d.link.closed:
		return 0, os.ErrClosed
	default:
	}
	for rest := bufs; len(rest) > 0; {
		n := 0
		for n < len(rest) && d.gate.admits(rest[n][offset:]) {
			n++
		}
		d.deliver(rest[:n], offset)
		rest = rest[min(n+1, len(rest)):]
	}
	return len(bufs), nil
}

// deliver gives the stack packets that the gate has admitted.
func (d *tunDevice) deliver(pkts [][]byte, offset int) {
	for len(pkts) > 0 {
		r := nextRun(pkts, offset)
		pkt := r.packet(pkts, offset)
		d.link.deliver(pkt)
		pkt.DecRef()
		pkts = pkts[r.count:]
	}
}

func (d *tunDevice) File() *os.File           { return nil }
func (d *tunDevice) MTU() (int, error)        { return mtu, nil }
func (d *tunDevice) Name() (string, error)    { return "fairlead", nil }
func (d *tunDevice) Events() <-chan tun.Event { return d.events }
func (d *tunDevice) BatchSize() int           { return tunBatch }

// Close ends Read and Write. The engine calls it too.
func (d *tunDevice) Close() error {
	d.closeOnce.Do(func() {
		d.link.close()
		close(d.events)
	})
	return nil
}
