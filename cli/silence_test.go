package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/client"
)

// silentFor is a workspace that has not been heard for a while.
type silentFor struct {
	since time.Time
	known string
}

func (s *silentFor) Interrupted() (time.Time, bool) { return s.since, !s.since.IsZero() }
func (s *silentFor) OutageLimit() time.Duration     { return time.Minute }
func (s *silentFor) Known() string                  { return s.known }

func testLine(workspace silent, columns int) (*silenceLine, *bytes.Buffer) {
	var shown bytes.Buffer
	return &silenceLine{
		out: &shown, workspace: workspace, columns: columns, rows: 24, size: func() (int, int) { return columns, 24 },
		repaint: make(chan struct{}, 1), quit: make(chan struct{}),
	}, &shown
}

// TestSilenceLine: it is there while the workspace is silent, with the keys that were
// dropped meanwhile, and what it covered is asked for when it goes.
func TestSilenceLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w silentFor
		l, shown := testLine(&w, 80)
		l.look()
		require.Empty(t, shown.String())
		require.False(t, l.Blocked())

		w.since = time.Now().Add(-4 * time.Second)
		l.look()
		require.Contains(t, shown.String(), "fairlead: silent since "+w.since.Local().Format("15:04:05")+"; trying for 56s; keys not sent; ~. leaves\x1b[0m\x1b[K\x1b8")
		require.True(t, l.Blocked())
		l.Dropped([]byte("ls"))
		l.Dropped([]byte("\x1b[A"))
		l.Dropped([]byte("\x1b[<0;1;1M"))
		l.Dropped([]byte("\r"))
		require.Contains(t, shown.String(), "keys not sent (4);")
		require.Empty(t, l.repaint)

		w.since = time.Time{}
		shown.Reset()
		l.look()
		require.Equal(t, "\x1b7\x1b[?6l\x1b[1;1H\x1b(B\x0f\x1b[0m\x1b[2K\x1b[0m\x1b8", shown.String())
		require.Len(t, l.repaint, 1)
		require.False(t, l.Blocked())
	})
}

// TestSomethingToShowRemovesTheLine: before it is shown.
func TestSomethingToShowRemovesTheLine(t *testing.T) {
	w := silentFor{since: time.Now()}
	l, shown := testLine(&w, 80)
	l.look()
	shown.Reset()
	n, err := l.Write([]byte("back"))
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.True(t, strings.HasSuffix(shown.String(), "\x1b8back"), "%q", shown)
	require.Len(t, l.repaint, 1)
}

// TestNarrowSilenceLine: it never needs a second line.
func TestNarrowSilenceLine(t *testing.T) {
	for columns := range 200 {
		text := silenceText(columns, time.Now(), "", time.Minute, 1000)
		require.LessOrEqual(t, len(text), columns)
		if columns >= 60 {
			require.Contains(t, text, "keys not sent (1000); ~. leaves")
		}
		text = silenceText(columns, time.Now(), "no network here", time.Minute, 0)
		require.LessOrEqual(t, len(text), columns)
		if columns >= 79 {
			require.Contains(t, text, ", no network here; ")
			require.Contains(t, text, "1m")
			require.Contains(t, text, "keys not sent; ~. leaves")
		}
	}
}

// TestWhatTheLineCoveredIsShownAgain: where it is known, and then nobody is asked to paint.
func TestWhatTheLineCoveredIsShownAgain(t *testing.T) {
	w := silentFor{}
	l, shown := testLine(&w, 80)
	_, _ = l.Write([]byte("\x1b[H\x1b[2Jthe \x1b[1;34mfirst\x1b[0m line\r\nthe second"))
	for range 2 {
		w.since = time.Now()
		l.look()
		w.since = time.Time{}
		shown.Reset()
		l.look()
		require.Contains(t, shown.String(), "\x1b[2Kthe \x1b[0m\x1b[1;34mfirst\x1b[0m line\x1b[0m\x1b8")
		require.Empty(t, l.repaint)
	}
	w.since = time.Now()
	l.look()
	l.size = func() (int, int) { return 81, 24 }
	w.since = time.Time{}
	l.look()
	require.Len(t, l.repaint, 1, "on another size nothing is where it was")
	for range 10_000 {
		_, _ = l.Write([]byte("one line after the other\r\n"))
		require.LessOrEqual(t, len(l.past), 2*maxShown)
	}
	require.True(t, bytes.HasPrefix(l.past, []byte("one line")))
	_, _ = l.Write(bytes.Repeat([]byte("x"), 5*maxShown))
	require.Empty(t, l.past)
}

// TestNothingIsCutInTwo: wherever what is shown is cut, the terminal has whole characters
// and sequences when the line is painted, and all of it in the end.
func TestNothingIsCutInTwo(t *testing.T) {
	const text = "a\x1b[1;31mb\u6f22\u5b57\U0001f600\x1b]0;title\x1b\\c\x1b]8;;x\x07d\x1b(Be\x1bMf\x1b[?25l\x1b7\r\nend"
	whole := map[string]bool{"": true}
	for _, part := range []string{"a", "\x1b[1;31m", "b", "\u6f22", "\u5b57", "\U0001f600", "\x1b]0;title\x1b\\", "c", "\x1b]8;;x\x07", "d", "\x1b(B", "e", "\x1bM", "f", "\x1b[?25l", "\x1b7", "\r", "\n", "e", "n", "d"} {
		last := ""
		for s := range whole {
			if len(s) > len(last) {
				last = s
			}
		}
		whole[last+part] = true
	}
	for cut := range len(text) + 1 {
		l, shown := testLine(&silentFor{}, 80)
		_, _ = l.Write([]byte(text[:cut]))
		require.True(t, whole[shown.String()], "%d: %q", cut, shown)
		_, _ = l.Write([]byte(text[cut:]))
		l.close()
		require.Equal(t, text, shown.String())
	}
	l, shown := testLine(&silentFor{}, 80)
	picture := "\x1bPq" + strings.Repeat("~", 1000)
	_, _ = l.Write([]byte(picture))
	require.Equal(t, picture, shown.String(), "what is too long does not wait")
}

// TestKeysAreDroppedWhileItIsShown: and come through again behind it; leaving works.
func TestKeysAreDroppedWhileItIsShown(t *testing.T) {
	w := silentFor{since: time.Now()}
	l, _ := testLine(&w, 80)
	l.look()
	keys := &pieces{all: []string{"rm -rf x\r", "\x1b[A", "back", "x~", "."}}
	keys.before = func(next string) {
		if next == "back" {
			w.since = time.Time{}
			l.look()
		}
		if next == "x~" {
			w.since = time.Now()
			l.look()
		}
	}
	r := client.NewEscapeReader(keys, nil)
	r.Behind(l)
	b := make([]byte, 100)
	n, err := r.Read(b)
	require.NoError(t, err)
	require.Equal(t, "back", string(b[:n]))
	_, err = r.Read(b)
	require.ErrorIs(t, err, client.ErrLeave, "not at the beginning of a line")
}

// pieces are read one by one.
type pieces struct {
	all    []string
	before func(next string)
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.all) == 0 {
		return 0, io.EOF
	}
	p.before(p.all[0])
	n := copy(b, p.all[0])
	p.all = p.all[1:]
	return n, nil
}
