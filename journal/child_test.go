package journal

import (
	"bufio"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// children are programs that tell on stdout what they are about to do and what they
// have done: "append? text", "append text", and so on. The tests end them at a moment
// that they cannot know.
var children = map[string]func(dir string) error{"churn": churn, "steps": steps}

func child(t *testing.T, name, dir string, wrapper ...string) *exec.Cmd {
	args := append(wrapper, os.Args[0], dir)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childVariable+"="+name, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// churn appends and releases, and compacts all the time, until it is killed.
func churn(dir string) error {
	j, r, err := Open(dir, Options{SyncInterval: time.Millisecond, compactAbove: 2000})
	if err != nil {
		return err
	}
	fmt.Println("open")
	held := r.Records
	for n := 0; ; n++ {
		text := fmt.Sprint(os.Getpid(), ".", n, strings.Repeat("x", rand.IntN(400)))
		record, err := tellAppend(j, text)
		if err != nil {
			return err
		}
		held = append(held, record)
		for len(held) > 5 && (rand.IntN(2) == 0 || len(held) > 50) {
			at := rand.IntN(len(held))
			if err := tellRelease(j, held[at]); err != nil {
				return err
			}
			held = slices.Delete(held, at, at+1)
		}
	}
}

// steps does a little of everything in one thread, so that the system calls on its
// files come in the same order each time.
func steps(dir string) error {
	runtime.LockOSThread()
	j, r, err := Open(dir, Options{SyncInterval: time.Hour, compactAbove: 300})
	if err != nil {
		fmt.Println("refused", strings.ReplaceAll(err.Error(), "\n", " "))
		return nil
	}
	fmt.Println("open")
	held := r.Records
	for n := range 3 {
		for i := range 3 {
			record, err := tellAppend(j, fmt.Sprint(n, i, strings.Repeat("x", 200)))
			if err != nil {
				return err
			}
			held = append(held, record)
		}
		for _, record := range held[1:] {
			if err := tellRelease(j, record); err != nil {
				return err
			}
		}
		held = held[:1]
		j.retryAt = time.Time{}
		j.tend() // what the timer does
	}
	if err := j.Close(); err != nil {
		fmt.Println("failed", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return nil
}

func tellAppend(j *Journal, text string) (Record, error) {
	fmt.Println("append?", text)
	seq, err := j.Append([]byte(text))
	fmt.Println("append", text)
	return Record{Seq: seq, Data: []byte(text)}, err
}

func tellRelease(j *Journal, record Record) error {
	fmt.Println("release?", string(record.Data))
	err := j.Release(record.Seq)
	fmt.Println("release", string(record.Data))
	return err
}

// story is what a child told: what must be in the journal, and the one thing that may
// be, for the child ended in the middle of it.
type story struct {
	must    map[string]bool
	may     string
	refused string
	failed  string // what Close said
}

func (s *story) listen(line string) {
	verb, text, _ := strings.Cut(line, " ")
	switch verb {
	case "append?":
		s.may = text
	case "append":
		s.must[text], s.may = true, ""
	case "release?":
		delete(s.must, text)
		s.may = text
	case "release":
		s.may = ""
	case "refused":
		s.refused = text
	case "failed":
		s.failed = text
	}
}

// check compares the story with what was recovered.
func (s *story) check(t *testing.T, r Recovered) {
	t.Helper()
	got := map[string]bool{}
	for _, text := range texts(r) {
		require.False(t, got[text], "%.20s is there twice", text)
		got[text] = true
	}
	if s.may != "" && got[s.may] {
		s.must[s.may] = true
	}
	s.may = ""
	require.Equal(t, slices.Sorted(maps.Keys(s.must)), slices.Sorted(maps.Keys(got)))
	require.Zero(t, r.Damaged) // a kill may tear the write that is under way, no other
}

// TestKilled kills a real process 100 times at any moment. Nothing that it was told to
// be in the journal is missing in the next life, and nothing that was released is back.
func TestKilled(t *testing.T) {
	lives := 100
	if testing.Short() {
		lives = 10
	}
	dir, s, compacting := t.TempDir(), story{must: map[string]bool{}}, 0
	for range lives {
		cmd := child(t, "churn", dir)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		until, told := 1+rand.IntN(2000), 0
		for lines := bufio.NewScanner(stdout); lines.Scan(); told++ {
			s.listen(lines.Text())
			if told == until {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.ErrorContains(t, cmd.Wait(), "signal: killed")
		if _, err := os.Stat(filepath.Join(dir, newName)); err == nil {
			compacting++
		}
		j, r := open(t, dir, Options{})
		s.check(t, r)
		require.Nil(t, r.Gap)
		require.False(t, r.Clean)
		require.NoError(t, j.Close())
	}
	t.Logf("%d lives, %d of them ended during a compaction", lives, compacting)
}

// tampered runs the steps with strace, which does something at the n-th of these system
// calls on the journal's files. It tells whether there was an n-th.
func tampered(t *testing.T, dir, call string, n int, with string, s *story) (done bool) {
	log := filepath.Join(t.TempDir(), "strace")
	cmd := child(t, "steps", dir, "strace", "-f", "-q", "-o", log,
		"-P", dir, "-P", filepath.Join(dir, fileName), "-P", filepath.Join(dir, newName), "-P", filepath.Join(dir, lockName),
		"-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, with, n))
	output, err := cmd.Output()
	for line := range strings.Lines(string(output)) {
		s.listen(strings.TrimSuffix(line, "\n"))
	}
	trace, logErr := os.ReadFile(log)
	require.NoError(t, logErr)
	if strings.Contains(string(trace), "killed by SIGKILL") {
		return true
	}
	require.NoError(t, err, "%s", output)
	return strings.Contains(string(trace), "(INJECTED)")
}

// forEveryCall runs the steps once for each of their system calls.
func forEveryCall(t *testing.T, with string, check func(t *testing.T, dir string, s *story)) {
	if err := exec.Command("strace", "-f", "-q", "-o", os.DevNull, "true").Run(); err != nil {
		t.Skip("strace does not work here: ", err)
	}
	total := 0
	for _, call := range []string{"openat", "read", "write", "fsync", "renameat", "close"} {
		n := 0
		for done := true; done; {
			n++
			dir, s := t.TempDir(), &story{must: map[string]bool{"old": true}}
			j, _ := open(t, dir, Options{})
			add(t, j, "old")
			require.NoError(t, j.Close())
			done = tampered(t, dir, call, n, with, s)
			check(t, dir, s)
			if t.Failed() {
				t.Fatalf("after %s at %s number %d", with, call, n)
			}
		}
		t.Logf("%s: %d", call, n-1)
		total += n - 1
	}
	require.Greater(t, total, 60)
}

func TestKilledAtEverySystemCall(t *testing.T) {
	t.Parallel()
	forEveryCall(t, "signal=KILL", func(t *testing.T, dir string, s *story) {
		_, r := open(t, dir, Options{})
		s.check(t, r)
		require.Nil(t, r.Gap)
	})
}

// TestEverySystemCallFails has each call fail once. The journal repairs itself, or Open
// refuses and changes nothing.
func TestEverySystemCallFails(t *testing.T) {
	t.Parallel()
	forEveryCall(t, "error=ENOSPC", func(t *testing.T, dir string, s *story) {
		_, r := open(t, dir, Options{})
		s.check(t, r)
		require.Nil(t, r.Gap)
		switch {
		case s.refused != "":
			require.True(t, strings.HasPrefix(s.refused, "open journal: "), s.refused)
		case s.failed != "":
			t.Log("Close: ", s.failed)
		default:
			require.True(t, r.Clean)
		}
	})
}
