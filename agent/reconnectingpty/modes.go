package reconnectingpty

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

const (
	maxModes  = 64 // different numbers that are remembered
	maxKitty  = 8  // entries of the stack of keyboard modes
	noStyle   = -1
	textASCII = 'B'
)

// modes follows what a fresh terminal would have to be told to be in the state that a
// stream has brought about, but for what it shows and where its cursor is.
type modes struct {
	parser
	alt         uint16          // the mode that switched to the alternate screen; 0: the main one
	private     map[uint16]bool // DECSET and DECRST
	ansi        map[uint16]bool // SM and RM
	keypad      bool            // application keypad
	charsets    [4][2]byte      // of G0 to G3: the intermediate and the final; 0: ASCII
	shift       byte            // the set in use: 0 to 3
	cursorStyle int
	region      [2]uint16 // top and bottom of the scroll region; 0: not set
	margins     [2]uint16
	pen         pen
	title, icon string
	link        string // an open hyperlink
	colors      [3]string
	otherKeys   int        // modifyOtherKeys
	kitty       [2][]uint8 // stack of keyboard modes, of the main and the alternate screen
	saved       [2]saved   // with the cursor, of the main and the alternate screen
}

// saved is what a terminal saves and restores together with its cursor.
type saved struct {
	pen      pen
	charsets [4][2]byte
	shift    byte
}

// screen is 1 for the alternate one.
func (m *modes) screen() int {
	if m.alt != 0 {
		return 1
	}
	return 0
}

func (m *modes) saveCursor() { m.saved[m.screen()] = saved{m.pen, m.charsets, m.shift} }

func (m *modes) restoreCursor() {
	s := m.saved[m.screen()]
	m.pen, m.charsets, m.shift = s.pen, s.charsets, s.shift
}

func newModes() *modes {
	return &modes{private: map[uint16]bool{}, ansi: map[uint16]bool{}, cursorStyle: noStyle}
}

// clone returns a copy that can go its own way.
func (m *modes) clone() *modes {
	c := *m
	c.seq.text = slices.Clone(m.seq.text)
	c.private, c.ansi = maps.Clone(m.private), maps.Clone(m.ansi)
	c.kitty = [2][]uint8{slices.Clone(m.kitty[0]), slices.Clone(m.kitty[1])}
	return &c
}

// feed follows b. It calls on, if that is not nil, after each sequence.
func (m *modes) feed(b []byte, on func(end int)) {
	m.parser.feed(b, func(end int) {
		m.apply(&m.seq)
		if on != nil {
			on(end)
		}
	})
}

func (m *modes) apply(s *sequence) {
	switch s.kind {
	case kindControl:
		m.shift = 0
		if s.final == so {
			m.shift = 1
		}
	case kindEscape:
		m.applyEscape(s)
	case kindCSI:
		m.applyCSI(s)
	case kindOSC:
		m.applyOSC(s)
	}
}

func (m *modes) applyEscape(s *sequence) {
	switch s.inter {
	case 0:
	case '(', ')', '*', '+':
		m.charsets[s.inter-'('] = [2]byte{s.inter, s.final}
		return
	case '-', '.', '/':
		m.charsets[s.inter-'-'+1] = [2]byte{s.inter, s.final}
		return
	default:
		return
	}
	switch s.final {
	case '=', '>':
		m.keypad = s.final == '='
	case '7':
		m.saveCursor()
	case '8':
		m.restoreCursor()
	case 'n', 'o':
		m.shift = s.final - 'n' + 2
	case 'c': // RIS
		p, title, icon := m.parser, m.title, m.icon
		*m = *newModes()
		m.parser, m.title, m.icon = p, title, icon
	}
}

func (m *modes) applyCSI(s *sequence) {
	switch {
	case s.inter == 0 && s.prefix == 0:
		m.applyPlain(s)
	case s.inter == 0 && s.prefix == '?' && (s.final == 'h' || s.final == 'l'):
		for _, n := range s.params[:s.n] {
			m.setPrivate(n, s.final == 'h')
		}
	case s.prefix == '>' && s.final == 'm' && s.params[0] == 4:
		m.otherKeys = int(s.param(1, 0))
	case s.final == 'u' && s.inter == 0 && s.prefix != '?':
		m.setKitty(s)
	case s.prefix == 0 && s.inter == ' ' && s.final == 'q':
		m.cursorStyle = int(s.params[0])
	case s.prefix == 0 && s.inter == '!' && s.final == 'p':
		m.softReset()
	}
}

// isReset reports whether it is RIS.
func (s *sequence) isReset() bool { return s.kind == kindEscape && s.inter == 0 && s.final == 'c' }

// softReset is DECSTR.
func (m *modes) softReset() {
	for _, n := range []uint16{1, 6, 7, 25, 66, 69} {
		if _, ok := m.private[n]; ok {
			m.private[n] = n == 7 || n == 25
		}
	}
	// What was on is off from now on, which is not the same as nothing known.
	for n := range m.ansi {
		m.ansi[n] = false
	}
	for i := range m.charsets {
		m.charsets[i] = [2]byte{"()*+"[i], textASCII}
	}
	m.pen, m.shift, m.keypad = pen{}, 0, false
	m.region, m.margins = [2]uint16{}, [2]uint16{}
}

func (m *modes) applyPlain(s *sequence) {
	switch s.final {
	case 'm':
		m.pen.set(s)
	case 'h', 'l':
		for _, n := range s.params[:s.n] {
			remember(m.ansi, n, s.final == 'h')
		}
	case 'r':
		m.region = [2]uint16{s.param(0, 0), s.param(1, 0)}
	case 's':
		if m.private[69] {
			m.margins = [2]uint16{s.param(0, 0), s.param(1, 0)}
		} else {
			m.saveCursor()
		}
	case 'u':
		m.restoreCursor()
	}
}

func remember(in map[uint16]bool, n uint16, on bool) {
	if _, known := in[n]; known || len(in) < maxModes {
		in[n] = on
	}
}

func (m *modes) setPrivate(n uint16, on bool) {
	switch n {
	case 47, 1047, 1049:
		m.setAlternate(n, on)
	case 1048:
		if on {
			m.saveCursor()
		} else {
			m.restoreCursor()
		}
	case 3, 40, 2026: // do something once, or are for a moment only
	case 9, 1000, 1001, 1002, 1003:
		// One of them holds at a time.
		for _, other := range []uint16{9, 1000, 1001, 1002, 1003} {
			if _, known := m.private[other]; known {
				m.private[other] = false
			}
		}
		remember(m.private, n, on)
	default:
		remember(m.private, n, on)
	}
}

func (m *modes) setAlternate(n uint16, on bool) {
	switch {
	case on && m.alt == 0:
		if n == 1049 {
			m.saveCursor()
		}
		m.alt = n
	case !on && m.alt != 0:
		m.alt = 0
		if n == 1049 {
			m.restoreCursor()
		}
	}
}

// setKitty obeys the keyboard protocol of kitty: push, pop and set.
func (m *modes) setKitty(s *sequence) {
	stack := &m.kitty[m.screen()]
	switch s.prefix {
	case '>':
		if len(*stack) == maxKitty {
			*stack = slices.Delete(*stack, 0, 1)
		}
		*stack = append(*stack, uint8(s.params[0]))
	case '<':
		*stack = (*stack)[:max(0, len(*stack)-int(s.param(0, 1)))]
	case '=':
		if len(*stack) == 0 {
			*stack = append(*stack, 0)
		}
		flags, top := uint8(s.params[0]), &(*stack)[len(*stack)-1]
		switch s.param(1, 1) {
		case 1:
			*top = flags
		case 2:
			*top |= flags
		case 3:
			*top &^= flags
		}
	}
}

func (m *modes) applyOSC(s *sequence) {
	number, text, _ := bytes.Cut(s.text, []byte(";"))
	if !s.whole {
		return
	}
	switch n, err := strconv.Atoi(string(number)); {
	case err != nil:
	case n == 0:
		m.title, m.icon = string(text), string(text)
	case n == 1:
		m.icon = string(text)
	case n == 2:
		m.title = string(text)
	case n == 8:
		m.link = ""
		if _, uri, _ := bytes.Cut(text, []byte(";")); len(uri) > 0 {
			m.link = string(text)
		}
	case n >= 10 && n <= 12 && !bytes.Contains(text, []byte("?")):
		m.colors[n-10] = string(text)
	case n >= 110 && n <= 112:
		m.colors[n-110] = ""
	}
}

// reset is for a terminal in any state: it makes it a fresh one, as far as modes know,
// on the main screen. It may leave the cursor anywhere.
const reset = "\x18\x1b[?1047l\x1b[<99u\x1b[>4m\x1b[r\x1b[?6l\x1b[?69l\x1b[?7h\x1b[?25h\x1b[4l\x1b[20l\x1b[?1l\x1b[?5l\x1b>" +
	"\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l\x1b[?2004l\x1b[?2026l" +
	"\x0f\x1b(B\x1b)B\x1b*B\x1b+B\x1b[0m\x1b]8;;\x1b\\"

// restore appends what brings a terminal into this state. Where the cursor must stay as
// it is, what would move it is left out.
func (m *modes) restore(dst []byte, moveCursor bool) []byte {
	dst = restoreSet(dst, "\x1b[?", m.private, moveCursor)
	dst = restoreSet(dst, "\x1b[", m.ansi, true)
	if moveCursor {
		if m.margins != [2]uint16{} {
			dst = fmt.Appendf(dst, "\x1b[%d;%ds", m.margins[0], m.margins[1])
		}
		if m.region != [2]uint16{} {
			dst = appendRange(dst, m.region, 'r')
		}
	}
	keypad := byte('>')
	if m.keypad {
		keypad = '='
	}
	dst = append(dst, esc, keypad)
	dst = m.restoreKeys(dst, moveCursor)
	if m.cursorStyle != noStyle {
		dst = fmt.Appendf(dst, "\x1b[%d q", m.cursorStyle)
	}
	if m.title != "" {
		dst = fmt.Appendf(dst, "\x1b]2;%s\x1b\\", m.title)
	}
	if m.icon != "" {
		dst = fmt.Appendf(dst, "\x1b]1;%s\x1b\\", m.icon)
	}
	for i, c := range m.colors {
		if c != "" {
			dst = fmt.Appendf(dst, "\x1b]%d;%s\x1b\\", 10+i, c)
		}
	}
	dst = m.restoreCharsets(dst)
	dst = fmt.Appendf(m.pen.restore(dst), "\x1b]8;%s\x1b\\", cmp.Or(m.link, ";"))
	return dst
}

func appendRange(dst []byte, r [2]uint16, final byte) []byte {
	dst = append(dst, "\x1b["...)
	for i, n := range r {
		if i > 0 {
			dst = append(dst, ';')
		}
		if n > 0 {
			dst = strconv.AppendUint(dst, uint64(n), 10)
		}
	}
	return append(dst, final)
}

func (m *modes) restoreKeys(dst []byte, stacks bool) []byte {
	if m.otherKeys != 0 {
		dst = fmt.Appendf(dst, "\x1b[>4;%dm", m.otherKeys)
	}
	if !stacks {
		return dst
	}
	for _, flags := range m.kitty[m.screen()] {
		dst = fmt.Appendf(dst, "\x1b[>%du", flags)
	}
	return dst
}

func (m *modes) restoreCharsets(dst []byte) []byte {
	for i, set := range m.charsets {
		switch {
		case set[0] != 0:
			dst = append(dst, esc, set[0], set[1])
		case i < 2: // the two that a program may have changed back
			dst = append(dst, esc, "()"[i], textASCII)
		}
	}
	switch m.shift {
	case 0:
		return append(dst, si)
	case 1:
		return append(dst, so)
	default:
		return append(dst, esc, 'n'+m.shift-2)
	}
}

// restoreSet appends what is off before what is on: to turn one kind of mouse off would
// turn off another.
func restoreSet(dst []byte, begin string, set map[uint16]bool, moveCursor bool) []byte {
	for _, on := range []bool{false, true} {
		final := byte('l')
		if on {
			final = 'h'
		}
		for _, n := range slices.Sorted(maps.Keys(set)) {
			if set[n] != on || (!moveCursor && (n == 6 || n == 69)) {
				continue
			}
			dst = append(strconv.AppendUint(append(dst, begin...), uint64(n), 10), final)
		}
	}
	return dst
}
