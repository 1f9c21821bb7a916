package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	slash "path"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"fairlead.dev/fairlead/disconnect"
)

// fileSession is an SFTP session in the workspace.
type fileSession struct {
	sftp   *sftp.Client
	cancel context.CancelFunc
	ended  chan struct{} // closed when end is set
	end    SessionEnd
}

// openFiles begins an SFTP session. An error is one sentence. The caller calls close.
func (w *Workspace) openFiles(ctx context.Context) (*fileSession, error) {
	running, cancel := context.WithCancel(ctx)
	s := &fileSession{cancel: cancel, ended: make(chan struct{})}
	toAgent, in := io.Pipe()
	out, fromAgent := io.Pipe()
	go func() {
		defer close(s.ended)
		s.end = w.RunSession(running, SessionOptions{Subsystem: "sftp", Stdin: toAgent, Stdout: fromAgent})
		_ = fromAgent.CloseWithError(io.ErrUnexpectedEOF)
		_ = toAgent.CloseWithError(io.ErrClosedPipe)
	}()
	client, err := sftp.NewClientPipe(out, in, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true))
	if err == nil {
		s.sftp = client
		return s, nil
	}
	_ = in.Close()
	_ = out.Close()
	<-s.ended
	cancel()
	switch {
	case s.end.Err != nil:
		return nil, s.end.Err
	case s.end.Attribution.Reason != disconnect.Graceful:
		err = &disconnect.EndedError{Attribution: s.end.Attribution, Err: err}
	}
	return nil, failed("open files of workspace "+disconnect.Scrub(w.config.name), s.end.Attribution, err)
}

// close ends the session and returns how it ended, which is the user's leaving if ctx of
// openFiles has ended.
func (s *fileSession) close() SessionEnd {
	_ = s.sftp.Close()
	<-s.ended
	s.cancel()
	return s.end
}

// side is one of the two ends of a copy. Names are paths of its own system.
type side interface {
	lstat(name string) (fs.FileInfo, error)
	stat(name string) (fs.FileInfo, error)
	readDir(name string) ([]fs.FileInfo, error)
	readLink(name string) (string, error)
	symlink(target, name string) error
	mkdir(name string) error
	remove(name string) error
	rename(from, to string) error // over what is there
	setModes(name string, mode fs.FileMode, modified time.Time) error
	open(name string) (content, error)
	create(name string) (content, error) // what is there stays
	join(dir, name string) string
	show(name string) string // for people
}

// content is an open file.
type content interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
}

// remoteSide is the workspace's.
type remoteSide struct {
	*sftp.Client
	workspace string
}

func (r *remoteSide) lstat(name string) (fs.FileInfo, error)     { return r.Lstat(name) }
func (r *remoteSide) stat(name string) (fs.FileInfo, error)      { return r.Stat(name) }
func (r *remoteSide) readDir(name string) ([]fs.FileInfo, error) { return r.ReadDir(name) }
func (r *remoteSide) readLink(name string) (string, error)       { return r.ReadLink(name) }
func (r *remoteSide) symlink(target, name string) error          { return r.Symlink(target, name) }
func (r *remoteSide) mkdir(name string) error                    { return r.Mkdir(name) }
func (r *remoteSide) remove(name string) error                   { return r.Remove(name) }
func (r *remoteSide) rename(from, to string) error               { return r.PosixRename(from, to) }
func (r *remoteSide) join(dir, name string) string               { return slash.Join(dir, name) }
func (r *remoteSide) show(name string) string                    { return disconnect.Scrub(r.workspace + ":" + name) }

func (r *remoteSide) setModes(name string, mode fs.FileMode, modified time.Time) error {
	return errors.Join(r.Chmod(name, mode), r.Chtimes(name, modified, modified))
}

func (r *remoteSide) open(name string) (content, error) { return r.Open(name) }

func (r *remoteSide) create(name string) (content, error) {
	return r.OpenFile(name, os.O_RDWR|os.O_CREATE)
}

// localSide is this machine's. What is written stays below root: neither a name from a
// workspace nor a link that came from there leads out of it.
type localSide struct {
	root *os.Root // nil: only read, by any path
	dir  string   // of root, to show
}

func (l *localSide) lstat(name string) (fs.FileInfo, error) {
	if l.root != nil {
		return l.root.Lstat(name)
	}
	return os.Lstat(name)
}

func (l *localSide) stat(name string) (fs.FileInfo, error) {
	if l.root != nil {
		return l.root.Stat(name)
	}
	return os.Stat(name)
}

func (l *localSide) readDir(name string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(name)
	all := make([]fs.FileInfo, 0, len(entries))
	for _, entry := range entries {
		info, failure := entry.Info()
		if failure != nil { // it vanished meanwhile: whoever looks at it hears so
			info = vanished(entry.Name())
		}
		all = append(all, info)
	}
	return all, err
}

// vanished is an entry that was there a moment ago.
type vanished string

func (v vanished) Name() string     { return string(v) }
func (vanished) Size() int64        { return 0 }
func (vanished) Mode() fs.FileMode  { return 0 }
func (vanished) ModTime() time.Time { return time.Time{} }
func (vanished) IsDir() bool        { return false }
func (vanished) Sys() any           { return nil }

func (l *localSide) readLink(name string) (string, error) {
	if l.root != nil {
		return l.root.Readlink(name)
	}
	return os.Readlink(name)
}

func (l *localSide) symlink(target, name string) error { return l.root.Symlink(target, name) }
func (l *localSide) mkdir(name string) error           { return l.root.Mkdir(name, 0o777) }
func (l *localSide) remove(name string) error          { return l.root.Remove(name) }
func (l *localSide) rename(from, to string) error      { return l.root.Rename(from, to) }
func (l *localSide) join(dir, name string) string      { return strings.TrimPrefix(dir+"/"+name, "./") }

func (l *localSide) show(name string) string {
	if l.root != nil {
		name = slash.Join(l.dir, name)
	}
	return disconnect.Scrub(name)
}

func (l *localSide) setModes(name string, mode fs.FileMode, modified time.Time) error {
	return errors.Join(l.root.Chmod(name, mode), l.root.Chtimes(name, modified, modified))
}

func (l *localSide) open(name string) (content, error) {
	return os.OpenFile(name, os.O_RDONLY|nonBlocking, 0) // it might have become a pipe
}

func (l *localSide) create(name string) (content, error) {
	return l.root.OpenFile(name, os.O_RDWR|os.O_CREATE|nonBlocking, 0o600)
}

// CopyStats is how far a copy is. Bytes and files that were there already count as done.
type CopyStats struct {
	Files, TotalFiles int64
	Bytes, TotalBytes int64
	Skipped           int64 // files that were there already
	Resumed           int64 // bytes that an earlier run had copied
	Failed            int64 // files, directories and links
	Known             bool  // the totals do not grow any more
}

// CopyResult is one file, directory or link that is done with, or could not be.
type CopyResult struct {
	Name    string // for people, on the side that it came from
	Bytes   int64
	Skipped bool
	Err     error // one sentence
}

// CopyOptions say what to copy.
type CopyOptions struct {
	// Upload copies to the workspace, otherwise from there.
	Upload bool
	// Sources are files and directories; a link among them is followed, one in a
	// directory is copied as a link. Target is a directory to put them in if it ends with a
	// slash, is . or .., or there are several sources; otherwise it is the new name of one, and what a
	// directory has is added to a directory of that name. Only a file goes into such a one.
	Sources []string
	Target  string
	// OnResult is called with each result, one at a time; nil: not.
	OnResult func(CopyResult)
	// OnBegin is called once, with a func that tells how far it is at any time; nil: not.
	OnBegin func(stats func() CopyStats)
}

// errStopped is what is left undone when the copy stops.
var errStopped = errors.New("the copy has stopped")

// guarded are counters that several goroutines change.
type guarded struct {
	mu    sync.Mutex // guards stats
	stats CopyStats
}

func (g *guarded) change(f func(*CopyStats)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.stats)
}

func (g *guarded) get() (s CopyStats) {
	g.change(func(now *CopyStats) { s = *now })
	return s
}
