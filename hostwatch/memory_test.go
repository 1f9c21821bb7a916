package hostwatch

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestKilled: a kill explains one death, and not for long.
func TestKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group, machine atomic.Int64
		group.Store(3)
		machine.Store(70)
		var told []Kills
		m := watchMemory(func() Kills { return Kills{Group: group.Load(), In: "/agent", Machine: machine.Load()} }, func(k Kills) { told = append(told, k) })
		defer m.Close()
		pass(10 * time.Second)
		require.False(t, m.Killed(false), "what was killed before we came")

		group.Add(1)
		machine.Add(1)
		require.True(t, m.Killed(true), "seen before the next look")
		require.False(t, m.Killed(false), "by one kill one died")

		machine.Add(2)
		pass(2 * time.Second)
		require.False(t, m.Killed(true), "elsewhere on the machine")
		require.True(t, m.Killed(false))
		pass(rememberKill)
		require.False(t, m.Killed(false), "too long ago")
		require.Equal(t, Kills{Group: 4, In: "/agent", Machine: 73}, told[len(told)-1])
		require.Len(t, told, 3)
	})
}

func TestKillsSince(t *testing.T) {
	former := Kills{Group: 1, In: "/a", Machine: 7}
	for _, test := range []struct {
		now  Kills
		ago  time.Duration
		want bool
	}{
		{former, time.Second, false},
		{Kills{Group: 2, In: "/a", Machine: 8}, time.Hour, true},
		{Kills{Group: 2, In: "/b", Machine: 7}, time.Second, false},
		{Kills{Group: 0, In: "/b", Machine: 8}, time.Second, true},
		{Kills{Group: 0, In: "/b", Machine: 8}, time.Hour, false},
		{Kills{Group: -1, Machine: -1}, time.Second, false},
	} {
		require.Equal(t, test.want, former.Since(test.now, test.ago), "%+v", test)
	}
	require.False(t, Kills{Group: -1, Machine: -1}.Since(Kills{Group: 5, Machine: 5}, 0), "nothing was known")
}

// TestReadKills: Linux tells at least one of the counts.
func TestReadKills(t *testing.T) {
	k := ReadKills()
	if runtime.GOOS == "linux" {
		require.GreaterOrEqual(t, max(k.Group, k.Machine), int64(0), "%+v", k)
	}
}
