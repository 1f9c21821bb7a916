package reconnectingpty

const (
	// streamSize is how far viewers may be apart, in bytes. A power of two.
	streamSize = 256 << 10
	// chunk bounds one read from the terminal; Linux gives less.
	chunk = 16 << 10
	// maxPending bounds how much of an unfinished sequence a new viewer gets again.
	maxPending = 4 << 10
)

// stream is a ring of the last that the program wrote, by position since the beginning.
// The terminal is read straight into it.
type stream struct {
	buf  []byte
	head uint64 // where the next byte goes
	low  uint64 // the oldest that may still be read
}

func newStream() *stream { return &stream{buf: make([]byte, streamSize)} }

// lowAfter is what low will be once space was called.
func (s *stream) lowAfter() uint64 {
	return max(s.low, s.head+chunk-min(s.head+chunk, streamSize))
}

// space gives up the oldest bytes and returns where the next ones go. Nobody reads there
// until commit.
func (s *stream) space() []byte {
	s.low = s.lowAfter()
	at := int(s.head % streamSize)
	return s.buf[at:min(at+chunk, streamSize)]
}

// commit makes n bytes of space part of the stream and returns them.
func (s *stream) commit(n int) []byte {
	at := int(s.head % streamSize)
	s.head += uint64(n)
	return s.buf[at : at+n]
}

// read copies what follows from; from must not be below low.
func (s *stream) read(dst []byte, from uint64) int {
	at := int(from % streamSize)
	n := min(uint64(len(dst)), s.head-from, uint64(streamSize-at))
	return copy(dst, s.buf[at:at+int(n)])
}

// unfinished returns how many of the last bytes belong to a character or a sequence
// that has not ended yet, of which the parser knows.
func (s *stream) unfinished(p *parser) int {
	n := 0
	if p.state != ground {
		n = p.length
	} else {
		n = s.partOfRune()
	}
	if n > maxPending || uint64(n) > s.head-s.low {
		return 0
	}
	return n
}

// partOfRune returns how many of the last bytes are the beginning of a UTF-8 character.
func (s *stream) partOfRune() int {
	for n := 1; n <= 3 && uint64(n) <= s.head-s.low; n++ {
		c := s.buf[(s.head-uint64(n))%streamSize]
		switch {
		case c < 0x80:
			return 0
		case c >= 0xf0:
			return n % 4
		case c >= 0xe0:
			return n % 3
		case c >= 0xc0:
			return n % 2
		}
	}
	return 0
}
