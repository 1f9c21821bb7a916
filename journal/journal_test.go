package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/testutil"
)

// open opens a journal that the test closes at its end, if it has not done so.
func open(t testing.TB, dir string, o Options) (*Journal, Recovered) {
	t.Helper()
	j, r, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = j.Close() })
	return j, r
}

// die gives up a journal as a killed process does: nothing is written any more, and the
// kernel closes its files.
func (j *Journal) die() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	<-j.stopped
	if j.file != nil {
		_ = j.file.Close()
	}
	_ = j.lock.Close()
	j.closing = func() error { return nil }
}

func add(t testing.TB, j *Journal, text string) uint64 {
	t.Helper()
	seq, err := j.Append([]byte(text))
	require.NoError(t, err)
	return seq
}

func texts(r Recovered) (all []string) {
	for _, record := range r.Records {
		all = append(all, string(record.Data))
	}
	return all
}

func TestWhatWasNotReleasedComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "journal")
	j, r := open(t, dir, Options{})
	require.Equal(t, Recovered{First: true}, r)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	a, b, c := add(t, j, "a"), add(t, j, ""), add(t, j, "c")
	require.Less(t, a, b)
	require.NoError(t, j.Release(b, 4711))
	require.NoError(t, j.Release())
	j.die()

	j, r = open(t, dir, Options{})
	require.Equal(t, []Record{{Seq: a, Data: []byte("a")}, {Seq: c, Data: []byte("c")}}, r.Records)
	require.False(t, r.First)
	require.False(t, r.Clean)
	require.True(t, r.SameBoot)
	require.Nil(t, r.Gap, "the machine went on, so everything is there")
	require.WithinDuration(t, time.Now(), r.LastSign, time.Minute)
	d := add(t, j, "d")
	require.Greater(t, d, c, "numbers go on")
	require.NoError(t, j.Release(a, c, d))
	require.NoError(t, j.Close())
	require.NoError(t, j.Close(), "twice is once")
	_, err = j.Append(nil)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, j.Release(a), ErrClosed)
	j.Touch()

	for range 2 { // the second file has never seen a record
		j, r = open(t, dir, Options{})
		require.True(t, r.Clean)
		require.Empty(t, r.Records)
		require.NoError(t, j.Close())
	}
	j, _ = open(t, dir, Options{})
	require.Greater(t, add(t, j, "e"), d, "also when no record is left")
}

func TestNil(t *testing.T) {
	var j *Journal
	seq, err := j.Append([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, j.Release(seq))
	j.Touch()
	require.NoError(t, j.Degraded())
	require.NoError(t, j.Close())
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{{MaxBytes: -1}, {MaxBytes: 1<<30 + 1}, {SyncInterval: -1}} {
		dir := filepath.Join(t.TempDir(), "journal")
		_, _, err := Open(dir, o)
		require.ErrorContains(t, err, "open journal: MaxBytes must be")
		require.NoDirExists(t, dir)
	}
}

func TestDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, _, err := Open(filepath.Join(file, "journal"), Options{})
	require.ErrorContains(t, err, "open journal: mkdir "+file)
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	_, _, err := Open(dir, Options{})
	require.EqualError(t, err, "open journal: another process uses the directory "+dir)
	require.NoError(t, j.Close())
	open(t, dir, Options{})
}

// TestHowTheFormerLifeEnded: with other boot ids, since a test cannot boot the machine.
func TestHowTheFormerLifeEnded(t *testing.T) {
	for _, test := range []struct {
		name                  string
		close, boot           bool
		clean, sameBoot, lost bool
	}{
		{name: "closed", close: true, clean: true, sameBoot: true},
		{name: "killed", sameBoot: true},
		{name: "closed before a boot", close: true, boot: true, clean: true},
		{name: "power loss", boot: true, lost: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, before := t.TempDir(), time.Now()
			j, _ := open(t, dir, Options{boot: "one", SyncInterval: time.Hour})
			add(t, j, "x")
			after := time.Now()
			if test.close {
				require.NoError(t, j.Close())
			} else {
				j.die()
			}
			second := Options{boot: "one"}
			if test.boot {
				second.boot = "two"
			}
			_, r := open(t, dir, second)
			require.Equal(t, []string{"x"}, texts(r))
			require.Equal(t, test.clean, r.Clean)
			require.Equal(t, test.sameBoot, r.SameBoot)
			require.Equal(t, test.lost, r.Gap != nil)
			if r.Gap != nil {
				require.False(t, r.Gap.From.Before(before), "what came before was synced")
				require.False(t, r.Gap.From.After(after))
				require.False(t, r.Gap.To.Before(after))
			}
		})
	}
}

// TestGapIsNotWiderThanNeeded: what was written before a long silence was synced in it.
func TestGapIsNotWiderThanNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j, _ := open(t, dir, Options{boot: "one"})
		add(t, j, "synced")
		<-time.After(time.Hour)
		from := time.Now()
		add(t, j, "not")
		<-time.After(time.Second / 2)
		add(t, j, "not")
		j.die()
		<-time.After(time.Minute)
		j, r := open(t, dir, Options{boot: "two"})
		require.True(t, from.Equal(r.Gap.From), r.Gap.From)
		require.True(t, from.Add(time.Second/2).Equal(r.LastSign))
		add(t, j, "synced")
		<-time.After(time.Hour)
		j.Touch()
		last := time.Now()
		j.die()
		_, r = open(t, dir, Options{boot: "three"})
		require.True(t, last.Equal(r.Gap.From))
		require.True(t, last.Equal(r.LastSign))
	})
}

func TestUnknownBootIsAnother(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	j.o.boot = "" // as where there is no boot id
	require.NoError(t, j.rewrite())
	j.die()
	_, r := open(t, dir, Options{})
	require.False(t, r.SameBoot)
	require.NotNil(t, r.Gap)
}

func TestFull(t *testing.T) {
	j, _ := open(t, t.TempDir(), Options{MaxBytes: 300})
	a := add(t, j, strings.Repeat("a", 100))
	add(t, j, strings.Repeat("b", 100))
	_, err := j.Append(nil)
	require.ErrorIs(t, err, ErrFull, "20 bytes are left, a frame has 40")
	require.NoError(t, j.Release(a))
	add(t, j, strings.Repeat("c", 100))
	_, err = j.Append(make([]byte, 301))
	require.ErrorIs(t, err, ErrFull)
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	add(t, j, "x")
	require.NoError(t, j.Close())
	path := filepath.Join(dir, fileName)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[8] = 2
	require.NoError(t, os.WriteFile(path, data, 0o600))

	_, _, err = Open(dir, Options{})
	require.EqualError(t, err, "open journal "+path+": it has format 2 and this program knows 1 only: start the newer Fairlead again, or move the file away")
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, now)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "the lock and the journal")

	data[8] = 1
	require.NoError(t, os.WriteFile(path, data, 0o600))
	_, r := open(t, dir, Options{})
	require.Equal(t, []string{"x"}, texts(r), "and the lock is free")
}

func TestDamagedHeadIsSetAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	for _, damaged := range []string{"", "short", strings.Repeat("not a journal", 50), magic + "\x01\x00\x00\x00" + strings.Repeat("x", 200)} {
		require.NoError(t, os.WriteFile(path, []byte(damaged), 0o600))
		j, r := open(t, dir, Options{})
		require.Equal(t, 1, r.Damaged)
		require.False(t, r.First || r.Clean)
		require.True(t, r.Gap.From.IsZero())
		aside, err := os.ReadFile(filepath.Join(dir, damagedName))
		require.NoError(t, err)
		require.Equal(t, damaged, string(aside))
		add(t, j, "x")
		j.die()
		j, r = open(t, dir, Options{})
		require.Equal(t, []string{"x"}, texts(r))
		require.NoError(t, j.Close())
	}
}

func TestTornTailIsCut(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	j, _ := open(t, dir, Options{})
	add(t, j, "whole")
	add(t, j, "torn")
	j.die()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()-1))

	j, r := open(t, dir, Options{})
	require.Equal(t, []string{"whole"}, texts(r))
	require.Equal(t, frameSize+len("torn")-1, r.Torn)
	require.Zero(t, r.Damaged)
	add(t, j, "next")
	j.die()
	_, r = open(t, dir, Options{})
	require.Equal(t, []string{"whole", "next"}, texts(r))
	require.Zero(t, r.Torn, "it was cut off for good")
}

func TestDamageInsideIsSkippedAndShown(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	j, _ := open(t, dir, Options{})
	for _, text := range []string{"one", "two", "three", "four", "five"} {
		add(t, j, text)
	}
	j.die()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[bytes.Index(data, []byte("two"))]++
	data[bytes.Index(data, []byte("four"))-frameSize+8]++ // its length
	require.NoError(t, os.WriteFile(path, data, 0o600))

	j, r := open(t, dir, Options{})
	require.Equal(t, []string{"one", "three", "five"}, texts(r))
	require.Equal(t, 2, r.Damaged)
	require.Zero(t, r.Torn)
	require.NotNil(t, r.Gap)
	require.False(t, r.Gap.From.IsZero())
	j.die()
	_, r = open(t, dir, Options{})
	require.Equal(t, []string{"one", "three", "five"}, texts(r))
	require.Zero(t, r.Damaged)
	require.Nil(t, r.Gap, "told once")
}

func TestForgedFrameInARecord(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, Options{})
	forged := appendFrame(nil, j.salt+1, frame{kind: kindRecord, seq: 100, data: []byte("forged")})
	add(t, j, string(forged))
	j.die()
	path := filepath.Join(dir, fileName)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[headSize]++ // the frame around it is not one any more
	require.NoError(t, os.WriteFile(path, data, 0o600))
	_, r := open(t, dir, Options{})
	require.Empty(t, r.Records)
	require.Equal(t, frameSize+len(forged), r.Torn)
}

func TestTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j, _ := open(t, dir, Options{})
		size := j.size
		for range 1000 {
			j.Touch()
		}
		require.Equal(t, size+frameSize, j.size)
		<-time.After(20 * time.Second)
		require.False(t, j.dirty, "a sign needs no sync")
		add(t, j, "x")
		size = j.size
		<-time.After(SignInterval - 1)
		j.Touch()
		require.Equal(t, size, j.size, "the record was a sign")
		<-time.After(1)
		j.Touch()
		require.Equal(t, size+frameSize, j.size)
		last := time.Now()
		<-time.After(4 * time.Second)
		j.Touch()
		j.die()
		_, r := open(t, dir, Options{})
		require.True(t, last.Equal(r.LastSign))
	})
}

// TestSyncByTimer: a sync a second after the first write that it is for, and nothing
// that runs afterwards.
func TestSyncByTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _ := open(t, t.TempDir(), Options{})
		dirty := func() bool {
			synctest.Wait()
			j.mu.Lock()
			defer j.mu.Unlock()
			return j.dirty
		}
		require.False(t, dirty())
		for range 3 {
			<-time.After(time.Minute)
			seq := add(t, j, "x")
			<-time.After(999 * time.Millisecond)
			require.NoError(t, j.Release(seq))
			require.True(t, dirty())
			<-time.After(time.Millisecond)
			require.False(t, dirty())
			require.WithinDuration(t, time.Now(), j.synced, 0)
		}
		synced := j.synced
		<-time.After(time.Hour)
		synctest.Wait()
		require.Equal(t, synced, j.synced)
	})
}

// TestFailedFile: with a file descriptor that is gone, every write and sync fails at once.
func TestFailedFile(t *testing.T) {
	for _, call := range []string{"write", "sync"} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				logger, lines := testutil.NewLogRecorder(t)
				j, _ := open(t, dir, Options{Logger: logger})
				if call == "sync" {
					add(t, j, "unsynced")
				}
				require.NoError(t, j.file.Close())
				if call == "write" {
					add(t, j, "memory")
					require.ErrorIs(t, j.Degraded(), os.ErrClosed)
				}
				<-time.After(time.Second)
				synctest.Wait()
				require.NoError(t, j.Degraded())
				require.Len(t, lines.Records(), 2)
				add(t, j, "disk")
				require.NoError(t, j.Degraded())
				j.die()
				_, r := open(t, dir, Options{})
				require.Len(t, r.Records, 2)
				require.Equal(t, "disk", string(r.Records[1].Data))
				require.Nil(t, r.Gap)
			})
		})
	}
}

// TestDegraded blocks the new file with a directory of its name, which even root cannot
// write to.
func TestDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		blocker := filepath.Join(dir, newName)
		logger, lines := testutil.NewLogRecorder(t)
		j, _ := open(t, dir, Options{Logger: logger})
		a, b := add(t, j, "a"), add(t, j, "b")
		require.NoError(t, os.Mkdir(blocker, 0o700))
		j.mu.Lock()
		j.failLocked(errors.New("the disk is full"))
		j.mu.Unlock()
		since := time.Now()
		require.NoError(t, j.Release(a))
		c := add(t, j, "c")
		require.NoError(t, j.Release(c))
		add(t, j, "d")
		<-time.After(10 * time.Minute)
		j.Touch()
		require.ErrorContains(t, j.Degraded(), "is a directory")
		require.Len(t, lines.Records(), 1)
		require.Equal(t, maxBackoff, j.backoff)

		j.die() // what the next life sees if it comes to that
		touched := time.Now()
		<-time.After(time.Minute)
		j, r := open(t, dir, Options{Logger: logger})
		require.Equal(t, []string{"a", "b"}, texts(r))
		require.False(t, r.Clean)
		require.True(t, touched.Equal(r.LastSign))
		require.True(t, since.Equal(r.Gap.From))
		require.True(t, time.Now().Equal(r.Gap.To))
		require.Error(t, j.Degraded(), "this life cannot write either")
		add(t, j, "e")
		require.NoError(t, j.Release(b))
		<-time.After(time.Second + 1)
		require.NoError(t, os.Remove(blocker))
		<-time.After(2 * maxBackoff)
		synctest.Wait()
		require.NoError(t, j.Degraded())
		require.Len(t, lines.Records(), 3)
		require.Equal(t, "journal is on the disk again", lines.Records()[2].Message)
		j.die()
		_, r = open(t, dir, Options{})
		require.Equal(t, []string{"a", "e"}, texts(r))
		require.Nil(t, r.Gap)
	})
}

func TestCloseSaysWhatIsLost(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, Options{SyncInterval: time.Hour})
	require.NoError(t, j.file.Close())
	add(t, j, "x")
	require.NoError(t, os.Mkdir(filepath.Join(dir, newName), 0o700))
	require.ErrorContains(t, j.Close(), "close journal: what it holds in memory only is lost: open ")
	require.NoError(t, os.Remove(filepath.Join(dir, newName)))

	j, r := open(t, dir, Options{SyncInterval: time.Hour})
	require.False(t, r.Clean)
	require.NoError(t, j.file.Close())
	add(t, j, "x")
	require.NoError(t, j.Close(), "the last attempt has succeeded")
	_, r = open(t, dir, Options{})
	require.True(t, r.Clean)
	require.Equal(t, []string{"x"}, texts(r))
}

func TestCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		j, _ := open(t, dir, Options{})
		kept := []string{"first"}
		add(t, j, "first")
		for i := range 100 {
			for range 100 {
				require.NoError(t, j.Release(add(t, j, strings.Repeat("x", 300))))
			}
			kept = append(kept, fmt.Sprint("kept ", i))
			add(t, j, kept[i+1])
			<-time.After(time.Second)
			synctest.Wait()
			info, err := os.Stat(filepath.Join(dir, fileName))
			require.NoError(t, err)
			require.EqualValues(t, j.size, info.Size())
			require.Less(t, j.size, defaultCompactAbove+100*400+10_000)
		}
		j.die()
		_, r := open(t, dir, Options{})
		require.Equal(t, kept, texts(r))
	})
}

// TestManyAtOnce has writers and releasers race with constant compactions.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir, Options{SyncInterval: time.Microsecond, compactAbove: 1})
	var wg sync.WaitGroup
	kept := make([][]string, 4)
	for i := range kept {
		wg.Go(func() {
			for n := range 2000 {
				text := fmt.Sprint(i, " ", n)
				seq, err := j.Append([]byte(text))
				if err != nil {
					t.Error(err)
				}
				if n%10 != 0 {
					err = j.Release(seq)
				} else {
					kept[i] = append(kept[i], text)
				}
				if err != nil || j.Degraded() != nil {
					t.Error(err, j.Degraded())
				}
				j.Touch()
			}
		})
	}
	wg.Wait()
	j.die()
	_, r := open(t, dir, Options{})
	var all []string
	for _, texts := range kept {
		all = append(all, texts...)
	}
	require.ElementsMatch(t, all, texts(r))
	for i := range r.Records[1:] {
		require.Less(t, r.Records[i].Seq, r.Records[i+1].Seq)
	}
}

func BenchmarkAppend(b *testing.B) {
	j, _ := open(b, b.TempDir(), Options{MaxBytes: 1 << 30})
	data := make([]byte, 300)
	var seqs []uint64
	b.ReportAllocs()
	for b.Loop() {
		seq, err := j.Append(data)
		if err != nil {
			b.Fatal(err)
		}
		if seqs = append(seqs, seq); len(seqs) == 1000 {
			b.StopTimer()
			_ = j.Release(seqs...)
			seqs = seqs[:0]
			b.StartTimer()
		}
	}
}

func BenchmarkAppendAndRelease(b *testing.B) {
	j, _ := open(b, b.TempDir(), Options{})
	data := make([]byte, 300)
	b.ReportAllocs()
	for b.Loop() {
		seq, err := j.Append(data)
		if err != nil {
			b.Fatal(err)
		}
		if err := j.Release(seq); err != nil {
			b.Fatal(err)
		}
	}
}
