package reconnectingpty

import (
	"bytes"
	"slices"
)

// history is the last of what was written to the main screen, and the modes that held
// where it begins.
type history struct {
	buf   []byte
	start int // of the oldest byte
	size  int
	begin *modes // before the oldest byte
	cut   bool   // something was forgotten
}

func newHistory(size int) *history {
	return &history{buf: make([]byte, size), begin: newModes()}
}

// write adds b, and forgets as much as has no place any more.
func (h *history) write(b []byte) {
	if over := h.size + len(b) - len(h.buf); over > 0 {
		h.cut = true
		old := min(over, h.size)
		first, second := h.span(h.start, old)
		h.begin.feed(first, nil)
		h.begin.feed(second, nil)
		h.start, h.size = (h.start+old)%len(h.buf), h.size-old
		if lost := over - old; lost > 0 {
			h.begin.feed(b[:lost], nil)
			b = b[lost:]
		}
	}
	first, second := h.span((h.start+h.size)%len(h.buf), len(b))
	copy(second, b[copy(first, b):])
	h.size += len(b)
}

// span returns n bytes from an index on, in two pieces where they go around the end.
func (h *history) span(from, n int) (first, second []byte) {
	end := min(from+n, len(h.buf))
	return h.buf[from:end], h.buf[:n-(end-from)]
}

// unwrite takes the last n bytes back.
func (h *history) unwrite(n int) { h.size -= min(n, h.size) }

// replay returns what brings a fresh terminal to where the history ends, but for its
// last pending bytes, which are not part of anything whole yet. With lines above zero it
// goes back only so many lines.
func (h *history) replay(pending, lines int) []byte {
	first, second := h.span(h.start, h.size)
	b := slices.Concat(first, second)
	b = b[:max(0, len(b)-pending)]
	m, from := h.begin.clone(), 0
	if h.cut {
		from = firstLine(m, b)
	}
	if later := lastLines(b, lines); later > from {
		m.feed(b[from:later], nil)
		from = later
		if m.state != ground {
			from += firstLine(m, b[from:])
		}
	}
	out := m.restore(nil, true)
	return append(out, m.quiet(b[from:])...)
}

// firstLine feeds m with b up to the first line that begins outside of any sequence, and
// returns where that is.
func firstLine(m *modes, b []byte) int {
	for from := 0; ; {
		n := bytes.IndexByte(b[from:], '\n')
		if n < 0 {
			// Not one line: begin where a character does.
			for from < len(b) && (m.state != ground || b[from]&0xc0 == 0x80) {
				m.feed(b[from:from+1], nil)
				from++
			}
			return from
		}
		m.feed(b[from:from+n+1], nil)
		if from += n + 1; m.state == ground {
			return from
		}
	}
}

// lastLines returns where the last n lines begin; 0 for all.
func lastLines(b []byte, n int) int {
	if n <= 0 {
		return 0
	}
	at := len(b)
	for range n {
		if at = bytes.LastIndexByte(b[:at], '\n'); at < 0 {
			return 0
		}
	}
	return at + 1
}

// quiet returns b without what would make a terminal answer, beep, notify, or change
// anything but its screen. It uses the memory of b.
func (m *modes) quiet(b []byte) []byte {
	out, from := b[:0], 0
	m.feed(b, func(end int) {
		start := max(from, end-m.length)
		out = appendText(out, b[from:start])
		if m.seq.isQuiet() {
			out = append(out, b[start:end]...)
		} else if bytes.IndexByte(b[from:start], esc) >= 0 {
			out = append(out, can) // it cut another one off
		}
		from = end
	})
	return appendText(out, b[from:])
}

// appendText appends b without the controls that are heard or answered.
func appendText(out, b []byte) []byte {
	for {
		i := bytes.IndexAny(b, "\x05\x07")
		if i < 0 {
			return append(out, b...)
		}
		out, b = append(out, b[:i]...), b[i+1:]
	}
}

// isQuiet reports whether a terminal does with it nothing but show.
func (s *sequence) isQuiet() bool {
	switch s.kind {
	case kindEscape:
		return s.inter != 0 || s.final != 'Z' // DECID
	case kindCSI:
		return s.isQuietCSI()
	case kindOSC:
		number, text, _ := bytes.Cut(s.text, []byte(";"))
		switch string(number) {
		case "4", "5", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19":
			return !bytes.Contains(text, []byte("?"))
		case "9", "50", "51", "52", "60", "61", "99", "777", "1337":
			return false
		}
	case kindDCS:
		// Only what draws: sixel. Everything else asks, or defines keys.
		return len(s.text) > 0 && bytes.IndexByte(s.text, 'q') == bytes.IndexFunc(s.text, isFinal)
	case kindOther:
		return false
	}
	return true
}

func isFinal(r rune) bool { return r >= 0x20 && r < 0x30 || r >= 0x40 }

func (s *sequence) isQuietCSI() bool {
	switch s.final {
	case 'c', 'n', 'x', 'i': // device attributes, status, parameters; printing
		return false
	case 'J':
		return s.param(0, 0) != 3 // what the viewer's terminal scrolled away before is its own
	case 'p':
		return s.inter == '!' // the others ask for modes
	case 'q':
		return s.prefix != '>' // the terminal's version
	case 'u':
		return s.prefix != '?'
	case 't':
		return s.prefix == 0 && (s.params[0] == 22 || s.params[0] == 23) // else window operations and questions
	case 'w', 'y':
		return s.inter == 0
	case 'S':
		return s.prefix != '?' // graphics attributes
	}
	return true
}
