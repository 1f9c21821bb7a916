package reconnectingpty

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/charmbracelet/x/vt"
	"github.com/stretchr/testify/require"
)

// known is what two terminals must have in common.
func known(m *modes) string {
	c := m.clone()
	c.parser, c.saved = parser{}, [2]saved{}
	for i, set := range c.charsets {
		if set == [2]byte{} {
			c.charsets[i] = [2]byte{"()*+"[i], 'B'}
		}
	}
	for n, on := range c.private {
		if on == (n == 7 || n == 25) { // as it is at first
			delete(c.private, n)
		}
	}
	for n, on := range c.ansi {
		if !on {
			delete(c.ansi, n)
		}
	}
	return fmt.Sprintf("%+v", c)
}

func follow(pieces ...[]byte) *modes {
	m := newModes()
	for _, b := range pieces {
		m.feed(b, nil)
	}
	return m
}

var streams = []string{
	"",
	"plain\r\n",
	"\x1b[?2004h\x1b[?1h\x1b=\x1b[?25l",
	"\x1b[?1000h\x1b[?1002h\x1b[?1006h\x1b[?1003h\x1b[?1003l\x1b[?1002h",
	"\x1b]0;both\x07\x1b]2;a title; with more\x1b\\\x1b]1;icon\x07",
	"\x1b[1;4:3;38;5;208;48:2::1:2:3;58;2;9;8;7;53mcurly\x1b[22m",
	"\x1b[31mred\x1b[91;104mbright\x1b[24;27;39m\x1b[7;9;21m",
	"\x1b(0lqqk\x1b)B\x0e\x1b*A\x1bn",
	"\x1b[3;10r\x1b[?6h\x1b[4h\x1b[?7l",
	"\x1b[?69h\x1b[5;20s",
	"\x1b[5 q\x1b]12;#ff0000\x07\x1b]11;?\x07\x1b]10;red\x1b\\\x1b]110\x07",
	"\x1b]8;id=1;https://fairlead.dev/\x1b\\link",
	"\x1b[>1u\x1b[>5u\x1b[=3;2u\x1b[>4;2m",
	"\x1b[?25l\x1b[1m\x1b[!pafter",
	"\x1b[1m\x1b[?1h\x1bcafter",
	"\x1b]2;never ended\x18\x1b[32m\x1b[3\x1b[4m",
	"e\u0301 \u6f22\u5b57 \U0001f469\u200d\U0001f52c \x1b[48;5;17m",
}

func TestRestoreBringsTheModesBack(t *testing.T) {
	for _, s := range streams {
		was := follow([]byte(s))
		now := follow([]byte(reset), was.restore(nil, true))
		require.Equal(t, known(follow([]byte(reset), []byte(s))), known(now), "%q", s)
	}
}

// FuzzModes: the parser never depends on how a stream is cut, and what it restores it
// understands; a history of any stream can be replayed.
func FuzzModes(f *testing.F) {
	for _, s := range streams {
		f.Add([]byte(s), uint8(3))
	}
	f.Add([]byte("a\x1b[?1049hb\x1b[?1049lc\x1b[?47;1h"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		whole := follow(b)
		var pieces [][]byte
		for piece := range slices.Chunk(b, int(n)+1) {
			pieces = append(pieces, piece)
		}
		cut := follow(pieces...)
		require.Equal(t, known(whole), known(cut))
		require.Equal(t, whole.parser.state, cut.parser.state)
		require.Equal(t, whole.parser.length, cut.parser.length)

		if whole.alt == 0 {
			again := follow(whole.restore(nil, true))
			once := again.restore(nil, true)
			require.Equal(t, string(once), string(follow(once).restore(nil, true)))
			require.Equal(t, ground, again.parser.state)
		}
		h := newHistory(64)
		for _, piece := range pieces {
			h.write(piece)
		}
		h.replay(0, 0)
		h.replay(min(3, h.size), 2)

		quiet := newModes().quiet(bytes.Clone(b))
		require.Equal(t, string(quiet), string(newModes().quiet(bytes.Clone(quiet))))
	})
}

func TestQuietLeavesOutWhatIsAnswered(t *testing.T) {
	for loud, rest := range map[string]string{
		"a\x1b[cb": "ab", "a\x1b[>cb": "ab", "a\x1b[6nb": "ab", "a\x1b[?6nb": "ab",
		"a\x07b\x05c": "abc", "a\x1b]52;c;Zm9v\x07b": "ab", "a\x1b]11;?\x1b\\b": "ab", "a\x1b[?2026$pb": "ab",
		"a\x1bP$qm\x1b\\b": "ab", "a\x1bP+q544e\x1b\\b": "ab", "a\x1b[>qb": "ab", "a\x1b[?ub": "ab", "a\x1b[18tb": "ab",
		"a\x1b[3Jb": "ab", "a\x1b]9;note\x07b": "ab", "a\x1bZb": "ab", "a\x1b[5ib": "ab", "a\x1b_Gi=1;\x1b\\b": "ab",
	} {
		require.Equal(t, rest, string(newModes().quiet([]byte(loud))), "%q", loud)
	}
	for _, kept := range append(slices.Clone(streams[:9]), "\x1b[2J\x1b[H\x1b[5;5Hx", "\x1b[!p", "\x1b[2 q", "\x1b[>4;2m", "\x1b[22t", "\x1bP0;1;0q#1~~\x1b\\") {
		require.Equal(t, kept, string(newModes().quiet([]byte(kept))), "%q", kept)
	}
}

// emulate returns the screen that a terminal of 80x24 shows after b.
func emulate(t *testing.T, b []byte) string {
	t.Helper()
	e := newEmulator(80, 24)
	defer e.Close()
	_, err := e.Write(b)
	require.NoError(t, err)
	return e.screen()
}

// emulator is a real terminal emulator.
type emulator struct {
	*vt.Emulator
	drained chan struct{}
}

func newEmulator(columns, rows int) *emulator {
	e := &emulator{vt.NewEmulator(columns, rows), make(chan struct{})}
	go func() {
		defer close(e.drained)
		b := make([]byte, 1024)
		for {
			if _, err := e.Read(b); err != nil { // its answers
				return
			}
		}
	}()
	return e
}

func (e *emulator) Close() {
	_ = e.InputPipe().(interface{ Close() error }).Close()
	<-e.drained
}

func (e *emulator) screen() string {
	p := e.CursorPosition()
	return fmt.Sprintf("%s\ncursor %d,%d", e.Render(), p.X, p.Y)
}

// A history that has forgotten most shows the same screen as all of it would: over
// random streams of what line by line programs write.
func TestReplayOfWhatIsLeftShowsTheSame(t *testing.T) {
	bits := []string{
		"some text ", "\x1b[1m", "\x1b[31;42m", "\x1b[0m", "\x1b[38;5;99m", "\u6f22\u5b57", "e\u0301", "tab\t", "back\b\b",
		"\x1b(0qqx\x1b(B", "\x1b[K", "\x1b]0;title\x07", "\x1b[6n", "\rover", "\x1b[?2004h", "\x1b[?2004l",
		"\r\n\x1b[?1049h\x1b[2J\x1b[5;5Hsecret\x1b[?1049l", "\r\n\x1b[4m\x1b[?1049hx\x1b[0;7m\x1b[!p\x1b[?1049l", strings.Repeat("long ", 30),
	}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var stream []byte
		for range 400 {
			stream = append(stream, bits[r.IntN(len(bits))]...)
			if r.IntN(3) == 0 {
				stream = append(stream, "\r\n"...)
			}
		}
		term := &terminal{history: newHistory(16 << 10), modes: newModes()}
		for at := 0; at < len(stream); {
			n := min(1+r.IntN(500), len(stream)-at)
			term.remember(stream[at:at+n], uint64(at))
			at += n
		}
		replay := append([]byte(reset+"\x1b[H\x1b[2J"), term.history.replay(0, 0)...)
		require.Equal(t, emulate(t, stream), emulate(t, replay), "seed %d", seed)
		replay = append([]byte(reset+"\x1b[H\x1b[2J"), term.history.replay(0, 48)...)
		require.Equal(t, emulate(t, stream), emulate(t, replay), "seed %d, the last lines only", seed)
	}
}

func TestHistoryBeginsAtALineWithItsModes(t *testing.T) {
	h := newHistory(64)
	h.write([]byte("\x1b[1;35mbegin" + strings.Repeat("x", 50) + "\n"))
	h.write([]byte("second line\nthird " + strings.Repeat("y", 20)))
	require.True(t, h.cut)
	replay := string(h.replay(0, 0))
	_, text, ok := strings.Cut(replay, "\x1b]8;;\x1b\\")
	require.True(t, ok)
	require.Equal(t, "second line\nthird "+strings.Repeat("y", 20), text)
	require.Contains(t, replay, "\x1b[0;1;35m")
}

func BenchmarkRemember(b *testing.B) {
	for name, line := range map[string]string{
		"plain":    strings.Repeat("0123456789", 7) + "\r\n",
		"coloured": strings.Repeat("\x1b[01;34mdirectory\x1b[0m  \x1b[32mfile\x1b[0m ", 3) + "\r\n",
		"binary":   "\x00\x01\x02\xff\xfe\x1b]2;\x80\x81",
	} {
		b.Run(name, func(b *testing.B) {
			piece := bytes.Repeat([]byte(line), 1+4096/len(line))[:4096]
			t := &terminal{history: newHistory(DefaultHistory), modes: newModes()}
			b.SetBytes(int64(len(piece)))
			for b.Loop() {
				t.remember(piece, 0)
			}
		})
	}
}
