package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The lines around what fairlead writes into an OpenSSH configuration. The suffix of
// the hosts tells blocks of several logins apart.
func blockStart(suffix string) string { return "# START FAIRLEAD ." + suffix }
func blockEnd(suffix string) string   { return "# END FAIRLEAD ." + suffix }

// replaceBlock returns text with the block of suffix replaced by block, which is empty
// or whole lines with both marks. All other bytes stay. A new block goes first:
// OpenSSH takes the first value it finds, and a `Host *` before ours would win.
func replaceBlock(text []byte, suffix, block string) ([]byte, error) {
	from, to, err := findBlock(text, suffix)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{text[:from], []byte(block), text[to:]}, nil), nil
}

// findBlock returns where the block of suffix is; nothing at the beginning if there is
// none.
func findBlock(text []byte, suffix string) (from, to int, err error) {
	start, end := blockStart(suffix), blockEnd(suffix)
	from, to = -1, -1
	at := 0
	for line := range bytes.Lines(text) {
		switch strings.TrimSpace(string(line)) {
		case start:
			if from >= 0 {
				return 0, 0, fmt.Errorf("it has the line %q twice; remove one block by hand", start)
			}
			from = at
		case end:
			if from < 0 || to >= 0 {
				return 0, 0, fmt.Errorf("it has the line %q without a line %q before it; repair that by hand", end, start)
			}
			to = at + len(line)
		}
		at += len(line)
	}
	switch {
	case from < 0:
		return 0, 0, nil
	case to < 0:
		return 0, 0, fmt.Errorf("it has the line %q, but no line %q after it; repair that by hand", start, end)
	}
	return from, to, nil
}

// managedFile is a file of which we change a part, or all.
type managedFile struct {
	shown string      // the path as the user knows it
	path  string      // the file itself, behind symbolic links
	mode  fs.FileMode // to give to what replaces it
	old   []byte
	fresh bool // it does not exist yet
}

// openManaged reads path; it may not exist yet.
func openManaged(path string) (*managedFile, error) {
	f := &managedFile{shown: path, path: path, mode: 0o600}
	resolved, err := filepath.EvalSymlinks(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, linkErr := os.Readlink(path); linkErr == nil {
			return nil, fmt.Errorf("%s is a symbolic link to %s, which is not there", path, target)
		}
		f.fresh = true
		return f, nil
	case err != nil:
		return nil, err
	}
	f.path = resolved
	info, err := os.Stat(resolved)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f.mode = info.Mode().Perm()
	f.old, err = os.ReadFile(resolved)
	return f, err
}

// replace makes content the file's content, whole or not at all.
func (f *managedFile) replace(content []byte) error {
	if bytes.Equal(f.old, content) && !f.fresh {
		return nil
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(f.path)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(f.mode), tmp.Sync(), tmp.Close()); err == nil {
		err = f.unchanged()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// unchanged reports an editor that was faster.
func (f *managedFile) unchanged() error {
	now, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) && f.fresh {
		return nil
	}
	if err != nil {
		return err
	}
	if f.fresh || !bytes.Equal(now, f.old) {
		return errors.New("it was changed by somebody else meanwhile; run the command again")
	}
	return nil
}

// remove deletes the file, which is wholly ours.
func (f *managedFile) remove() error {
	if f.fresh {
		return nil
	}
	return os.Remove(f.path)
}

// diff returns the change as a unified diff with one hunk; empty without a change.
func (f *managedFile) diff(content []byte) string {
	if bytes.Equal(f.old, content) {
		return ""
	}
	from := f.shown
	if f.fresh {
		from = os.DevNull
	}
	to := f.shown
	if content == nil {
		to = os.DevNull
	}
	return fmt.Sprintf("--- %s\n+++ %s\n", from, to) + unifiedHunk(splitLines(f.old), splitLines(content))
}

func splitLines(text []byte) (lines []string) {
	for line := range bytes.Lines(text) {
		lines = append(lines, string(line))
	}
	return lines
}

// unifiedHunk is the hunk from the first line that differs to the last, with three
// lines around it.
func unifiedHunk(old, now []string) string {
	const around = 3
	head := 0
	for head < len(old) && head < len(now) && old[head] == now[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(now)-head && old[len(old)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	first, last := max(0, head-around), max(0, tail-around)
	var b strings.Builder
	fmt.Fprintf(&b, "@@ -%s +%s @@\n", hunkRange(first, len(old)-last), hunkRange(first, len(now)-last))
	put := func(mark string, lines []string) {
		for _, line := range lines {
			b.WriteString(mark + line)
			if !strings.HasSuffix(line, "\n") {
				b.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	put(" ", old[first:head])
	put("-", old[head:len(old)-tail])
	put("+", now[head:len(now)-tail])
	put(" ", old[len(old)-tail:len(old)-last])
	return b.String()
}

// hunkRange is "line,count" of the lines from first to end.
func hunkRange(first, end int) string {
	if end == first {
		return fmt.Sprintf("%d,0", first)
	}
	return fmt.Sprintf("%d,%d", first+1, end-first)
}
