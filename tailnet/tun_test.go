package tailnet

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"fairlead.dev/fairlead/tailnet/proto"
)

// medium carries packets between two devices like an engine does, in batches, and does to
// them what a network may. It counts what it saw.
type medium struct {
	lose, swap int // one of how many packets; 0: none

	mu      sync.Mutex // guards all below
	largest int
	total   int
	batches int
	hole    bool // it loses all
	lost    int  // packets, in the hole
}

// carry runs until from is closed.
func (w *medium) carry(t *testing.T, from, to *tunDevice, seed uint64) {
	const offset = 32
	random := rand.New(rand.NewPCG(seed, seed))
	bufs, sizes := make([][]byte, tunBatch), make([]int, tunBatch)
	for i := range bufs {
		bufs[i] = make([]byte, offset+1<<16)
	}
	for {
		n, err := from.Read(bufs[:1+random.IntN(tunBatch)], sizes, offset)
		if err != nil {
			require.ErrorIs(t, err, os.ErrClosed)
			return
		}
		var batch [][]byte
		w.mu.Lock()
		for i := range n {
			w.largest = max(w.largest, sizes[i])
			if w.hole {
				w.lost++
			} else if w.lose == 0 || random.IntN(w.lose) > 0 {
				batch = append(batch, bufs[i][:offset+sizes[i]])
			}
		}
		w.total += n
		w.batches++
		w.mu.Unlock()
		if w.swap > 0 && len(batch) > 1 && random.IntN(w.swap) == 0 {
			i := random.IntN(len(batch) - 1)
			batch[i], batch[i+1] = batch[i+1], batch[i]
		}
		if _, err := to.Write(batch, offset); err != nil {
			require.ErrorIs(t, err, os.ErrClosed)
			return
		}
		for i := range n {
			clear(bufs[i]) // the engine uses them again
		}
	}
}

// joinDevices connects two stacks, and returns a connection of a to a listener of b.
func joinDevices(t *testing.T, w *medium) (client, server net.Conn) {
	t.Helper()
	const port = 22
	keys := [2]proto.NodeKey{NewPrivateKey().Public(), NewPrivateKey().Public()}
	var devices [2]*tunDevice
	var stacks [2]*netstack
	for i, key := range keys {
		devices[i] = newTunDevice(newGate(key.Address(), []uint16{port}))
		var err error
		stacks[i], err = newNetstack(devices[i].link, key.Address())
		require.NoError(t, err)
	}
	var carriers sync.WaitGroup
	carriers.Go(func() { w.carry(t, devices[0], devices[1], 1) })
	carriers.Go(func() { w.carry(t, devices[1], devices[0], 2) })
	t.Cleanup(func() {
		for _, s := range stacks {
			s.close()
		}
		for _, d := range devices {
			require.NoError(t, d.Close())
		}
		carriers.Wait()
	})
	listener, err := stacks[1].listen(port, func(netip.Addr) (proto.NodeKey, bool) { return keys[0], true })
	require.NoError(t, err)
	client, err = stacks[0].dial(context.Background(), netip.AddrPortFrom(keys[1].Address(), port), keys[1])
	require.NoError(t, err)
	server, err = listener.Accept()
	require.NoError(t, err)
	return client, server
}

// exchangeRandom sends different bytes both ways at once, in writes of all sizes.
func exchangeRandom(t *testing.T, a, b net.Conn, size int) {
	t.Helper()
	var ends sync.WaitGroup
	send := func(to net.Conn, data []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, seed))
		for len(data) > 0 {
			n := min(len(data), 1+random.IntN(1<<random.IntN(18)))
			if _, err := to.Write(data[:n]); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			data = data[n:]
		}
		if err := to.(*conn).CloseWrite(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	receive := func(from net.Conn, want []byte) {
		got, err := io.ReadAll(from)
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("read %d bytes, want %d, equal %v: %v", len(got), len(want), bytes.Equal(want, got), err)
		}
	}
	there, back := randomBytes(10, size), randomBytes(11, size)
	ends.Go(func() { send(a, there, 3) })
	ends.Go(func() { send(b, back, 4) })
	ends.Go(func() { receive(b, there) })
	ends.Go(func() { receive(a, back) })
	ends.Wait()
}

// Two stacks exchange data through their devices: large packets between stack and
// device, packets of at most the MTU between the devices.
func TestStacksSpeakThroughTheirDevices(t *testing.T) {
	w := &medium{}
	a, b := joinDevices(t, w)
	exchangeRandom(t, a, b, 4<<20)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.LessOrEqual(t, w.largest, mtu)
	require.Greater(t, w.largest, mtu-maxTCPHeaderLen, "but for the room of rare options, segments fill the packets")
	require.Greater(t, w.total, 3*w.batches, "the device hands out batches")
}

func TestStacksSpeakOverABadWire(t *testing.T) {
	a, b := joinDevices(t, &medium{lose: 200, swap: 20})
	exchangeRandom(t, a, b, 1<<20)
}

// TestFlowOutlivesSilence: the stack gives up a flow after so many retransmissions, which
// with ours is a quarter of a minute unless it is told otherwise. Only a clock of ours may
// end a session.
func TestFlowOutlivesSilence(t *testing.T) {
	t.Parallel()
	w := &medium{}
	a, b := joinDevices(t, w)
	exchange(t, a, b)
	setHole := func(hole bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hole = hole
	}
	setHole(true)
	_, err := a.Write([]byte("still here"))
	require.NoError(t, err)
	const stacksOwnLimit = 15
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.lost > stacksOwnLimit+2
	}, time.Minute, 50*time.Millisecond, "the flow was given up")
	setHole(false)
	got := make([]byte, len("still here"))
	_, err = io.ReadFull(b, got)
	require.NoError(t, err)
	require.Equal(t, "still here", string(got))
}

// A stack that waits for its device is let go when that is closed.
func TestClosedDeviceHoldsNobody(t *testing.T) {
	device := newTunDevice(newGate(segmentDst, nil))
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			var list stack.PacketBufferList
			list.PushBack(stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData([]byte("packet"))}))
			_, err := device.link.WritePackets(list)
			list.DecRef()
			if err != nil {
				return
			}
		}
	})
	for len(device.link.queue) < outboundQueue {
		_, err := device.Write(nil, 0)
		require.NoError(t, err)
	}
	require.NoError(t, device.Close())
	writer.Wait()
	_, err := device.Write(nil, 0)
	require.ErrorIs(t, err, os.ErrClosed)
}
