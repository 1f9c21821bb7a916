package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// TestTombstones: they outlive the process, for a day, and are not too many.
func TestTombstones(t *testing.T) {
	dir, quiet := t.TempDir(), slog.New(slog.DiscardHandler)
	ada, bob := netip.MustParseAddrPort("[fd66::a]:1"), netip.MustParseAddrPort("[fd66::b]:2")
	slept := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "silent"}
	uut := openTombstones(dir, quiet)
	uut.add(ada, "old", slept, -1)
	uut.add(ada, "new", slept, 3)
	uut.add(bob, "his", slept, 0)
	require.NoError(t, uut.close())

	uut = openTombstones(dir, quiet)
	stones := uut.of(ada.Addr())
	require.Len(t, stones, 2)
	require.Equal(t, "new", stones[0].GetConnectionId())
	require.EqualValues(t, 3, stones[0].GetExitCode())
	require.Nil(t, stones[1].ExitCode)
	require.Equal(t, slept, wire.ToAttribution(stones[1].GetAttribution()))
	require.WithinDuration(t, time.Now(), stones[1].GetEndedAt().AsTime(), time.Minute)
	require.Len(t, uut.of(bob.Addr()), 1)

	uut.all[0].EndedAt = timestamppb.New(time.Now().Add(-tombstoneAge - time.Second))
	require.Len(t, uut.of(ada.Addr()), 1, "a day is over")
	uut.add(bob, "next", slept, 0)
	require.Len(t, uut.all, 3)
	for i := range 2 * maxTombstones {
		uut.add(bob, fmt.Sprint(i), slept, 0)
	}
	require.Len(t, uut.all, maxTombstones)
	require.Empty(t, uut.of(ada.Addr()))
	require.NoError(t, uut.close())
	uut = openTombstones(dir, quiet)
	require.Len(t, uut.of(bob.Addr()), maxTombstones)
	require.NoError(t, uut.close())

	blocked := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(blocked, "tombstones"), nil, 0o600))
	uut = openTombstones(blocked, quiet)
	uut.add(ada, "new", slept, -1)
	require.Len(t, uut.of(ada.Addr()), 1, "in memory")
	require.NoError(t, uut.close())
}
