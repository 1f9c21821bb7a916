package linkem

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// end is one end of a cable in memory.
type end struct {
	in, out chan []byte
	closed  chan struct{}
}

func newEnd() *end {
	return &end{make(chan []byte), make(chan []byte, 10000), make(chan struct{})}
}

func (e *end) Read(b []byte) (int, error) {
	select {
	case frame := <-e.in:
		return copy(b, frame), nil
	case <-e.closed:
		return 0, io.EOF
	}
}

func (e *end) Write(b []byte) (int, error) {
	e.out <- b
	return len(b), nil
}

func (e *end) Close() error { close(e.closed); return nil }

// carry sends frames with their number in them through a link, one each gap, and returns
// what came out, with the time of each since the start.
func carry(t *testing.T, m Impairment, count int, gap time.Duration) (numbers []int, times []time.Duration, stats Stats) {
	a, b := newEnd(), newEnd()
	l := Join(a, b, 1)
	l.Set(m, Impairment{})
	begin := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for frame := range b.out {
			numbers = append(numbers, int(binary.BigEndian.Uint32(frame)))
			times = append(times, time.Since(begin))
		}
	}()
	for i := range count {
		a.in <- binary.BigEndian.AppendUint32(nil, uint32(i))
		<-time.After(gap)
	}
	<-time.After(time.Minute)
	stats, back := l.Stats()
	require.Zero(t, back, "nothing went the other way")
	require.NoError(t, l.Close())
	close(b.out)
	<-done
	return numbers, times, stats
}

func TestGoodCable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		numbers, times, stats := carry(t, Impairment{}, 100, time.Millisecond)
		for i, n := range numbers {
			require.Equal(t, i, n)
			require.Equal(t, time.Duration(i)*time.Millisecond, times[i])
		}
		require.Equal(t, Stats{In: 100, Out: 100}, stats)
	})
}

func TestDelayAndJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		numbers, times, _ := carry(t, Impairment{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond}, 1000, time.Millisecond)
		require.Len(t, numbers, 1000)
		low, high := time.Hour, time.Duration(0)
		for i, n := range numbers {
			require.Equal(t, i, n, "in order")
			took := times[i] - time.Duration(i)*time.Millisecond
			low, high = min(low, took), max(high, took)
		}
		require.Less(t, low, 50*time.Millisecond)
		require.GreaterOrEqual(t, low, 30*time.Millisecond)
		require.Greater(t, high, 60*time.Millisecond)
		require.LessOrEqual(t, high, 70*time.Millisecond)
	})
}

func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, stats := carry(t, Impairment{Loss: 20, Duplicate: 10, Reorder: 30}, 10000, time.Millisecond)
		require.InDelta(t, 2000, stats.Lost, 150)
		require.InDelta(t, 800, stats.Doubled, 150)
		require.InDelta(t, 2400, stats.Late, 150)
		require.Equal(t, stats.In-stats.Lost+stats.Doubled, stats.Out)
	})
}

func TestReorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		numbers, _, _ := carry(t, Impairment{Reorder: 10}, 1000, time.Millisecond)
		require.Len(t, numbers, 1000)
		late := 0
		for i, n := range numbers {
			if i > 0 && n < numbers[i-1] {
				late++
			}
		}
		require.InDelta(t, 100, late, 40)
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 32 bits each: 100 frames a second fit, 1000 are sent.
		numbers, times, stats := carry(t, Impairment{Rate: 3200}, 1000, time.Millisecond)
		require.InDelta(t, 125, len(numbers), 5, "those of one second, and a buffer of a quarter")
		require.InDelta(t, float64(1250*time.Millisecond), float64(times[len(times)-1]), float64(50*time.Millisecond))
		require.Equal(t, int64(1000), stats.Out+stats.Lost)
	})
}

// TestDamage: a wrong bit is found by the checksum, exchanged words are not.
func TestDamage(t *testing.T) {
	frame := make([]byte, 14+20+8+16)
	frame[12], frame[14], frame[14+9] = 8, 0x45, 17
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14))
	copy(frame[14+28:], "sixteen letters.")
	random := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		wrong := append([]byte(nil), frame...)
		require.True(t, flipBit(wrong, random))
		require.Equal(t, frame[:14], wrong[:14])
		require.NotEqual(t, sum(frame[14:]), sum(wrong[14:]))

		wrong = append([]byte(nil), frame...)
		require.True(t, swapWords(wrong, random))
		require.Equal(t, frame[:14+28], wrong[:14+28])
		require.NotEqual(t, frame, wrong)
		require.Equal(t, sum(frame[14:]), sum(wrong[14:]))
	}
	for _, short := range [][]byte{nil, frame[:13], frame[:20], frame[:14+28], frame[:14+28+3]} {
		require.False(t, swapWords(append([]byte(nil), short...), random))
	}
}

func sum(b []byte) uint32 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return s
}

func TestParse(t *testing.T) {
	m, err := Parse("delay=50ms,jitter=40ms,reorder=30,rate=256000")
	require.NoError(t, err)
	require.Equal(t, Impairment{Delay: 50 * time.Millisecond, Jitter: 40 * time.Millisecond, Reorder: 30, Rate: 256000}, m)
	for _, bad := range []string{"", "colour=red", "delay=fast", "loss", "delay=1h,colour=red"} {
		_, err := Parse(bad)
		require.Error(t, err, bad)
	}
}
