package reconnectingpty

import "bytes"

// Control characters and the bytes that begin sequences.
const (
	enq = 0x05
	bel = 0x07
	so  = 0x0e
	si  = 0x0f
	can = 0x18
	sub = 0x1a
	esc = 0x1b
)

type kind uint8

const (
	kindControl kind = iota // SO or SI
	kindEscape              // ESC, intermediates, final
	kindCSI
	kindOSC
	kindDCS
	kindOther // APC, PM, SOS
)

const (
	maxParams = 32
	maxText   = 1024 // bytes of a string that are kept
)

// sequence is one finished escape sequence. It is valid until the parser goes on.
type sequence struct {
	kind   kind
	prefix byte // one of <=>? in front of the parameters of a CSI, or 0
	inter  byte // the first intermediate, or 0
	final  byte // 0 for strings

	params [maxParams]uint16
	n      int    // of params; what is behind them is of earlier sequences
	isSub  uint32 // bit i: parameter i follows a colon
	text   []byte // the first of a string
	whole  bool   // text is all of it
}

// begin forgets the sequence before.
func (s *sequence) begin() {
	s.kind, s.prefix, s.inter, s.final = 0, 0, 0, 0
	s.params[0], s.n, s.isSub, s.text, s.whole = 0, 0, 0, s.text[:0], false
}

// param is parameter i, or fallback where it is missing or zero.
func (s *sequence) param(i int, fallback uint16) uint16 {
	if i >= s.n || s.params[i] == 0 {
		return fallback
	}
	return s.params[i]
}

type state uint8

const (
	ground state = iota
	inEscape
	inEscapeInter
	inCSI
	inString
	inStringEscape
)

// parser finds escape sequences in a stream that comes in pieces of any length. Bytes
// above 0x7f are text: the stream is UTF-8, where they are no controls.
type parser struct {
	state  state
	length int // bytes of the unfinished sequence
	seq    sequence
}

// feed calls on for each sequence that ends in b, with the index after its last byte;
// length is then the number of its bytes, some of which may have come in earlier pieces.
func (p *parser) feed(b []byte, on func(end int)) {
	for i := 0; i < len(b); i++ {
		if p.state == ground {
			next := nextControl(b[i:])
			if next < 0 {
				return
			}
			i += next
			p.length = 0
		}
		p.length++
		if p.step(b[i]) {
			on(i + 1)
			p.length = 0
		} else if p.state == ground {
			p.length = 0
		}
	}
}

// nextControl returns where the first ESC, SO or SI is, or -1.
func nextControl(b []byte) int {
	first := -1
	for _, c := range [...]byte{esc, so, si} {
		if i := bytes.IndexByte(b, c); i >= 0 {
			first, b = i, b[:i]
		}
	}
	return first
}

// step takes one byte and reports whether it ended a sequence.
func (p *parser) step(c byte) bool {
	if p.state >= inString {
		return p.stepString(c)
	}
	switch {
	case c == esc:
		p.state, p.length = inEscape, 1
		p.seq.begin()
		return false
	case c == can || c == sub:
		p.state = ground
		return false
	case p.state == ground: // SO or SI
		p.seq.begin()
		p.seq.kind, p.seq.final = kindControl, c
		return true
	case c < 0x20 || c == 0x7f: // is obeyed or ignored in the middle of a sequence
		return false
	case c > 0x7f:
		p.state = ground
		return false
	}
	if p.state == inCSI {
		return p.stepCSI(c)
	}
	return p.stepEscape(c)
}

func (p *parser) stepEscape(c byte) bool {
	if c < 0x30 {
		if p.seq.inter == 0 {
			p.seq.inter = c
		}
		p.state = inEscapeInter
		return false
	}
	if p.state == inEscape {
		switch c {
		case '[':
			p.state, p.seq.kind, p.seq.n = inCSI, kindCSI, 1
			return false
		case ']':
			return p.beginString(kindOSC)
		case 'P':
			return p.beginString(kindDCS)
		case '_', '^', 'X':
			return p.beginString(kindOther)
		}
	}
	p.state, p.seq.kind, p.seq.final = ground, kindEscape, c
	return true
}

func (p *parser) beginString(k kind) bool {
	p.state, p.seq.kind, p.seq.whole = inString, k, true
	return false
}

func (p *parser) stepCSI(c byte) bool {
	s := &p.seq
	switch {
	case '0' <= c && c <= '9':
		if v := uint32(s.params[s.n-1])*10 + uint32(c-'0'); v < 1<<16 {
			s.params[s.n-1] = uint16(v)
		}
	case c == ';' || c == ':':
		if s.n < maxParams {
			if c == ':' {
				s.isSub |= 1 << s.n
			}
			s.params[s.n] = 0
			s.n++
		}
	case c >= 0x3c && c <= 0x3f:
		if s.prefix == 0 {
			s.prefix = c
		}
	case c < 0x30:
		if s.inter == 0 {
			s.inter = c
		}
	default:
		p.state, s.final = ground, c
		return true
	}
	return false
}

func (p *parser) stepString(c byte) bool {
	switch {
	case p.state == inStringEscape && c == '\\':
		p.state = ground
		return true
	case p.state == inStringEscape: // a new sequence cuts the string off
		p.state, p.length = inEscape, 2
		p.seq.begin()
		return p.step(c)
	case c == esc:
		p.state = inStringEscape
	case c == can || c == sub:
		p.state = ground
	case c == bel && p.seq.kind == kindOSC:
		p.state = ground
		return true
	case len(p.seq.text) < maxText:
		p.seq.text = append(p.seq.text, c)
	default:
		p.seq.whole = false
	}
	return false
}
