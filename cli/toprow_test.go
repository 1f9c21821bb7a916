package cli

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/charmbracelet/x/vt"
	"github.com/stretchr/testify/require"
)

// emulated is a real emulator's screen.
func emulated(t testing.TB, columns, rows int, output string) *vt.Emulator {
	t.Helper()
	e := vt.NewEmulator(columns, rows)
	drained := make(chan struct{})
	go func() { // its answers
		defer close(drained)
		_, _ = io.Copy(io.Discard, e)
	}()
	_, err := e.Write([]byte(output))
	require.NoError(t, err)
	require.NoError(t, e.InputPipe().(io.Closer).Close())
	<-drained
	return e
}

func firstRow(t testing.TB, columns, rows int, output string) string {
	t.Helper()
	first, _, _ := strings.Cut(emulated(t, columns, rows, output).Render(), "\n")
	return strings.TrimRight(first, "\r ")
}

// TestTopRow: what shells and the like show, on an emulator whose cursor is anywhere.
func TestTopRow(t *testing.T) {
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "\x1b[0;3%dmline\x1b[0m %d\r\n", i%8, i)
		}
		return b.String()
	}
	for name, test := range map[string]struct {
		output string
		known  bool
	}{
		"nothing":                {"", false},
		"less than a screen":     {lines(5), false},
		"more than a screen":     {lines(30) + "$ ", true},
		"cleared":                {"\x1b[H\x1b[2J\x1b[3J$ ls\r\na  b\r\n$ ", true},
		"cleared without home":   {"\x1b[2J", true},
		"an edited line":         {"\x1b[H\x1b[2J$ lss\b\x1b[K -l\b\b\b\x1b[1P\x1b[C\x1b[1@x", true},
		"found by grep":          {lines(30) + "\x1b[H\x1b[Ja \x1b[01;31m\x1b[Kmatch\x1b[m\x1b[K here\r\n", true},
		"wrapped":                {lines(24) + strings.Repeat("0123456789", 30) + "\r\n" + lines(3), true},
		"wide":                   {"\x1b[H\x1b[2J" + strings.Repeat("\u6f22\u5b57", 15) + "\r\n", true},
		"a prompt of two lines":  {lines(30) + "\x1b[32m~/src\x1b[0m\r\n> \x1b[A\x1b[K\x1b[33mnew\x1b[0m\r\n> ", true},
		"title and modes":        {lines(30) + "\x1b]0;title\x07\x1b[?2004h\x1b]8;;x\x1b\\link\x1b]8;;\x1b\\ $ ", true},
		"back from an editor":    {lines(30) + "$ vi\x1b[?1049h\x1b[H\x1b[2Jfile\x1b[24;1H:q\x1b[?1049l\r\n$ ", true},
		"in an editor":           {lines(30) + "\x1b[?1049h\x1b[H\x1b[2Jfile", false},
		"a scroll region":        {lines(30) + "\x1b[1;20r", false},
		"after a scroll region":  {lines(30) + "\x1b[1;20r\x1b[5;5Hx\x1b[r", false},
		"long after it":          {"\x1b[1;20r\x1b[r\x1b[24;1H" + lines(30), true},
		"a doubtful width":       {"\x1b[H\x1b[2J\U0001f600", false},
		"lines drawn by letters": {"\x1b[H\x1b[2J\x1b(0lqk\x1b(B", false},
		"a coloured background":  {"\x1b[H\x1b[2J\x1b[44m\x1b[K", false},
		"addressed":              {"\x1b[1;1Habc\x1b[K\x1b[1;3Hd", false},
		"addressed and erased":   {"\x1b[1;1H\x1b[Kabc\x1b[1;3Hd\x1b[24;1H", true},
		"back and forth":         {"\x1b[H\x1b[2Jone\r\ntwo\x1bM\x1bMzero\x1b[2;1H\x1b[1K", true},
		"saved":                  {"\x1b[H\x1b[2Ja\x1b7\x1b[31mb\r\nc\x1b8d", true},
		"cut sequences":          {"\x1b[H\x1b[2Jabc\x1b[3", true},
	} {
		t.Run(name, func(t *testing.T) {
			text, known := topRow([]byte(test.output), 80, 24)
			require.Equal(t, test.known, known)
			for _, began := range []int{1, 12, 24} {
				before := fmt.Sprintf("\x1b[%d;1H", began)
				if known && name != "cleared without home" {
					want := firstRow(t, 80, 24, before+test.output)
					require.Equal(t, want, firstRow(t, 80, 24, "\x1b[1;1H"+text), "begun on row %d", began)
				}
			}
		})
	}
}

// TestTopRowAgreesWithATerminal: at random. What is said to be known is so.
func TestTopRowAgreesWithATerminal(t *testing.T) {
	pieces := []string{
		"a", "bc", "word ", "\u6f22", "\u2500", "\r\n", "\r\n", "\r\n", "\r", "\b", "\t", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[J",
		"\x1b[2J", "\x1b[H", "\x1b[3;2H", "\x1b[C", "\x1b[2D", "\x1b[4G", "\x1b[2P", "\x1b[@", "\x1b[2X", "\x1b[31m",
		"\x1b[1;32m", "\x1b[m", "\x1b[0;4m", "\x1bM", "\x1bD", "\x1b[2d", "long enough for a row ",
		"\x1b[?1049h\x1b[Hx\r\n\x1b[2;2Hy\x1b[?1049l", "\x1b[?25l", "\x1b]0;t\x07",
	}
	// ESC E and CSI 1 J are left out: the emulator does not do what terminals do.
	const columns, rows = 11, 4
	known := 0
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 1))
		output := "\x1b[4;1H" // where the model begins
		for range 5 + random.IntN(60) {
			output += pieces[random.IntN(len(pieces))]
		}
		text, ok := topRow([]byte(output[6:]), columns, rows)
		if !ok {
			continue
		}
		known++
		require.Equal(t, firstRow(t, columns, rows, output), firstRow(t, columns, rows, "\x1b[1;1H"+text), "seed %d: %q", seed, output)
	}
	require.Greater(t, known, 500)
}

// FuzzTopRow: whatever a workspace shows, nothing breaks, and what is shown again fits.
func FuzzTopRow(f *testing.F) {
	f.Add([]byte("\x1b[H\x1b[2J\x1b[999999999999Cx\x1b[0;99999999999H\x1b[9999999@"), 80, 24)
	f.Add([]byte("\x1b[-5Cx\x1b[-1;-1H"), 1, 1)
	f.Fuzz(func(t *testing.T, output []byte, columns, rows int) {
		columns, rows = columns&0xff, rows&0xff
		_, _ = topRow(output, columns, rows)
	})
}

func BenchmarkTopRow(b *testing.B) {
	past := []byte(strings.Repeat("\x1b[1;32mfile\x1b[0m and what is in it\r\n", maxShown/40))
	for b.Loop() {
		if _, ok := topRow(past, 200, 50); !ok {
			b.Fatal("unknown")
		}
	}
}
