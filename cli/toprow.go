package cli

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// topRow is what to write on an empty first row of a terminal to show there what it shows
// after history. It reports false where that cannot be told: what was shown before history
// began is not known, and of programs that use more of a terminal than shells and the like
// do, nothing is followed. A history that was cut begins at a line.
func topRow(history []byte, columns, rows int) (text string, ok bool) {
	if columns < 1 || rows < 1 {
		return "", false
	}
	s := &mainScreen{columns: columns, rows: rows, grid: make([]*screenRow, rows), y: rows - 1, odd: map[string]bool{}}
	for len(history) > 0 {
		n := s.take(history)
		history = history[n:]
	}
	if s.alternate || len(s.odd) > 0 || s.grid[0] == nil {
		return "", false
	}
	return s.grid[0].render(), true
}

// mainScreen is as much of a terminal as programs need that print lines, edit one, and
// clear the screen. It begins as if the cursor were on the last row. That may be wrong
// until the screen was scrolled once or the cursor was put somewhere, but by then nothing
// is left of what was on wrong rows.
type mainScreen struct {
	columns, rows int
	grid          []*screenRow // nil: unknown
	x, y          int
	wrap          bool            // the next character goes to the next row
	sure          bool            // y is where the cursor is
	pen           string          // the sequences that set it, after a reset
	graphics      bool            // letters are shown as lines
	alternate     bool            // the other screen is shown
	odd           map[string]bool // modes that are set and not followed
	saved         struct {
		x, y int
		pen  string
	}
}

// screenRow is the beginning of a row; what is missing is blank.
type screenRow struct{ cells []screenCell }

// screenCell is one column. That of the right half of a wide character has no text.
type screenCell struct{ text, pen string }

var blank = screenCell{text: " "}

// render returns what shows the row.
func (r *screenRow) render() string {
	cells := r.cells
	for len(cells) > 0 && cells[len(cells)-1] == blank {
		cells = cells[:len(cells)-1]
	}
	var out strings.Builder
	pen := ""
	for _, c := range cells {
		if c.pen != pen {
			out.WriteString("\x1b[0m" + c.pen)
			pen = c.pen
		}
		out.WriteString(c.text)
	}
	return out.String()
}

// take follows one character or sequence and returns its length.
func (s *mainScreen) take(b []byte) int {
	switch c := b[0]; {
	case c == 0x1b:
		return s.escape(b)
	case c < 0x20 || c == 0x7f:
		s.control(c)
		return 1
	}
	r, n := utf8.DecodeRune(b)
	s.print(r, string(b[:n]))
	return n
}

func (s *mainScreen) control(c byte) {
	if s.alternate && c != 0x0e && c != 0x0f {
		return
	}
	switch c {
	case '\n', '\v', '\f':
		s.unwrap()
		s.down()
	case '\r':
		s.x, s.wrap = 0, false
		s.setOdd("column", false)
	case '\b':
		s.x, s.wrap = max(s.x-1, 0), false
	case '\t':
		s.unwrap()
		s.x = min((s.x/8+1)*8, s.columns-1)
	case 0x0e, 0x0f: // another character set
		s.setOdd("charset", c == 0x0e)
	}
}

// print shows one character. Of how many columns it takes, terminals have their own
// opinions, where it is none of the common ones: its row is unknown then.
func (s *mainScreen) print(r rune, text string) {
	if s.alternate {
		return
	}
	width, certain := columnsOf(r)
	if width == 0 {
		s.grid[s.y] = nil
		return
	}
	if width == 2 && s.x+width >= s.columns {
		s.setOdd("column", true) // some keep wide ones off the last column
	}
	if s.wrap || s.x+width > s.columns {
		s.x, s.wrap = 0, false
		s.down()
	}
	over := s.grid[s.y] != nil && s.x < len(s.grid[s.y].cells)
	if !certain || s.graphics || over && (width == 2 || s.grid[s.y].wide()) {
		s.grid[s.y] = nil
	}
	if line := s.grid[s.y]; line != nil {
		line.put(s.x, screenCell{text, s.pen})
		if width == 2 {
			line.put(s.x+1, screenCell{"", s.pen})
		}
	}
	s.x += width
	if s.x >= s.columns {
		s.x, s.wrap = s.columns-1, true
	}
}

// wide reports whether there are wide characters in a row that is known.
func (r *screenRow) wide() bool {
	return r != nil && slices.ContainsFunc(r.cells, func(c screenCell) bool { return c.text == "" })
}

func (r *screenRow) put(x int, c screenCell) {
	for len(r.cells) <= x {
		r.cells = append(r.cells, blank)
	}
	r.cells[x] = c
}

// columnsOf is how many columns a character takes, and whether all terminals agree.
func columnsOf(r rune) (width int, certain bool) {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0, false
	case r < 0x300, r >= 0x370 && r < 0x530, r >= 0x2010 && r < 0x2060, r >= 0x2500 && r < 0x25a0:
		return 1, true
	case r >= 0x3041 && r < 0x3130, r >= 0x4e00 && r < 0xa000, r >= 0xac00 && r < 0xd7a4:
		return 2, true
	case r >= 0x1f300:
		return 2, false
	}
	return 1, false
}

// down moves to the next row, and scrolls at the last one.
func (s *mainScreen) down() {
	if s.alternate {
		return
	}
	if s.y < s.rows-1 {
		s.y++
		return
	}
	copy(s.grid, s.grid[1:])
	s.grid[s.rows-1] = &screenRow{}
}

// up moves to the row before, and scrolls back at the first one.
func (s *mainScreen) up() {
	s.unwrap()
	s.place()
	if s.y > 0 {
		s.y--
		return
	}
	copy(s.grid[1:], s.grid)
	s.grid[0] = &screenRow{}
}

// forget is for what is not followed.
func (s *mainScreen) forget() {
	clear(s.grid)
	s.sure = false
}

// unwrap is for what terminals do not agree on when the last column has been written: where
// the cursor is then is not followed up to the beginning of a line.
func (s *mainScreen) unwrap() {
	if s.wrap {
		s.setOdd("column", true)
		s.wrap = false
	}
}

// place makes the cursor's row the true one: from now on it is put there.
func (s *mainScreen) place() {
	if !s.sure {
		clear(s.grid)
		s.sure = true
	}
	s.wrap = false
}

// escape follows a sequence. One without its end is the last.
func (s *mainScreen) escape(b []byte) int {
	if len(b) < 2 {
		return len(b)
	}
	switch b[1] {
	case '[':
		for i := 2; i < len(b); i++ {
			if b[i] >= 0x40 && b[i] <= 0x7e {
				s.sequence(string(b[2:i]), b[i])
				return i + 1
			}
		}
		return len(b)
	case ']', 'P', '_', '^', 'X':
		end := len(b)
		if i := bytes.Index(b[2:], []byte("\x1b\\")); i >= 0 {
			end = 2 + i + 2
		}
		if i := bytes.IndexByte(b[2:end], 0x07); i >= 0 && b[1] == ']' {
			end = 2 + i + 1
		}
		return end
	}
	n := 1
	for n < len(b) && b[n] >= 0x20 && b[n] <= 0x2f {
		n++
	}
	if n < len(b) {
		s.short(b[1:n], b[n])
	}
	return min(n+1, len(b))
}

// short follows a sequence of ESC and few characters.
func (s *mainScreen) short(between []byte, final byte) {
	switch {
	case string(between) == "(":
		s.graphics = final != 'B'
	case len(between) > 0 || s.alternate:
	case final == '7':
		s.save()
	case final == '8':
		s.restore()
	case final == 'D', final == 'E':
		s.unwrap()
		if final == 'E' {
			s.x = 0
		}
		s.down()
	case final == 'M':
		s.up()
	case final == 'c':
		s.forget()
		s.pen, s.graphics = "", false
		clear(s.odd)
	}
}

func (s *mainScreen) save() {
	s.unwrap()
	s.saved.x, s.saved.y, s.saved.pen = s.x, s.y, s.pen
}

func (s *mainScreen) restore() {
	if !s.sure {
		s.forget() // it may have scrolled since
	}
	s.comeBack()
}

// comeBack puts the cursor where it was saved.
func (s *mainScreen) comeBack() {
	s.x, s.y, s.pen, s.wrap = s.saved.x, s.saved.y, s.saved.pen, false
}

// sequence follows CSI.
func (s *mainScreen) sequence(params string, final byte) {
	if strings.HasPrefix(params, "?") {
		if final == 'h' || final == 'l' {
			for _, mode := range strings.Split(params[1:], ";") {
				s.mode(mode, final == 'h')
			}
		}
		return
	}
	if final == 'm' {
		s.paint(params)
		return
	}
	if s.alternate || strings.ContainsAny(params, "<=>!\"'$ *") {
		return
	}
	n, second := numbers(params)
	switch final {
	case 'A', 'B', 'C', 'D', 'E', 'F', 'G', '`', 'd', 'H', 'f':
		s.move(final, n, second)
	case 'J', 'K', 'X', 'P', '@':
		s.erase(final, n)
	case 'L', 'M', 'S', 'T':
		s.forget()
	case 'r':
		s.setOdd("region", params != "")
	case 's':
		s.save()
	case 'u':
		s.restore()
	}
}

// numbers returns the first two parameters; 0 for those that are not there.
func numbers(params string) (first, second int) {
	a, b, _ := strings.Cut(params, ";")
	first, _ = strconv.Atoi(a)
	second, _ = strconv.Atoi(b)
	return first, second
}

func (s *mainScreen) mode(mode string, on bool) {
	switch mode {
	case "1049", "1047", "47":
		if mode == "1049" && on && !s.alternate {
			s.save()
		}
		if mode == "1049" && !on && s.alternate {
			s.comeBack()
		}
		if on == s.alternate { // terminals do not agree on what this does
			s.forget()
		}
		s.alternate = on
	case "6", "69": // origin, margins
		s.setOdd(mode, on)
	case "7": // wrap
		s.setOdd(mode, !on)
	}
}

// setOdd is for modes in which nothing is followed. What they leave behind is unknown.
func (s *mainScreen) setOdd(mode string, on bool) {
	if on || s.odd[mode] {
		s.forget()
	}
	if on {
		s.odd[mode] = true
	} else {
		delete(s.odd, mode)
	}
}

// paint sets the pen.
func (s *mainScreen) paint(params string) {
	sequence := "\x1b[" + params + "m"
	switch first, _, _ := strings.Cut(params, ";"); {
	case strings.Trim(params, "0;") == "":
		s.pen = ""
	case first == "" || first == "0":
		s.pen = sequence
	case len(s.pen)+len(sequence) <= 128:
		s.pen += sequence
	default: // nobody resets it
		s.forget()
		s.pen = sequence
	}
}

// move puts the cursor somewhere.
func (s *mainScreen) move(final byte, n, second int) {
	s.wrap = false
	by := min(max(n, 1), max(s.rows, s.columns))
	switch final {
	case 'C':
		s.x += by
	case 'D':
		s.x -= by
	case 'G', '`':
		s.x = by - 1
	case 'A', 'F':
		s.y -= by
	case 'B', 'E':
		s.y += by
	case 'd':
		s.place()
		s.y = by - 1
	default: // H, f
		s.place()
		s.y, s.x = by-1, max(second, 1)-1
	}
	if final == 'E' || final == 'F' {
		s.x = 0
	}
	s.x, s.y = min(max(s.x, 0), s.columns-1), min(max(s.y, 0), s.rows-1)
}

// erase makes cells blank, or moves those of a row.
func (s *mainScreen) erase(final byte, n int) {
	s.unwrap()
	background := painted(s.pen)
	wipe := func(y, from, to int) {
		switch line := s.grid[y]; {
		case background:
			s.grid[y] = nil
		case from == 0 && to >= s.columns:
			s.grid[y] = &screenRow{}
		case line.wide(): // half of a character may be left
			s.grid[y] = nil
		case line != nil && to >= s.columns:
			line.cells = line.cells[:min(from, len(line.cells))]
		case line != nil:
			for x := from; x < min(to, len(line.cells)); x++ {
				line.cells[x] = blank
			}
		}
	}
	switch final {
	case 'J':
		for y := range s.grid {
			if n == 2 || n == 0 && y > s.y || n == 1 && y < s.y {
				wipe(y, 0, s.columns)
			}
		}
		if n > 1 {
			return
		}
	case 'X':
		wipe(s.y, s.x, s.x+max(n, 1))
		return
	case 'P', '@':
		s.shift(final, min(max(n, 1), s.columns), background)
		return
	}
	switch n { // of J and K
	case 0:
		wipe(s.y, s.x, s.columns)
	case 1:
		wipe(s.y, 0, s.x+1)
	case 2:
		wipe(s.y, 0, s.columns)
	}
}

// shift deletes or inserts n cells at the cursor.
func (s *mainScreen) shift(final byte, n int, background bool) {
	line := s.grid[s.y]
	switch {
	case line == nil || s.x >= len(line.cells):
	case background, line.wide():
		s.grid[s.y] = nil
	case final == 'P':
		rest := line.cells[min(s.x+n, len(line.cells)):]
		line.cells = append(line.cells[:s.x:s.x], rest...)
	default:
		cells := append([]screenCell{}, line.cells[:s.x]...)
		for range n {
			cells = append(cells, blank)
		}
		cells = append(cells, line.cells[s.x:]...)
		line.cells = cells[:min(len(cells), s.columns)]
	}
}

// painted reports whether a pen may have a background.
func painted(pen string) bool {
	for _, sequence := range strings.Split(pen, "\x1b[") {
		for _, p := range strings.Split(strings.TrimSuffix(sequence, "m"), ";") {
			if p == "7" || strings.HasPrefix(p, "4") && p != "4" && !strings.HasPrefix(p, "4:") || strings.HasPrefix(p, "10") {
				return true
			}
		}
	}
	return false
}
