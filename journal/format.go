package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// The format is described in the package comment.
const (
	magic     = "FLJOURN\n"
	version   = 1
	headSize  = 128
	checked   = 80 // the head without the mark
	markSize  = 20
	frameSize = 40 // without data
)

type kind uint8

const (
	kindRecord kind = 1 + iota
	kindRelease
	kindSign
	kindClosed
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

var errDamagedHead = errors.New("the head is damaged")

// head is the beginning of a file.
type head struct {
	salt uint32
	next uint64 // sequence number of the next record
	at   time.Time
	boot string
}

func (h head) encode() []byte {
	b := make([]byte, headSize)
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[16:], h.salt)
	le.PutUint64(b[24:], h.next)
	putTime(b[32:], h.at)
	copy(b[40:checked], h.boot)
	le.PutUint32(b[12:], crc32.Checksum(b[:checked], castagnoli))
	return b
}

func parseHead(data []byte) (head, error) {
	if len(data) < headSize || string(data[:8]) != magic {
		return head{}, errDamagedHead
	}
	// A newer version may check its head in another way, so the version comes first.
	if v := le.Uint32(data[8:]); v != version {
		return head{}, fmt.Errorf("it has format %d and this program knows %d only: start the newer Fairlead again, or move the file away", v, version)
	}
	b := bytes.Clone(data[:checked])
	clear(b[12:16])
	if crc32.Checksum(b, castagnoli) != le.Uint32(data[12:]) {
		return head{}, errDamagedHead
	}
	boot, _, _ := bytes.Cut(b[40:], []byte{0})
	return head{salt: le.Uint32(b[16:]), next: le.Uint64(b[24:]), at: getTime(b[32:]), boot: string(boot)}, nil
}

// encodeMark returns the mark of a journal that is in memory only.
func encodeMark(salt uint32, since, last time.Time) []byte {
	b := make([]byte, markSize)
	putTime(b, since)
	putTime(b[8:], last)
	le.PutUint32(b[16:], crc32.Update(salt, castagnoli, b[:16]))
	return b
}

// frame is one entry of the file as it is read.
type frame struct {
	kind   kind
	seq    uint64
	at     time.Time
	synced time.Time // what was written before is on the disk
	data   []byte    // part of what was read
}

// appendFrame appends the form of f in a file with this salt.
func appendFrame(b []byte, salt uint32, f frame) []byte {
	start := len(b)
	b = append(b, make([]byte, frameSize)...)
	b = append(b, f.data...)
	h := b[start : start+frameSize]
	le.PutUint32(h[4:], crc32.Update(salt, castagnoli, f.data))
	le.PutUint32(h[8:], uint32(len(f.data)))
	h[12] = byte(f.kind)
	le.PutUint64(h[16:], f.seq)
	putTime(h[24:], f.at)
	putTime(h[32:], f.synced)
	le.PutUint32(h, crc32.Update(salt, castagnoli, h[4:]))
	return b
}

// parseFrame returns the frame that b begins with, if there is one.
func parseFrame(b []byte, salt uint32) (frame, bool) {
	if len(b) < frameSize || crc32.Update(salt, castagnoli, b[4:frameSize]) != le.Uint32(b) {
		return frame{}, false
	}
	data := b[frameSize:]
	size := uint64(le.Uint32(b[8:]))
	if size > uint64(len(data)) || crc32.Update(salt, castagnoli, data[:size]) != le.Uint32(b[4:]) {
		return frame{}, false
	}
	return frame{
		kind: kind(b[12]), seq: le.Uint64(b[16:]), at: getTime(b[24:]), synced: getTime(b[32:]),
		data: data[:size:size],
	}, true
}

// frameSeq returns the sequence number of an encoded frame.
func frameSeq(b []byte) uint64 { return le.Uint64(b[16:]) }

// putTime writes the zero time as 0.
func putTime(b []byte, t time.Time) {
	var nanos int64
	if !t.IsZero() {
		nanos = t.UnixNano()
	}
	le.PutUint64(b, uint64(nanos))
}

func getTime(b []byte) time.Time {
	nanos := int64(le.Uint64(b))
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

// former is what a file tells about the life that wrote it.
type former struct {
	head    head
	records map[uint64]frame // not released
	next    uint64           // above every sequence number that was seen
	last    time.Time        // the last sign of life
	synced  time.Time        // what was written before is there
	closed  bool
	since   time.Time // in memory only from then on, zero: not
	torn    int       // bytes at the end
	damaged int       // places before it
	gap     *Gap      // around the damage
}

// parse reads a whole file. Damage behind the head is no error.
func parse(data []byte) (*former, error) {
	h, err := parseHead(data)
	if err != nil {
		return nil, err
	}
	p := &former{head: h, records: map[uint64]frame{}, next: h.next, last: h.at, synced: h.at}
	var seen uint64
	var at time.Time // of the last good frame
	good := headSize // its end
	for off := headSize; off < len(data); {
		f, ok := parseFrame(data[off:], h.salt)
		if ok && f.kind == kindRecord && f.seq <= seen {
			ok = false
		}
		if !ok {
			off++
			continue
		}
		if off > good {
			p.damaged++
			p.gap = p.gap.include(at, f.at)
		}
		off += frameSize + len(f.data)
		good, at = off, f.at
		if f.kind == kindRecord {
			seen = f.seq
		}
		p.take(f)
	}
	p.torn = len(data) - good
	p.closed = p.closed && p.torn == 0
	p.takeMark(data[checked:])
	return p, nil
}

func (p *former) take(f frame) {
	// Later in the file is later, whatever the clock said; but the records that the file
	// began with are older than its head.
	if f.kind != kindRecord || f.seq >= p.head.next {
		p.last, p.synced = f.at, f.synced
	}
	p.closed = f.kind == kindClosed
	switch f.kind {
	case kindRecord:
		p.records[f.seq] = f
		p.next = max(p.next, f.seq+1)
	case kindRelease:
		for b := f.data; len(b) >= 8; b = b[8:] {
			delete(p.records, le.Uint64(b))
		}
	}
}

func (p *former) takeMark(b []byte) {
	if le.Uint64(b) == 0 || crc32.Update(p.head.salt, castagnoli, b[:16]) != le.Uint32(b[16:]) {
		return
	}
	p.since = getTime(b)
	p.last = getTime(b[8:])
	p.closed = false
}

// include returns a gap that is wide enough for from to to as well.
func (g *Gap) include(from, to time.Time) *Gap {
	if to.Before(from) { // the clock was set back
		to = from
	}
	if g == nil {
		return &Gap{From: from, To: to}
	}
	if from.Before(g.From) {
		g.From = from
	}
	if to.After(g.To) {
		g.To = to
	}
	return g
}
