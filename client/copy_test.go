package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// copied is what one run of Copy told.
type copied struct {
	mu      sync.Mutex // guards results
	results []CopyResult
}

func (c *copied) add(r CopyResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results = append(c.results, r)
}

// failures are the sentences about what was not copied.
func (c *copied) failures() (all []string) {
	for _, r := range c.results {
		if r.Err != nil {
			all = append(all, r.Err.Error())
		}
	}
	return all
}

func (b *bench) copy(t *testing.T, upload bool, target string, sources ...string) (CopyStats, *copied) {
	t.Helper()
	told := &copied{}
	stats, end, err := b.Copy(t.Context(), CopyOptions{Upload: upload, Sources: sources, Target: target, OnResult: told.add})
	require.NoError(t, err)
	require.Equal(t, disconnect.Graceful, end.Attribution.Reason, end.Attribution.String())
	return stats, told
}

func write(t *testing.T, name string, size int) []byte {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	require.NoError(t, os.WriteFile(name, data, 0o644))
	return data
}

// tree describes all that is below a directory.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			leads, err := os.Readlink(path)
			all[name] = "-> " + leads
			return err
		case d.IsDir():
			all[name] = info.Mode().String()
		default:
			data, err := os.ReadFile(path)
			all[name] = fmt.Sprintf("%s %d %x", info.Mode(), info.ModTime().Unix(), sha256.Sum256(data))
			return err
		}
		return nil
	}))
	return all
}

// makeTree makes what is hard to copy: odd names, modes, links that lead nowhere and in a
// circle, empty files, and one larger than what is under way at a time.
func makeTree(t *testing.T, root string) {
	t.Helper()
	for name, size := range map[string]int{
		"empty": 0, "one": 1, "deep/er/file": copyChunk + 1, "large": copyWindow*copyChunk*2 + 17,
		"line\nbreak": 10, "not utf-8 \xff\xfe": 11, "-rf": 12, "with space and \"quotes'": 13, ".hidden": 14, "a:b": 15,
	} {
		write(t, filepath.Join(root, name), size)
	}
	require.NoError(t, os.Chmod(filepath.Join(root, "one"), 0o750))
	require.NoError(t, os.Mkdir(filepath.Join(root, "sealed"), 0o755))
	write(t, filepath.Join(root, "sealed", "in"), 5)
	old := time.Unix(1_000_000_000, 0)
	require.NoError(t, os.Chtimes(filepath.Join(root, "one"), old, old))
	for name, to := range map[string]string{"loop": "loop", "up": "..", "dangling": "/no/where", "to one": "one", "to deep": "deep/er"} {
		require.NoError(t, os.Symlink(to, filepath.Join(root, name)))
	}
	require.NoError(t, os.Chmod(filepath.Join(root, "sealed"), 0o555))
	t.Cleanup(func() {
		_ = filepath.WalkDir(filepath.Dir(root), func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o755)
			}
			return nil
		})
	})
}

// TestCopyTree: everything arrives as it was, both ways, and a second run copies nothing.
func TestCopyTree(t *testing.T) {
	b := open(t)
	for _, upload := range []bool{true, false} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		require.NoError(t, os.Mkdir(to, 0o755))
		makeTree(t, from)
		stats, told := b.copy(t, upload, to+"/", from)
		require.Empty(t, told.failures())
		require.Equal(t, tree(t, from), tree(t, filepath.Join(to, "from")))
		require.Equal(t, []int64{11, 11, 0, 0, 0}, []int64{stats.Files, stats.TotalFiles, stats.Skipped, stats.Failed, stats.Resumed})
		require.Equal(t, stats.TotalBytes, stats.Bytes)
		require.True(t, stats.Known)

		again, told := b.copy(t, upload, filepath.Join(to, "from"), from) // by its name
		require.Empty(t, told.failures())
		require.Equal(t, []int64{11, 11}, []int64{again.Files, again.Skipped})
		require.Equal(t, tree(t, from), tree(t, filepath.Join(to, "from")))

		// One file to another name, over what is there; several into a directory.
		write(t, filepath.Join(to, "other"), 3)
		b.copy(t, upload, filepath.Join(to, "other"), filepath.Join(from, "one"))
		want, err := os.ReadFile(filepath.Join(from, "one"))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(to, "other"))
		require.NoError(t, err)
		require.Equal(t, want, got)
		b.copy(t, upload, to+"/", filepath.Join(from, ".hidden"), filepath.Join(from, "to one"))
		info, err := os.Lstat(filepath.Join(to, "to one"))
		require.NoError(t, err)
		require.True(t, info.Mode().IsRegular(), "a link that was named is followed")
	}
}

// TestCopyGoesOn: an interrupted copy goes on where it stopped, unless the source is
// another by now; until a file is whole its name does not exist.
func TestCopyGoesOn(t *testing.T) {
	b := open(t)
	for _, upload := range []bool{true, false} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		want := write(t, from, 3*copyWindow*copyChunk)
		info, err := os.Stat(from)
		require.NoError(t, err)
		part := filepath.Join(dir, partName(to, info))
		// What a killed run leaves: the beginning, and holes in the last window.
		left := bytes.Clone(want[:2*copyWindow*copyChunk])
		clear(left[copyWindow*copyChunk+5 : copyWindow*copyChunk+copyChunk])
		require.NoError(t, os.WriteFile(part, left, 0o600))
		stats, told := b.copy(t, upload, to, from)
		require.Empty(t, told.failures())
		require.EqualValues(t, copyWindow*copyChunk, stats.Resumed)
		got, err := os.ReadFile(to)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoFileExists(t, part)

		require.NoError(t, os.Remove(to))
		require.NoError(t, os.WriteFile(part, want, 0o600))
		want = write(t, from, 3*copyWindow*copyChunk)
		later := info.ModTime().Add(2 * time.Second)
		require.NoError(t, os.Chtimes(from, later, later))
		stats, _ = b.copy(t, upload, to, from)
		require.Zero(t, stats.Resumed, "another version of the source begins anew")
		got, err = os.ReadFile(to)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	}
}

// TestCopyIsStopped: the user leaves in the middle; nothing has its name that is not
// whole, and the next run completes it.
func TestCopyIsStopped(t *testing.T) {
	b := open(t)
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	want := write(t, from, 64<<20)
	ctx, leave := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	_, end, err := b.Copy(ctx, CopyOptions{Upload: true, Sources: []string{from}, Target: to, OnBegin: func(stats func() CopyStats) {
		watching.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for stats().Bytes < 10<<20 {
				<-tick.C
			}
			leave()
		})
	}})
	watching.Wait()
	require.ErrorIs(t, err, errStopped)
	require.Equal(t, disconnect.ClientClosed, end.Attribution.Reason, end.Attribution.String())
	require.NoFileExists(t, to)

	next := &bench{agent: startAgent(t, "agent-2"), path: b.path, log: b.log} // the first one takes all of this host for the client that left
	b.path.lead(next.agent)
	next.Workspace, err = openWorkspace(t.Context(), testConfig(next.agent, b.path, b.log), nil)
	require.NoError(t, err)
	t.Cleanup(func() { next.Goodbye(context.Background(), disconnect.Goodbye{}) })
	stats, told := next.copy(t, true, to, from)
	require.Empty(t, told.failures())
	require.Positive(t, stats.Resumed)
	got, err := os.ReadFile(to)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

// TestCopyLosesTheAgent: the ending is that of the connection.
func TestCopyLosesTheAgent(t *testing.T) {
	b := open(t)
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	write(t, from, 64<<20)
	_, end, err := b.Copy(t.Context(), CopyOptions{Sources: []string{from}, Target: filepath.Join(dir, "to"), OnBegin: func(func() CopyStats) {
		go b.agent.stop(stopping)
	}})
	require.Error(t, err)
	a, ok := disconnect.FromError(err)
	require.True(t, ok)
	require.Equal(t, disconnect.ServerShutdown, a.Reason, a.String())
	require.Equal(t, a.Reason, end.Attribution.Reason)
}

// TestCopyBadInput: one sentence for each thing that cannot be copied, and all else is.
func TestCopyBadInput(t *testing.T) {
	b := open(t)
	for _, upload := range []bool{true, false} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		write(t, filepath.Join(from, "good"), 10)
		require.NoError(t, syscall.Mkfifo(filepath.Join(from, "pipe"), 0o644))
		require.NoError(t, os.MkdirAll(filepath.Join(to, "from", "taken"), 0o755))
		write(t, filepath.Join(from, "taken"), 10)
		want := 2
		if os.Geteuid() != 0 {
			write(t, filepath.Join(from, "secret"), 10)
			require.NoError(t, os.Chmod(filepath.Join(from, "secret"), 0))
			want++
		}
		stats, told := b.copy(t, upload, to+"/", from)
		failures := strings.Join(told.failures(), "\n")
		require.Contains(t, failures, "from/pipe: it is no file, directory or link")
		require.Contains(t, failures, "to/from/taken is a directory")
		require.Len(t, told.failures(), want)
		require.EqualValues(t, want, stats.Failed)
		require.FileExists(t, filepath.Join(to, "from", "good"))

		require.NoError(t, os.Symlink("circle", filepath.Join(dir, "circle")))
		_, told = b.copy(t, upload, to, filepath.Join(dir, "circle"), filepath.Join(dir, "missing"))
		require.Len(t, told.failures(), 2)
		require.Contains(t, told.failures()[1], "missing: there is no such file, or it vanished")
		for _, target := range []string{filepath.Join(dir, "no/such/dir") + "/", filepath.Join(from, "good") + "/"} {
			_, _, err := b.Copy(t.Context(), CopyOptions{Upload: upload, Sources: []string{from}, Target: target})
			require.ErrorContains(t, err, "it is no directory")
		}
	}
}

// TestCopyStaysBelowItsTarget: a link that is in the target's place, or came from the
// workspace, leads no file out of it.
func TestCopyStaysBelowItsTarget(t *testing.T) {
	b := open(t)
	dir := t.TempDir()
	outside, from, to := filepath.Join(dir, "outside"), filepath.Join(dir, "from"), filepath.Join(dir, "to")
	require.NoError(t, os.Mkdir(outside, 0o755))
	write(t, filepath.Join(from, "sub", "file"), 10)
	require.NoError(t, os.MkdirAll(filepath.Join(to, "from"), 0o755))
	require.NoError(t, os.Symlink(outside, filepath.Join(to, "from", "sub")))
	_, told := b.copy(t, false, to+"/", from)
	require.Len(t, told.failures(), 1)
	require.Contains(t, told.failures()[0], "is there and no directory")
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestCopyIntoAFullDisk: the file that does not fit is named, with what is there of it.
func TestCopyIntoAFullDisk(t *testing.T) {
	full := &fullSide{localSide{dir: "."}}
	c := &copying{from: &localSide{}, to: full, chunks: make(chan []byte, 1)}
	c.chunks <- nil
	from := filepath.Join(t.TempDir(), "from")
	write(t, from, 10)
	info, err := os.Stat(from)
	require.NoError(t, err)
	_, err = c.file(t.Context(), from, "to", info)
	require.True(t, diskFull(err))
	require.ErrorContains(t, err, "no space left on device; what is copied is in "+partName("to", info)+", and the next run goes on from it")
	require.Error(t, c.report(t.Context(), CopyResult{Name: "from"}, err), "it ends the copy")
	require.NoError(t, c.report(t.Context(), CopyResult{Name: "from"}, errors.New("only this file")))
}

// fullSide has no room: its files are the device that never has.
type fullSide struct{ localSide }

func (f *fullSide) lstat(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist }
func (f *fullSide) create(string) (content, error)    { return os.OpenFile("/dev/full", os.O_RDWR, 0) }

// TestCopyManySmallFiles: their round trips overlap.
func TestCopyManySmallFiles(t *testing.T) {
	b := open(t)
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	for i := range 1000 {
		write(t, filepath.Join(from, fmt.Sprint(i%10), fmt.Sprint(i)), i)
	}
	stats, told := b.copy(t, true, filepath.Join(dir, "to"), from)
	require.Empty(t, told.failures())
	require.EqualValues(t, 1000, stats.Files)
	require.Equal(t, tree(t, from), tree(t, filepath.Join(dir, "to")))
}
