package journal

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

// FuzzParse throws bytes at the reader. What it makes of them must hold when it is
// written and read again.
func FuzzParse(f *testing.F) {
	h := head{salt: 7, next: 3, at: time.Unix(1, 0), boot: "boot"}
	good := h.encode()
	for i, k := range []kind{kindRecord, kindSign, kindRecord, kindRelease, kindClosed, 9} {
		good = appendFrame(good, 7, frame{kind: k, seq: uint64(i + 1), data: []byte{1, 0, 0, 0, 0, 0, 0, 0}})
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(slices.Concat(good[:300], good[301:]))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Most bytes do not survive the check of the head, so what follows a good one
		// is tried as well.
		for _, data := range [][]byte{data, slices.Concat(h.encode(), data)} {
			p, err := parse(data)
			if err != nil {
				continue
			}
			again := p.head.encode()
			seqs := sortedSeqs(p)
			for _, seq := range seqs {
				again = appendFrame(again, p.head.salt, p.records[seq])
			}
			q, err := parse(again)
			if err != nil || q.damaged != 0 || q.torn != 0 || !slices.Equal(sortedSeqs(q), seqs) {
				t.Fatalf("written and read again: %v %+v, was %+v", err, q, p)
			}
		}
	})
}

// FuzzDamage spoils a part of a good file: overwrites it, cuts it out or puts something
// in. Every record that is still whole is found, none is invented, and one that was
// released comes back only if the release was spoilt.
func FuzzDamage(f *testing.F) {
	f.Add([]byte{3, 40, 0, 200}, uint16(200), uint16(1), []byte{0xff})
	f.Add([]byte{3, 40, 0, 200}, uint16(130), uint16(100), []byte(nil))
	f.Add([]byte{1, 1, 1, 1, 1}, uint16(150), uint16(0), []byte("put in"))
	f.Add([]byte{0, 0, 0}, uint16(128), uint16(40), make([]byte, 40))
	f.Fuzz(func(t *testing.T, sizes []byte, at, cut uint16, put []byte) {
		if len(sizes) > 100 || len(put) > 10_000 {
			t.Skip("more of the same")
		}
		const salt = 12345
		h := head{salt: salt, next: 1, at: time.Unix(1, 0)}
		data := h.encode()
		type place struct {
			frame      frame
			begin, end int
		}
		var places []place
		for i, size := range sizes {
			fr := frame{kind: kindRecord, seq: uint64(i + 1), at: time.Unix(int64(i+2), 0), data: bytes.Repeat([]byte{byte(i)}, int(size))}
			if i%3 == 2 { // of the one before
				fr.kind, fr.data = kindRelease, le.AppendUint64(nil, uint64(i))
			}
			begin := len(data)
			data = appendFrame(data, salt, fr)
			places = append(places, place{fr, begin, len(data)})
		}
		from := min(max(int(at), headSize), len(data))
		to := min(from+int(cut), len(data))
		spoilt := slices.Concat(data[:from], put, data[to:])
		p, err := parse(spoilt)
		if err != nil {
			t.Fatal(err)
		}
		whole := func(i int) bool { return places[i].end <= from || places[i].begin >= to }
		if len(put) > 0 { // in the middle of a frame
			outside := whole
			whole = func(i int) bool { return outside(i) && (places[i].end <= from || places[i].begin >= from) }
		}
		for i, place := range places {
			if place.frame.kind != kindRecord {
				continue
			}
			found, ok := p.records[place.frame.seq]
			released := i+1 < len(places) && places[i+1].frame.kind == kindRelease
			switch {
			case ok && !bytes.Equal(found.data, place.frame.data):
				t.Fatalf("record %d came back as another", i)
			case whole(i) && !released && !ok:
				t.Fatalf("record %d is whole and was not found", i)
			case released && whole(i+1) && ok:
				t.Fatalf("record %d was released and came back", i)
			case released && whole(i) && !ok && !bytes.Contains(spoilt, data[places[i+1].begin:places[i+1].end]):
				t.Fatalf("record %d was not found, and its release is gone", i)
			}
			delete(p.records, place.frame.seq)
		}
		if len(p.records) > 0 {
			t.Fatalf("invented: %v", p.records)
		}
	})
}

func sortedSeqs(p *former) (seqs []uint64) {
	for seq := range p.records {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	return seqs
}
