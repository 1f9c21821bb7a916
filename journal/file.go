package journal

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Names in the directory.
const (
	fileName    = "journal"
	newName     = "journal.new"
	damagedName = "journal.damaged"
	lockName    = "lock"
)

// Open opens the journal in dir, which it creates (0700) when it is missing, locks it
// against other processes, and returns what the former life left. Close it.
//
// A disk that takes no writes is no error if the directory and the lock are there: the
// journal then begins in memory only. Every error is one sentence; it means that
// nothing was changed, and the caller may go on with a nil *Journal.
func Open(dir string, o Options) (*Journal, Recovered, error) {
	o.MaxBytes = cmp.Or(o.MaxBytes, defaultMaxBytes)
	o.SyncInterval = cmp.Or(o.SyncInterval, defaultSyncInterval)
	o.compactAbove = cmp.Or(o.compactAbove, defaultCompactAbove)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	bootID, bootTime := boot()
	o.boot = cmp.Or(o.boot, bootID)
	if o.MaxBytes < 0 || o.MaxBytes > 1<<30 || o.SyncInterval < 0 {
		return nil, Recovered{}, errors.New("open journal: MaxBytes must be between 0 and 1 GiB, and SyncInterval not negative")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Recovered{}, fmt.Errorf("open journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, Recovered{}, err
	}
	j := &Journal{
		dir: dir, o: o, lock: lock, next: 1, live: map[uint64][]byte{},
		wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	j.closing = sync.OnceValue(j.close)
	r, err := j.recover(bootTime)
	if err != nil {
		return nil, Recovered{}, errors.Join(err, unlockDir(lock))
	}
	if err := j.rewrite(); err != nil {
		j.mu.Lock()
		j.failLocked(err)
		j.mu.Unlock()
	}
	go j.run()
	return j, r, nil
}

// recover reads the former life's file and takes over what it left.
func (j *Journal) recover(bootTime time.Time) (Recovered, error) {
	path := j.path(fileName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		j.salt = newSalt()
		return Recovered{First: true}, nil
	}
	if err != nil {
		return Recovered{}, fmt.Errorf("open journal: %w", err)
	}
	now := time.Now()
	p, err := parse(data)
	if errors.Is(err, errDamagedHead) {
		j.salt = newSalt()
		if err := os.Rename(path, j.path(damagedName)); err != nil {
			return Recovered{}, fmt.Errorf("open journal: set the damaged file aside: %w", err)
		}
		return Recovered{Damaged: 1, Gap: &Gap{To: now}}, nil
	}
	if err != nil {
		return Recovered{}, fmt.Errorf("open journal %s: %w", path, err)
	}
	// Open for the mark, in case that no new file can be written.
	if j.file, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return Recovered{}, fmt.Errorf("open journal: %w", err)
	}
	j.size, j.salt, j.next, j.synced = len(data), p.head.salt, p.next, p.synced
	r := Recovered{
		Clean: p.closed, SameBoot: p.head.boot != "" && p.head.boot == j.o.boot,
		LastSign: p.last, Torn: p.torn, Damaged: p.damaged, Gap: p.gap,
	}
	if !r.Clean && !r.SameBoot {
		if bootTime.IsZero() || bootTime.Before(p.last) {
			bootTime = now
		}
		from := p.synced
		if p.last.Before(from) { // the clock was set back
			from = p.last
		}
		r.Gap = r.Gap.include(from, bootTime)
	}
	if !p.since.IsZero() {
		r.Gap = r.Gap.include(p.since, now)
	}
	for _, seq := range slices.Sorted(maps.Keys(p.records)) {
		f := p.records[seq]
		r.Records = append(r.Records, Record{Seq: seq, Data: f.data})
		b := appendFrame(make([]byte, 0, frameSize+len(f.data)), j.salt, f)
		j.live[seq] = b
		j.liveBytes += len(b)
	}
	return r, nil
}

// run is the journal's goroutine. It waits for the first write, and then looks after
// the file once in a SyncInterval until there is nothing to do.
func (j *Journal) run() {
	defer close(j.stopped)
	for {
		select {
		case <-j.stop:
			return
		case <-j.wake:
		}
		for more := true; more; more = j.tend() {
			select {
			case <-j.stop:
				return
			case <-time.After(j.o.SyncInterval):
			}
		}
	}
}

// tend syncs or rewrites, whatever is due, and tells whether it has to try again.
func (j *Journal) tend() (again bool) {
	j.sync()
	j.mu.Lock()
	broken, wasteful := j.broken, j.wastefulLocked()
	j.mu.Unlock()
	if broken == nil && !wasteful {
		return false
	}
	if broken != nil {
		j.complain("journal holds records in memory only, the disk does not take them", broken)
	}
	if time.Now().Before(j.retryAt) {
		return true
	}
	if err := j.rewrite(); err != nil {
		j.backoff = min(max(2*j.backoff, j.o.SyncInterval), maxBackoff)
		j.retryAt = time.Now().Add(j.backoff)
		if broken == nil {
			j.complain("journal cannot be rewritten, its file keeps growing", err)
		}
		return true
	}
	j.backoff, j.retryAt = 0, time.Time{}
	if j.told != "" {
		j.told = ""
		j.o.Logger.Info("journal is on the disk again", "path", j.path(fileName))
	}
	return false
}

// complain logs what is wrong unless that was the last thing it said.
func (j *Journal) complain(msg string, err error) {
	if j.told != msg {
		j.told = msg
		j.o.Logger.Warn(msg, "path", j.path(fileName), "error", err)
	}
}

// sync brings what was written to the disk.
func (j *Journal) sync() {
	j.mu.Lock()
	file, at, due := j.file, time.Now(), j.dirty && j.broken == nil
	if due {
		j.dirty, j.syncing = false, true
	}
	j.mu.Unlock()
	if !due {
		return
	}
	var err error
	if !j.o.NoSync {
		err = file.Sync()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.syncing = false
	if err != nil {
		j.failLocked(j.renamed(err))
		return
	}
	j.synced = at
}

// rewrite replaces the file by one that holds what is live, and nothing else. The
// error says why that was not possible; the old file is then as it was.
func (j *Journal) rewrite() error {
	j.mu.Lock()
	now := time.Now()
	h := head{salt: j.salt, next: j.next, at: now, boot: j.o.boot}
	frames := make([][]byte, 0, len(j.live))
	for _, b := range j.live {
		frames = append(frames, b)
	}
	j.copied = new([]byte)
	j.mu.Unlock()

	file, size, err := j.writeNew(h, frames)

	j.mu.Lock()
	copied := *j.copied
	j.copied = nil
	if err == nil {
		_, err = file.Write(copied)
	}
	if err == nil {
		err = os.Rename(j.path(newName), j.path(fileName))
	}
	if err != nil {
		if j.broken != nil {
			j.broken = err
		}
		j.mu.Unlock()
		return errors.Join(err, j.dropNew(file))
	}
	old := j.file
	j.file, j.size, j.broken = file, size+len(copied), nil
	j.dirty, j.synced = len(copied) > 0, now
	j.mu.Unlock()

	if old != nil {
		_ = old.Close() // nothing in it is needed any more
	}
	if j.o.NoSync {
		return j.Degraded()
	}
	if err := syncDir(j.dir); err != nil {
		j.mu.Lock()
		j.failLocked(err)
		j.mu.Unlock()
	}
	j.sync() // what was copied is older than it may be unsynced
	return j.Degraded()
}

// writeNew writes a whole new file beside the old one, and syncs it.
func (j *Journal) writeNew(h head, frames [][]byte) (file *os.File, size int, err error) {
	slices.SortFunc(frames, func(a, b []byte) int { return cmp.Compare(frameSeq(a), frameSeq(b)) })
	file, err = os.OpenFile(j.path(newName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, 0, err
	}
	w := bufio.NewWriterSize(file, 64<<10)
	size, _ = w.Write(h.encode()) // a bufio.Writer remembers its error
	for _, b := range frames {
		n, _ := w.Write(b)
		size += n
	}
	if err := w.Flush(); err != nil {
		return file, 0, err
	}
	if j.o.NoSync {
		return file, size, nil
	}
	return file, size, file.Sync()
}

// dropNew removes a new file that did not succeed: the disk may need the space.
func (j *Journal) dropNew(file *os.File) error {
	if file == nil {
		return nil
	}
	return errors.Join(file.Close(), os.Remove(j.path(newName)))
}

// renamed gives an error of the file its name: it was opened as another.
func (j *Journal) renamed(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		path.Path = j.path(fileName)
	}
	return err
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

func newSalt() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return le.Uint32(b[:])
}
