package reconnectingpty

import "strconv"

// color is one that SGR sets; the zero value is the default.
type color struct {
	kind    uint8 // 0, 'i': the one of 256 in a, 't': red, green and blue
	a, b, c uint8
}

// pen is how text is written: the attributes of SGR.
type pen struct {
	on         uint16 // bit n: attribute n, 1 to 9; bit 10: overline
	underline  uint8  // the style of attribute 4, from 4:n; 0 and 1: a line
	fg, bg, ul color
}

const overline = 10

// set obeys an SGR sequence.
func (p *pen) set(s *sequence) {
	for i := 0; i < s.n; i++ {
		switch v := s.params[i]; {
		case v == 0:
			*p = pen{}
		case v == 4 && detail(s, i+1):
			p.on |= 1 << 4
			p.underline = uint8(s.params[i+1])
			if p.underline == 0 {
				p.on &^= 1 << 4
			}
		case v <= 9:
			p.on |= 1 << v
			if v == 4 {
				p.underline = 0
			}
		case v == 21:
			p.on |= 1 << 4
			p.underline = 2
		case v == 22:
			p.on &^= 1<<1 | 1<<2
		case v == 25:
			p.on &^= 1<<5 | 1<<6
		case v >= 23 && v <= 29:
			p.on &^= 1 << (v - 20)
		case v == 53:
			p.on |= 1 << overline
		case v == 55:
			p.on &^= 1 << overline
		default:
			i += p.setColor(s, i)
		}
		for detail(s, i+1) {
			i++
		}
	}
}

// detail reports whether parameter i exists and belongs to the one before it.
func detail(s *sequence, i int) bool { return i < s.n && s.isSub&(1<<i) != 0 }

// setColor obeys the colour at parameter i, and returns how many more belong to it.
func (p *pen) setColor(s *sequence, i int) (more int) {
	indexed := func(n uint16) color { return color{kind: 'i', a: uint8(n)} }
	switch v := s.params[i]; {
	case v >= 30 && v <= 37:
		p.fg = indexed(v - 30)
	case v == 38:
		more = extended(s, i, &p.fg)
	case v == 39:
		p.fg = color{}
	case v >= 40 && v <= 47:
		p.bg = indexed(v - 40)
	case v == 48:
		more = extended(s, i, &p.bg)
	case v == 49:
		p.bg = color{}
	case v == 58:
		more = extended(s, i, &p.ul)
	case v == 59:
		p.ul = color{}
	case v >= 90 && v <= 97:
		p.fg = indexed(v - 90 + 8)
	case v >= 100 && v <= 107:
		p.bg = indexed(v - 100 + 8)
	}
	return more
}

// extended reads 5;n, 2;r;g;b, 5:n, 2:r:g:b and 2::r:g:b behind parameter i.
func extended(s *sequence, i int, to *color) (more int) {
	end := s.n
	if detail(s, i+1) {
		for end = i + 1; detail(s, end); end++ {
		}
	}
	switch rest := s.params[i+1 : end]; {
	case len(rest) >= 2 && rest[0] == 5:
		*to, more = color{kind: 'i', a: uint8(rest[1])}, 2
	case len(rest) >= 4 && rest[0] == 2:
		from := 1
		if detail(s, i+1) && len(rest) >= 5 {
			from = 2 // a colour space comes first
		}
		*to, more = color{'t', uint8(rest[from]), uint8(rest[from+1]), uint8(rest[from+2])}, 4
	default:
		more = len(rest)
	}
	if detail(s, i+1) {
		return end - i - 1
	}
	return more
}

// restore appends the SGR that makes any pen this one.
func (p *pen) restore(dst []byte) []byte {
	dst = append(dst, "\x1b[0"...)
	for n := 1; n <= 9; n++ {
		if p.on&(1<<n) == 0 {
			continue
		}
		dst = strconv.AppendInt(append(dst, ';'), int64(n), 10)
		if n == 4 && p.underline > 1 {
			dst = strconv.AppendInt(append(dst, ':'), int64(p.underline), 10)
		}
	}
	if p.on&(1<<overline) != 0 {
		dst = append(dst, ";53"...)
	}
	dst = p.fg.restore(dst, 30)
	dst = p.bg.restore(dst, 40)
	dst = p.ul.restore(dst, 50)
	return append(dst, 'm')
}

func (c color) restore(dst []byte, base int64) []byte {
	number := func(n int64) { dst = strconv.AppendInt(append(dst, ';'), n, 10) }
	switch {
	case c.kind == 't':
		number(base + 8)
		number(2)
		number(int64(c.a))
		number(int64(c.b))
		number(int64(c.c))
	case c.kind == 'i' && c.a < 8 && base < 50:
		number(base + int64(c.a))
	case c.kind == 'i':
		number(base + 8)
		number(5)
		number(int64(c.a))
	}
	return dst
}
