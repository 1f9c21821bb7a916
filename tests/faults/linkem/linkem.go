// Package linkem is a cable that can be bad: it carries Ethernet frames between two ends
// and delays, loses, doubles, reorders, damages or slows them, each direction for itself,
// changed while it runs. For real hosts the ends are TAP devices (see TAP); nothing of the
// kernel but those is needed.
//
// It does not know what the frames are for, with one exception: Mangle damages the
// payload of TCP and UDP so that its checksum stays right.
package linkem

import (
	"container/heap"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Impairment is what one direction does to frames. The zero value is a good cable. Shares
// are percent, from 0 to 100.
type Impairment struct {
	Delay     time.Duration
	Jitter    time.Duration // added to or taken from Delay, evenly; the order stays
	Loss      float64
	Duplicate float64
	Reorder   float64 // held back so long that later ones come first
	Corrupt   float64 // one wrong bit, which a checksum finds
	Mangle    float64 // a wrong payload with a right checksum
	Rate      int64   // bits per second, 0 without limit; what waits over a quarter second is lost
}

const (
	holdBack = 30 * time.Millisecond  // of a frame that is to come late
	backlog  = 250 * time.Millisecond // as a router's buffer
	maxFrame = 65536
)

// Stats counts the frames of one direction.
type Stats struct {
	In, Out, Lost, Doubled, Late, Damaged int64
}

// Link is a running cable between the ends a and b.
type Link struct {
	ends [2]io.ReadWriteCloser
	ways [2]*way // ways[0] is from a to b
	wait sync.WaitGroup
}

// Join begins to carry whole frames between two ends, each Read and Write being one
// frame. The Link owns the ends. The seed makes chance repeatable.
func Join(a, b io.ReadWriteCloser, seed uint64) *Link {
	l := &Link{ends: [2]io.ReadWriteCloser{a, b}}
	for i := range l.ways {
		w := &way{random: rand.New(rand.NewPCG(seed, uint64(i))), stop: make(chan struct{}), arrived: make(chan struct{}, 1)}
		w.impairment.Store(&Impairment{})
		l.ways[i] = w
		l.wait.Go(func() { w.read(l.ends[i]) })
		l.wait.Go(func() { w.write(l.ends[1-i]) })
	}
	return l
}

// Set changes both directions: toward b, and toward a. Frames on their way keep their time.
func (l *Link) Set(toB, toA Impairment) {
	l.ways[0].impairment.Store(&toB)
	l.ways[1].impairment.Store(&toA)
}

// Stats returns what was done to the frames toward b and toward a so far.
func (l *Link) Stats() (toB, toA Stats) { return l.ways[0].counted(), l.ways[1].counted() }

// Close closes both ends and loses what is on its way.
func (l *Link) Close() error {
	err := l.ends[0].Close()
	if err2 := l.ends[1].Close(); err == nil {
		err = err2
	}
	for _, w := range l.ways {
		close(w.stop)
	}
	l.wait.Wait()
	return err
}

// way is one direction.
type way struct {
	impairment atomic.Pointer[Impairment]
	random     *rand.Rand // used by read only
	stop       chan struct{}
	arrived    chan struct{} // something new in the queue

	mu    sync.Mutex // guards queue, count and stats
	queue queue
	count uint64 // of frames queued, which orders those with the same time
	stats Stats

	// The rest is used by read only.
	free time.Time // when the wire has sent what it has
	last time.Time // when the latest frame in order leaves
}

func (w *way) counted() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// read takes frames until the end is closed.
func (w *way) read(from io.Reader) {
	buf := make([]byte, maxFrame)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		w.take(append([]byte(nil), buf[:n]...), time.Now())
	}
}

func (w *way) chance(percent float64) bool { return percent > 0 && w.random.Float64()*100 < percent }

// take decides the fate of one frame.
func (w *way) take(frame []byte, now time.Time) {
	m := *w.impairment.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.In++
	if w.chance(m.Loss) {
		w.stats.Lost++
		return
	}
	leave := now
	if m.Rate > 0 {
		if w.free.Before(now) {
			w.free = now
		}
		if w.free.Sub(now) > backlog {
			w.stats.Lost++
			return
		}
		w.free = w.free.Add(time.Duration(int64(len(frame)) * 8 * int64(time.Second) / m.Rate))
		leave = w.free
	}
	leave = leave.Add(m.Delay)
	if m.Jitter > 0 {
		leave = leave.Add(time.Duration((w.random.Float64()*2 - 1) * float64(m.Jitter)))
	}
	if w.chance(m.Reorder) {
		w.stats.Late++
		leave = leave.Add(holdBack)
	} else {
		if leave.Before(w.last) {
			leave = w.last
		}
		w.last = leave
	}
	if (w.chance(m.Corrupt) && flipBit(frame, w.random)) || (w.chance(m.Mangle) && swapWords(frame, w.random)) {
		w.stats.Damaged++
	}
	w.push(leave, frame)
	if w.chance(m.Duplicate) {
		w.stats.Doubled++
		w.push(leave, frame)
	}
}

// push needs the lock.
func (w *way) push(leave time.Time, frame []byte) {
	w.count++
	heap.Push(&w.queue, waiting{leave, w.count, frame})
	select {
	case w.arrived <- struct{}{}:
	default:
	}
}

// write sends what is due, until the link is closed. What the far end cannot take is lost,
// as on any cable.
func (w *way) write(to io.Writer) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		next := time.Hour
		var due []byte
		if len(w.queue) > 0 {
			if next = time.Until(w.queue[0].leave); next <= 0 {
				due = heap.Pop(&w.queue).(waiting).frame
				w.stats.Out++
			}
		}
		w.mu.Unlock()
		if due != nil {
			_, _ = to.Write(due)
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-w.arrived:
		case <-w.stop:
			return
		}
	}
}

type waiting struct {
	leave  time.Time
	number uint64
	frame  []byte
}

// queue is a heap, the next to leave first.
type queue []waiting

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].leave.Equal(q[j].leave) {
		return q[i].leave.Before(q[j].leave)
	}
	return q[i].number < q[j].number
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(waiting)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = waiting{}
	*q = old[:len(old)-1]
	return x
}
