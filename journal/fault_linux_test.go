package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/testutil"
)

// eventually waits for what the journal's goroutine does.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

// TestDiskFull fills a real file system.
func TestDiskFull(t *testing.T) {
	if !testutil.InMountNamespace(t) {
		return
	}
	disk := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { _ = syscall.Unmount(disk, 0) })
	filler, dir := filepath.Join(disk, "filler"), filepath.Join(disk, "journal")
	fill := func() {
		f, err := os.Create(filler)
		require.NoError(t, err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 512))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
	logger, lines := testutil.NewLogRecorder(t)
	o := Options{SyncInterval: 5 * time.Millisecond, Logger: logger}
	var want []string
	addSome := func(j *Journal) {
		for range 20 {
			want = append(want, fmt.Sprintf("%01000d", len(want)))
			add(t, j, want[len(want)-1])
		}
	}

	j, _ := open(t, dir, o)
	addSome(j)
	require.NoError(t, j.Degraded())
	fill()
	addSome(j)
	require.ErrorIs(t, j.Degraded(), syscall.ENOSPC)
	require.ErrorContains(t, j.Degraded(), "no space left on device")
	eventually(t, func() bool { return len(lines.Records()) == 1 })
	eventually(t, func() bool { // between two attempts, what there is of a new file takes no space
		_, err := os.Stat(filepath.Join(dir, newName))
		return os.IsNotExist(err)
	})
	require.NoError(t, os.Remove(filler))
	eventually(t, func() bool { return j.Degraded() == nil && len(lines.Records()) == 2 })
	addSome(j)
	j.die()

	j, r := open(t, dir, o)
	require.Equal(t, want, texts(r))
	require.Nil(t, r.Gap)

	// A life that dies while the disk is full loses what it held in memory, and the next
	// life sees when that was. That one cannot write either.
	fill()
	onDisk := len(want)
	full := time.Now()
	for j.Degraded() == nil {
		onDisk = len(want)
		want = append(want, fmt.Sprintf("%01000d", len(want)))
		add(t, j, want[onDisk])
	}
	addSome(j)
	j.die()
	want = want[:onDisk]
	for range 2 {
		j, r = open(t, dir, o)
		require.Equal(t, want, texts(r))
		require.False(t, r.Clean)
		require.False(t, r.Gap.From.Before(full))
		require.ErrorIs(t, j.Degraded(), syscall.ENOSPC)
		j.die()
	}
	require.NoError(t, os.Remove(filler))
	j, r = open(t, dir, o)
	require.Equal(t, want, texts(r))
	require.NoError(t, j.Degraded())
	require.NoError(t, j.Close())
	_, r = open(t, dir, o)
	require.True(t, r.Clean)
	require.Nil(t, r.Gap)
}

// TestPowerLoss shuts a real file system down without letting it write anything more,
// which is what the disk looks like after the power has failed. Every record that is
// missing in the next life, and every one that is back, was written in its Gap.
func TestPowerLoss(t *testing.T) {
	if !testutil.InMountNamespace(t) {
		return
	}
	disk := testutil.NewDisk(t, 32<<20)
	type times struct{ added, released time.Time } // zero: before a sync
	all := map[string]times{}
	missing, back := 0, 0
	for round := range 8 {
		disk.Mount()
		o := Options{boot: fmt.Sprint("boot ", round), SyncInterval: 20 * time.Millisecond}
		if round%2 == 1 {
			o.compactAbove = 1 // at each sync
		}
		j, r := open(t, filepath.Join(disk.Dir, "journal"), o)
		require.Zero(t, r.Damaged)
		inGap := func(at time.Time, what string) {
			t.Helper()
			if r.Gap == nil || at.Before(r.Gap.From) || at.After(r.Gap.To.Add(time.Second)) {
				t.Errorf("round %d: a record was %s at %v, outside of %+v", round, what, at, r.Gap)
			}
		}
		got := map[string]bool{}
		for _, text := range texts(r) {
			got[text] = true
			at, known := all[text]
			require.True(t, known, "round %d: a record is back after a release that was synced", round)
			if !at.released.IsZero() {
				back++
				inGap(at.released, "released")
			}
		}
		for text, at := range all {
			if at.released.IsZero() && !got[text] {
				require.False(t, at.added.IsZero(), "round %d: a record that was synced is missing", round)
				missing++
				inGap(at.added, "added")
			}
		}
		clear(all)
		held := r.Records
		for _, record := range held {
			all[string(record.Data)] = times{}
		}
		settle := func(j *Journal) {
			eventually(t, func() bool {
				j.mu.Lock()
				defer j.mu.Unlock()
				return !j.dirty && !j.syncing && j.copied == nil && !j.wastefulLocked()
			})
			clear(all)
			for _, record := range held {
				all[string(record.Data)] = times{}
			}
		}
		for n := range 300 {
			<-time.After(time.Millisecond)
			if n == 250 {
				settle(j)
			}
			text := fmt.Sprintf("%d %0200d", round, n)
			at := time.Now().Round(0)
			held = append(held, Record{add(t, j, text), []byte(text)})
			all[text] = times{added: at}
			if len(held) > 20 {
				first := held[0]
				held = held[1:]
				at := all[string(first.Data)]
				at.released = time.Now().Round(0)
				require.NoError(t, j.Release(first.Seq))
				all[string(first.Data)] = at
			}
		}
		if round%2 == 1 { // right after a compaction
			settle(j)
			require.NoError(t, j.rewrite())
		}
		disk.CutPower()
		j.die()
		disk.Unmount()
	}
	t.Logf("%d records were lost in a gap, %d came back", missing, back)
	require.Positive(t, missing, "a test that loses nothing proves nothing")
}
