package control

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPulse(t *testing.T) {
	const every, silence = 4 * time.Second, 12 * time.Second
	start := time.Unix(1000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	fresh := func() *pulse {
		p := &pulse{every: every, silence: silence, beat: at(4)}
		require.Equal(t, verdict{wait: every}, p.tick(at(0), at(0)))
		return p
	}

	t.Run("a living peer", func(t *testing.T) {
		p := fresh()
		for s := 4.0; s < 100; s += 4 {
			require.Equal(t, verdict{send: true, wait: every}, p.tick(at(s), at(s-1)))
		}
	})
	t.Run("a silent peer is found after the time of silence, not a heartbeat later", func(t *testing.T) {
		p := fresh()
		require.Equal(t, verdict{send: true, wait: every}, p.tick(at(4), at(3.5)))
		require.Equal(t, verdict{send: true, wait: every}, p.tick(at(8), at(3.5)))
		require.Equal(t, verdict{send: true, wait: 3500 * time.Millisecond}, p.tick(at(12), at(3.5)))
		require.Equal(t, verdict{dead: true}, p.tick(at(15.5), at(3.5)))
	})
	t.Run("bytes that come late save the link", func(t *testing.T) {
		p := fresh()
		p.tick(at(4), at(0))
		p.tick(at(8), at(0))
		require.Equal(t, verdict{send: true, wait: every}, p.tick(at(12), at(11.9)))
	})
	t.Run("a pause of this process is not the peer's silence", func(t *testing.T) {
		p := fresh()
		require.Equal(t, verdict{send: true, paused: true, wait: every}, p.tick(at(3600), at(3)))
		require.Equal(t, verdict{send: true, wait: every}, p.tick(at(3604), at(3600)))
		p.tick(at(3608), at(3600))
		require.True(t, p.tick(at(3612), at(3600)).dead, "but it is only excused once")
	})
}
