package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/client"
)

func TestRemotePath(t *testing.T) {
	for arg, want := range map[string][2]string{
		"dev:": {"dev", "."}, "dev:a": {"dev", "a"}, "ada/dev:/tmp/x": {"ada/dev", "/tmp/x"}, "dev:~": {"dev", "."}, "dev:~/a:b": {"dev", "a:b"},
	} {
		workspace, path, remote := remotePath(arg)
		require.True(t, remote, arg)
		require.Equal(t, want, [2]string{workspace, path}, arg)
	}
	for _, arg := range []string{"a", "./a:b", "/a:b", "../a:b", ":a", "a/b/c:d", "."} {
		_, path, remote := remotePath(arg)
		require.False(t, remote, arg)
		require.Equal(t, arg, path)
	}
}

func TestProgress(t *testing.T) {
	now := time.Unix(0, 0)
	meter := newRateMeter(now, 0)
	require.Zero(t, meter.at(now, 5))
	require.InDelta(t, 1<<20, meter.at(now.Add(2*time.Second), 2<<20), 1)
	stats := client.CopyStats{Files: 1, TotalFiles: 3, Bytes: 1 << 20, TotalBytes: 4 << 20}
	require.Equal(t, strings.Repeat("█", 5)+strings.Repeat("░", 15)+" 1.0 MiB of 4.0 MiB, 1.0 MiB/s, 1 of 3 files", progressText(stats, 1<<20))
	stats.Known = true
	require.Contains(t, progressText(stats, 1<<20), "1.0 MiB/s, 3s left, 1 of 3 files")
	require.NotContains(t, progressText(client.CopyStats{Known: true}, 0), "left")
}
