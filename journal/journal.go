package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	defaultMaxBytes     = 16 << 20
	defaultSyncInterval = time.Second
	defaultCompactAbove = 256 << 10
	maxBackoff          = time.Minute // between two attempts to write a new file
)

// SignInterval is between two signs of life that are written.
const SignInterval = 5 * time.Second

var (
	// ErrFull means that Options.MaxBytes are taken by records that are not released.
	ErrFull = errors.New("journal is full")
	// ErrClosed means that Close has been called.
	ErrClosed = errors.New("journal is closed")
)

// Options are for [Open]. The zero value is usable.
type Options struct {
	// MaxBytes bounds the records that are not released, each with the 40 bytes around
	// it, in memory and on disk; 0 means 16 MiB. The file may be larger: by as much
	// again, or 256 KiB, and by what is written in a SyncInterval.
	MaxBytes int
	// SyncInterval is the time from the first unsynced write to the sync; 0 means 1 s.
	SyncInterval time.Duration
	// NoSync leaves it to the system when what was written reaches the disk: for a journal
	// that has to outlive its process at once, and the machine only soon.
	NoSync bool
	// Logger gets one line when the journal begins to be in memory only, and one when
	// that is over. nil means none.
	Logger *slog.Logger

	compactAbove int    // dead bytes that are worth a rewrite; 0: 256 KiB
	boot         string // instead of the machine's
}

// Record is what was given to Append.
type Record struct {
	Seq  uint64 // rises; after a Gap a lost record's number may come again
	Data []byte
}

// Recovered is what [Open] found of the former life.
type Recovered struct {
	Records  []Record  // appended and not released, in order
	First    bool      // there was no former life; the other fields are zero
	Clean    bool      // the former life closed the journal
	SameBoot bool      // the machine has not booted since; false where that cannot be known (not Linux)
	LastSign time.Time // the former life's last write or Touch that is on the disk, wall clock
	Torn     int       // bytes of an unfinished end that were dropped
	Damaged  int       // places before the end where something was unreadable and skipped
	Gap      *Gap      // nil: nothing can be missing
}

// Gap is a time, by the wall clock. What the former life wrote in it may be missing:
// the machine stopped before it was synced, the disk did not take it, or the file is
// damaged. From is zero when nothing before it could be read.
type Gap struct {
	From, To time.Time
}

// Journal is an open journal. All methods are safe for concurrent use, and on a nil
// *Journal succeed and do nothing.
type Journal struct {
	dir  string
	o    Options
	salt uint32
	lock *os.File

	wake    chan struct{} // one place: there is something for run to do
	stop    chan struct{}
	stopped chan struct{}
	closing func() error

	mu        sync.Mutex // guards all below; never held while waiting for a sync
	file      *os.File   // replaced by rewrite only; nil: none could be written yet
	size      int        // of the file
	live      map[uint64][]byte
	liveBytes int
	next      uint64
	copied    *[]byte   // frames written since rewrite took its copy; nil: none is under way
	dirty     bool      // there are writes that a sync must follow
	syncing   bool      // a sync is under way for others
	synced    time.Time // while dirty or syncing: what was written before is on the disk
	signed    time.Time // the last write
	broken    error     // why records are in memory only
	since     time.Time // when that began
	closed    bool

	// Of run, and after it has ended of Close.
	told    string // the last complaint that was logged
	backoff time.Duration
	retryAt time.Time
}

// Append keeps data, of which it makes a copy, until its Release. It costs one write to
// the file, which is not synced. When the file does not take it, the record is held in
// memory until it does, and Degraded says why; the only errors are [ErrFull] and
// [ErrClosed].
func (j *Journal) Append(data []byte) (seq uint64, err error) {
	if j == nil {
		return 0, nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	size := frameSize + len(data)
	switch {
	case j.closed:
		return 0, ErrClosed
	case size > j.o.MaxBytes-j.liveBytes:
		return 0, ErrFull
	}
	seq = j.next
	j.next++
	now := time.Now()
	j.dirtyLocked(now)
	b := appendFrame(make([]byte, 0, size), j.salt, frame{kind: kindRecord, seq: seq, at: now, synced: j.synced, data: data})
	j.live[seq] = b
	j.liveBytes += size
	j.writeLocked(b, now)
	return seq, nil
}

// Release says that these records are not needed any more. It costs one write, which
// is not synced; after a power loss a record may be there again. Numbers of records
// that are not there are passed over. The only error is [ErrClosed].
func (j *Journal) Release(seqs ...uint64) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	known := make([]byte, 0, 64)
	for _, seq := range seqs {
		if b, ok := j.live[seq]; ok {
			delete(j.live, seq)
			j.liveBytes -= len(b)
			known = le.AppendUint64(known, seq)
		}
	}
	if len(known) == 0 {
		return nil
	}
	now := time.Now()
	j.dirtyLocked(now)
	j.writeFrameLocked(kindRelease, known, now)
	return nil
}

// Touch is a sign of life for the next life's Recovered.LastSign. Call it as often as
// you like: it writes when nothing was written for five seconds. What it writes causes
// no sync.
func (j *Journal) Touch() {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	if j.closed || now.Sub(j.signed) < SignInterval {
		return
	}
	j.writeFrameLocked(kindSign, nil, now)
	if j.broken != nil {
		j.markLocked()
	}
	if j.wastefulLocked() {
		j.wakeUp()
	}
}

// Degraded returns why records are in memory only at the moment, nil if they are not.
func (j *Journal) Degraded() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// Close syncs, so that the next life finds that this one ended in order, and gives the
// directory free. It waits for the disk and for the journal's goroutine. An error means
// that the next life will not find everything, or find the journal unclosed.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	return j.closing()
}

func (j *Journal) close() error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	<-j.stopped
	for range 2 { // a file that fails now is worth one more attempt
		if j.Degraded() != nil {
			_ = j.rewrite() // what stands in its way is j.broken
		}
		j.mu.Lock()
		now := time.Now()
		j.dirtyLocked(now)
		j.writeFrameLocked(kindClosed, nil, now)
		j.mu.Unlock()
		j.sync()
		if j.Degraded() == nil {
			break
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.broken
	if err != nil {
		err = fmt.Errorf("close journal: what it holds in memory only is lost: %w", err)
	}
	if j.file != nil {
		err = errors.Join(err, j.renamed(j.file.Close()))
	}
	return errors.Join(err, unlockDir(j.lock))
}

// writeFrameLocked writes a frame that is not a record.
func (j *Journal) writeFrameLocked(k kind, data []byte, now time.Time) {
	synced := j.synced
	if !j.dirty && !j.syncing {
		synced = now
	}
	b := make([]byte, 0, 128)
	j.writeLocked(appendFrame(b, j.salt, frame{kind: k, at: now, synced: synced, data: data}), now)
}

// writeLocked writes an encoded frame with one write, and does not sync it.
func (j *Journal) writeLocked(b []byte, now time.Time) {
	if j.copied != nil {
		*j.copied = append(*j.copied, b...)
	}
	j.signed = now
	if j.broken != nil {
		return
	}
	if _, err := j.file.Write(b); err != nil {
		j.failLocked(j.renamed(err))
		return
	}
	j.size += len(b)
}

// dirtyLocked, before a write, sees to it that a sync follows.
func (j *Journal) dirtyLocked(now time.Time) {
	if j.dirty {
		return
	}
	if !j.syncing {
		j.synced = now // everything is, up to here
	}
	j.dirty = true
	j.wakeUp()
}

func (j *Journal) wakeUp() {
	select {
	case j.wake <- struct{}{}:
	default: // it knows already
	}
}

// failLocked ends the use of the file: from now on all is in memory only, until a
// rewrite succeeds.
func (j *Journal) failLocked(err error) {
	if j.broken == nil {
		j.since = time.Now()
	}
	j.broken = err
	j.markLocked()
	j.wakeUp()
}

// markLocked writes into the broken file, in place, that there is more in memory. If
// that fails too, nothing is left to be done about it.
func (j *Journal) markLocked() {
	if j.file != nil {
		_, _ = j.file.WriteAt(encodeMark(j.salt, j.since, time.Now()), checked)
	}
}

// wastefulLocked tells whether a rewrite is worth its cost.
func (j *Journal) wastefulLocked() bool {
	dead := j.size - headSize - j.liveBytes
	return dead > j.liveBytes && dead > j.o.compactAbove
}
