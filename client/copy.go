package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	slash "path"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"fairlead.dev/fairlead/disconnect"
)

const (
	// copyChunk is how much one request pair moves, in bytes, and copyWindow how many
	// chunks of one file are under way: what an interrupted copy lacks is within the last
	// copyWindow*copyChunk bytes of it.
	copyChunk  = 128 << 10
	copyWindow = 32
	// copyChunks bounds the chunks of all files, and with that the memory.
	copyChunks = 64
	// copyFiles is how many files are under way: each costs some round trips.
	copyFiles = 32
	// partPrefix begins the names of what is not whole yet.
	partPrefix = ".fairlead-part-"
)

// Copy copies files and directories between this machine and the workspace until all is
// done, ctx ends, or the connection does. What fails by itself, such as a file that may
// not be read, is told and counted and keeps nothing else from being copied; a full disk
// ends the copy. Each file has its name only when it is whole; until then it is beside it
// in a file with the prefix .fairlead-part-, from which the next run goes on if the source
// has not changed. An error is one sentence.
func (w *Workspace) Copy(ctx context.Context, options CopyOptions) (CopyStats, SessionEnd, error) {
	session, err := w.openFiles(ctx)
	if err != nil {
		return CopyStats{}, notBegun(err), err
	}
	remote := &remoteSide{session.sftp, w.config.name}
	c := &copying{options: options, chunks: make(chan []byte, copyChunks)}
	for range copyChunks {
		c.chunks <- nil
	}
	if options.OnBegin != nil {
		options.OnBegin(c.stats.get)
	}
	err = c.run(ctx, session, remote)
	end := session.close()
	switch {
	case ctx.Err() != nil:
		err = errStopped
	case end.Attribution.Reason != disconnect.Graceful:
		err = &failure{text: "the connection to " + disconnect.Scrub(w.config.name) + " ended: " + end.Attribution.String(),
			ended: &disconnect.EndedError{Attribution: end.Attribution}}
	}
	return c.stats.get(), end, err
}

// copying is one run of Copy.
type copying struct {
	options  CopyOptions
	from, to side
	stats    guarded
	chunks   chan []byte // has a place, and perhaps a buffer, for each chunk that may be under way

	telling sync.Mutex // serializes OnResult

	made []madeDir // directories that are new, which get their modes at the end
}

type madeDir struct {
	name string
	info fs.FileInfo
}

// run copies all sources.
func (c *copying) run(ctx context.Context, session *fileSession, remote *remoteSide) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		select {
		case <-session.ended:
			cancel(errStopped)
		case <-ctx.Done():
		}
	})
	defer cancel(nil)
	stop := context.AfterFunc(ctx, session.cancel) // which ends whatever waits for an answer
	defer stop()
	targets, err := c.place(remote)
	if err != nil {
		return err
	}
	if local, ok := c.to.(*localSide); ok {
		defer local.root.Close()
	}
	files, going := errgroup.WithContext(ctx)
	files.SetLimit(copyFiles)
	for i, source := range c.options.Sources {
		info, err := c.from.stat(source)
		if err == nil {
			err = c.walk(going, files, source, targets[i], info)
		}
		if err := c.report(going, CopyResult{Name: c.from.show(source)}, err); err != nil {
			return errors.Join(err, files.Wait())
		}
	}
	c.stats.change(func(s *CopyStats) { s.Known = true })
	if err := files.Wait(); err != nil {
		return err
	}
	for i := len(c.made) - 1; i >= 0; i-- { // the deepest first: their parents may be read-only
		dir := c.made[i]
		_ = c.to.setModes(dir.name, dir.info.Mode().Perm(), dir.info.ModTime())
	}
	return nil
}

// place opens both sides and says where each source goes.
func (c *copying) place(remote *remoteSide) (targets []string, err error) {
	target := c.options.Target
	last := slash.Base(target)
	into := strings.HasSuffix(target, "/") || last == "." || last == ".." || len(c.options.Sources) > 1
	if c.options.Upload {
		c.from, c.to = &localSide{}, remote
	} else {
		c.from = remote
	}
	info, err := c.statTarget(remote, target)
	isDir := err == nil && info.IsDir()
	if into && !isDir {
		return nil, fmt.Errorf("copy to %s: it is no directory", disconnect.Scrub(target))
	}
	if source, err := c.from.stat(c.options.Sources[0]); err != nil || !source.IsDir() {
		into = into || isDir // a file does not take the place of a directory
	}
	base, name := target, "" // a directory that is there, and what is in it
	if !into {
		base, name = slash.Dir(slash.Clean(target)), slash.Base(target)
	}
	if !c.options.Upload {
		root, err := os.OpenRoot(base)
		if err != nil {
			return nil, fmt.Errorf("copy to %s: %s", disconnect.Scrub(target), reasonOf(err))
		}
		c.to, base = &localSide{root: root, dir: base}, "."
	}
	for _, source := range c.options.Sources {
		in := name
		if in == "" {
			if in = slash.Base(slash.Clean(source)); in == ".." || in == "/" {
				in = "."
			}
		}
		targets = append(targets, c.to.join(base, in))
	}
	return targets, nil
}

func (c *copying) statTarget(remote *remoteSide, target string) (fs.FileInfo, error) {
	if c.options.Upload {
		return remote.Stat(target)
	}
	return os.Stat(target)
}

// walk copies what is at from: files in turn by files, the rest at once. What fails below
// is reported there.
func (c *copying) walk(ctx context.Context, files *errgroup.Group, from, to string, info fs.FileInfo) error {
	if ctx.Err() != nil {
		return nil
	}
	switch {
	case info.IsDir():
		return c.walkDir(ctx, files, from, to, info)
	case info.Mode().Type() == fs.ModeSymlink:
		return c.link(from, to)
	case info.Mode().IsRegular():
		if _, gone := info.(vanished); gone {
			return fs.ErrNotExist
		}
		c.stats.change(func(s *CopyStats) { s.TotalFiles++; s.TotalBytes += info.Size() })
		files.Go(func() error {
			skipped, err := c.file(ctx, from, to, info)
			return c.report(ctx, CopyResult{Name: c.from.show(from), Bytes: info.Size(), Skipped: skipped}, orDone(err))
		})
		return nil
	}
	return errors.New("it is no file, directory or link")
}

// errDone marks the result of a file that was copied.
var errDone = errors.New("done")

func orDone(err error) error {
	if err == nil {
		return errDone
	}
	return err
}

func (c *copying) walkDir(ctx context.Context, files *errgroup.Group, from, to string, info fs.FileInfo) error {
	switch there, err := c.to.lstat(to); {
	case err == nil && !there.IsDir():
		return fmt.Errorf("%s is there and no directory", c.to.show(to))
	case err != nil:
		if err := c.to.mkdir(to); err != nil {
			return fmt.Errorf("make %s: %w", c.to.show(to), err)
		}
		c.made = append(c.made, madeDir{to, info})
	}
	entries, err := c.from.readDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			continue // no file system has them: whoever names them means no good
		}
		if strings.HasPrefix(name, partPrefix) {
			continue
		}
		below := c.from.join(from, name)
		err := c.walk(ctx, files, below, c.to.join(to, name), entry)
		c.report(ctx, CopyResult{Name: c.from.show(below)}, err)
	}
	return nil
}

// link copies a symbolic link as it is.
func (c *copying) link(from, to string) error {
	leads, err := c.from.readLink(from)
	if err != nil {
		return err
	}
	there, err := c.to.lstat(to)
	switch {
	case err == nil && there.Mode().Type() != fs.ModeSymlink:
		return fmt.Errorf("%s is there and no link", c.to.show(to))
	case err == nil:
		if same, err := c.to.readLink(to); err == nil && same == leads {
			return nil
		}
		if err := c.to.remove(to); err != nil {
			return err
		}
	}
	return c.to.symlink(leads, to)
}

// report tells of a result, and returns the error that ends the copy. Without an error
// there is nothing to tell: it was a directory or a link.
func (c *copying) report(ctx context.Context, r CopyResult, err error) error {
	if err == nil || ctx.Err() != nil && !errors.Is(err, errDone) {
		return nil
	}
	fatal := diskFull(err) || errors.Is(err, sftp.ErrSSHFxConnectionLost)
	c.stats.change(func(s *CopyStats) {
		switch {
		case !errors.Is(err, errDone):
			s.Failed++
		case r.Skipped:
			s.Skipped++
			s.Files++
		default:
			s.Files++
		}
	})
	if !errors.Is(err, errDone) {
		r.Err = fmt.Errorf("copy %s: %s", r.Name, reasonOf(err))
	}
	if c.options.OnResult != nil {
		c.telling.Lock()
		c.options.OnResult(r)
		c.telling.Unlock()
	}
	if fatal {
		return r.Err
	}
	return nil
}

// file copies one file, or goes on where an earlier run stopped.
func (c *copying) file(ctx context.Context, from, to string, info fs.FileInfo) (skipped bool, err error) {
	there, err := c.to.lstat(to)
	switch {
	case err == nil && there.IsDir():
		return false, fmt.Errorf("%s is a directory", c.to.show(to))
	case err == nil && there.Mode().IsRegular() && there.Size() == info.Size() && there.ModTime().Unix() == info.ModTime().Unix():
		c.stats.change(func(s *CopyStats) { s.Bytes += info.Size() })
		return true, nil
	}
	source, err := c.from.open(from)
	if err != nil {
		return false, err
	}
	defer source.Close()
	part := c.to.join(slash.Dir(to), partName(to, info))
	target, err := c.to.create(part)
	if err != nil {
		return false, fmt.Errorf("write %s: %w", c.to.show(to), err)
	}
	err = c.content(ctx, source, target, info.Size())
	if closing := target.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return false, fmt.Errorf("%w; what is copied is in %s, and the next run goes on from it", err, c.to.show(part))
	}
	if now, err := c.from.stat(from); err != nil || now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime()) {
		_ = c.to.remove(part)
		if err != nil {
			return false, fmt.Errorf("it vanished while it was copied: %w", err)
		}
		return false, errors.New("it changed while it was copied")
	}
	if err := c.to.setModes(part, info.Mode().Perm(), info.ModTime()); err != nil {
		return false, fmt.Errorf("set the mode and time of %s: %w", c.to.show(part), err)
	}
	if err := c.to.rename(part, to); err != nil {
		return false, fmt.Errorf("rename %s to %s: %w", c.to.show(part), c.to.show(to), err)
	}
	return false, nil
}

// partName is where a file is until it is whole. Another source, or another version of
// it, has another name.
func partName(to string, info fs.FileInfo) string {
	sum := sha256.Sum256([]byte(slash.Base(to) + "\x00" + strconv.FormatInt(info.Size(), 10) + "\x00" + strconv.FormatInt(info.ModTime().Unix(), 10)))
	return partPrefix + hex.EncodeToString(sum[:8])
}

// content copies what target does not have yet. Chunks are under way side by side, but
// none is more than copyWindow ahead of the first that is missing.
func (c *copying) content(ctx context.Context, source, target content, size int64) error {
	begin, err := c.resume(target, size)
	if err != nil {
		return err
	}
	var parts errgroup.Group
	defer func() { _ = parts.Wait() }()
	queue := make([]chan error, 0, copyWindow)
	first := func() error {
		err := <-queue[0]
		queue = queue[1:]
		return err
	}
	for at := begin; at < size && ctx.Err() == nil; at += copyChunk {
		if len(queue) == copyWindow {
			if err := first(); err != nil {
				return err
			}
		}
		buf := <-c.chunks
		if buf == nil {
			buf = make([]byte, copyChunk)
		}
		done := make(chan error, 1)
		queue = append(queue, done)
		parts.Go(func() error {
			defer func() { c.chunks <- buf }()
			done <- c.chunk(source, target, buf[:min(copyChunk, size-at)], at)
			return nil
		})
	}
	for len(queue) > 0 {
		if err := first(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errStopped
	}
	return nil
}

// resume says from where on target needs the source's bytes.
func (c *copying) resume(target content, size int64) (int64, error) {
	info, err := target.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > size {
		return 0, target.Truncate(0)
	}
	begin := max(0, info.Size()-copyWindow*copyChunk) / copyChunk * copyChunk
	c.stats.change(func(s *CopyStats) { s.Resumed += begin; s.Bytes += begin })
	return begin, nil
}

func (c *copying) chunk(source, target content, buf []byte, at int64) error {
	n, err := source.ReadAt(buf, at)
	if n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			return errors.New("it became shorter while it was copied")
		}
		return err
	}
	if _, err := target.WriteAt(buf, at); err != nil {
		return err
	}
	c.stats.change(func(s *CopyStats) { s.Bytes += int64(len(buf)) })
	return nil
}

// diskFull reports whether no other file will fit either.
func diskFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	var status *sftp.StatusError // which has the text of the other side's error only
	text := ""
	if errors.As(err, &status) {
		text = status.Error()
	}
	return strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error())
}

// reasonOf is an error without the words that os and sftp put around it.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), ";") && !strings.Contains(err.Error(), "write "):
		return "there is no such file, or it vanished"
	case errors.Is(err, syscall.ELOOP):
		return "its links lead in a circle"
	}
	text := err.Error()
	text = strings.ReplaceAll(text, " (SSH_FX_FAILURE)", "")
	text = strings.ReplaceAll(text, "sftp: ", "")
	return disconnect.ScrubTo(strings.ReplaceAll(text, "\"", ""), 1024)
}
