package companion

import (
	"bufio"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// maxQueue is how many frames may wait for a peer that does not read.
const maxQueue = 1024

// stream is one connection of the companion: frames in by read, frames out by a
// queue, so that nobody who has something to say waits for the network.
type stream struct {
	conn net.Conn
	in   *bufio.Reader
	// done is closed by the owner of the read loop when that loop has ended. It
	// proves after a goodbye that the other end has read it.
	done chan struct{}
	wake chan struct{}
	seen atomic.Uint64 // highest heartbeat sequence received
	beat atomic.Int64  // the interval of heartbeats, in nanoseconds

	mu    sync.Mutex // guards queue and last
	queue []*proto.CompanionFrame
	last  bool // a goodbye is queued or sent; nothing follows it
}

func newStream(conn net.Conn, beat time.Duration) *stream {
	s := &stream{
		conn: conn,
		in:   bufio.NewReaderSize(conn, 512),
		done: make(chan struct{}),
		wake: make(chan struct{}, 1),
	}
	s.beat.Store(int64(beat))
	return s
}

// every changes the interval of heartbeats. A change is announced at once.
func (s *stream) every(beat time.Duration) {
	if s.beat.Swap(int64(beat)) != int64(beat) {
		nudge(s.wake)
	}
}

// read returns the next frame. Heartbeats are noted for the echo.
func (s *stream) read() (*proto.CompanionFrame, error) {
	frame, err := readFrame(s.in)
	if err != nil {
		return nil, err
	}
	if beat := frame.GetHeartbeat(); beat != nil && beat.GetSequence() > s.seen.Load() {
		s.seen.Store(beat.GetSequence())
	}
	return frame, nil
}

// send queues frame. Frames after a goodbye are dropped; a peer that lets the queue
// grow beyond its bound loses the stream.
func (s *stream) send(frame *proto.CompanionFrame) {
	s.mu.Lock()
	full := len(s.queue) >= maxQueue
	if !s.last && !full {
		s.queue = append(s.queue, frame)
		s.last = frame.GetGoodbye() != nil
	}
	s.mu.Unlock()
	if full {
		s.cut()
		return
	}
	nudge(s.wake)
}

// take empties the queue.
func (s *stream) take() (frames []*proto.CompanionFrame, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	frames, s.queue = s.queue, nil
	return frames, s.last
}

// write sends what is queued, and a heartbeat every interval, until a goodbye was
// sent, a write failed or the read loop ended. terminals says what heartbeats tell of
// them; nil: nothing.
func (s *stream) write(terminals func() []string) {
	beat := time.Duration(s.beat.Load())
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	var sequence uint64
	live := func() {
		sequence++
		var kept []string
		if terminals != nil {
			kept = terminals()
		}
		s.send(heartbeatFrame(sequence, s.seen.Load(), kept, beat))
	}
	var buf []byte
	for {
		if now := time.Duration(s.beat.Load()); now != beat {
			beat = now
			ticker.Reset(beat)
			live()
		}
		frames, last := s.take()
		buf = buf[:0]
		for _, frame := range frames {
			next, err := appendFrame(buf, frame)
			if err != nil {
				s.cut()
				return
			}
			buf = next
		}
		if len(buf) > 0 {
			if _, err := s.conn.Write(buf); err != nil {
				s.cut()
				return
			}
		}
		if last {
			return
		}
		select {
		case <-s.done:
			return
		case <-s.wake:
		case <-ticker.C:
			live()
		}
	}
}

// finish says goodbye as the last frame and waits until the other end has closed,
// which shows that it has read it, or until ctx ends; then it cuts.
func (s *stream) finish(ctx context.Context, g disconnect.Goodbye) {
	s.send(goodbyeFrame(g))
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	s.cut()
}

// cut closes the connection without a word.
func (s *stream) cut() { _ = s.conn.Close() }

// confess tells a new stream why the last silence was, if that was this end's doing: what it
// was told over may have been dead.
func (s *stream) confess(v *vigil, now Reading) {
	if a, lately := v.confession(now); lately {
		s.send(explanationFrame(a))
	}
}
