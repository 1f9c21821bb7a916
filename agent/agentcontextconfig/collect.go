package agentcontextconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"fairlead.dev/fairlead/agent/proto"
)

// What one answer may cost.
const (
	// MaxContent is how much of an instruction file is given, in bytes.
	MaxContent = 64 << 10
	// maxFiles bounds the instruction files.
	maxFiles = 16
	// maxNames is how many names of a directory are read: the rest is as if not there.
	maxNames = 20_000
	// maxSkills bounds the directories that are tried as skills.
	maxSkills = 1000
	// maxSkipped bounds what is told of what was not taken.
	maxSkipped = 100
	// collectTimeout is when looking any further stops.
	collectTimeout = 5 * time.Second
)

var (
	errNotRegular = errors.New("not a regular file")
	errNotText    = errors.New("not text in UTF-8")
)

// ContextConfig reads what the workspace has to tell coding agents. It never fails:
// what cannot be read, or is not what it should be, is among what was skipped. It stops
// looking when ctx ends, or after five seconds.
func (a *API) ContextConfig(ctx context.Context) proto.ContextConfig {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	dir := a.workingDir()
	c := collection{ctx: ctx, seen: map[string]bool{}}
	c.result.MCPConfigFiles = resolve(dir, a.config.MCPConfigFiles)
	for _, p := range places(dir, a.config.InstructionsDirs) {
		c.within(p, func(root *os.Root) error { return c.instructions(root, p, a.config.InstructionsFile) })
	}
	for _, p := range places(dir, a.config.SkillsDirs) {
		c.within(p, func(root *os.Root) error { return c.skills(root, p, a.config.SkillMetaFile) })
	}
	c.result.Clean()
	return c.result
}

// collection is one answer in the making.
type collection struct {
	ctx    context.Context
	result proto.ContextConfig
	seen   map[string]bool // files that are in it, and names of skills
	files  int
	tried  int // as skills
	told   bool
}

// skip tells what was not taken, unless there is nothing.
func (c *collection) skip(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) || len(c.result.Skipped) > maxSkipped {
		return
	}
	if len(c.result.Skipped) == maxSkipped {
		path, err = "", errors.New("more was skipped than is told here")
	}
	if inner := (*fs.PathError)(nil); errors.As(err, &inner) {
		err = inner.Err // the path is told beside it
	}
	c.result.Skipped = append(c.result.Skipped, proto.ContextSkipped{Path: path, Reason: err.Error()})
}

// late reports whether there is no more time, and tells it once.
func (c *collection) late(path string) bool {
	if c.ctx.Err() == nil {
		return false
	}
	if !c.told {
		c.told = true
		c.skip(path, errors.New("there was no time to look any further"))
	}
	return true
}

// within calls look with the root of p, if there is such a directory.
func (c *collection) within(p place, look func(*os.Root) error) {
	if c.late(p.path()) {
		return
	}
	root, err := openRoot(p.root)
	if err == nil {
		err = look(root)
		_ = root.Close() // it was only read
	}
	if err != nil {
		c.skip(p.path(), err)
	}
}

// openRoot is os.OpenRoot, which would wait for ever at a named pipe.
func openRoot(path string) (*os.Root, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errors.New("not a directory")
	}
	return os.OpenRoot(path)
}

// instructions takes the instruction file of one directory.
func (c *collection) instructions(root *os.Root, p place, name string) error {
	path := filepath.Join(p.path(), name)
	if c.seen[path] {
		return nil
	}
	if c.files == maxFiles {
		return fmt.Errorf("there are %d context files already", maxFiles)
	}
	data, more, err := readFile(root, filepath.Join(p.sub, name), MaxContent)
	if err == nil && !isText(&data, more) {
		err = errNotText
	}
	if err != nil {
		c.skip(path, err)
		return nil
	}
	content, cleaned := proto.CleanText(string(data))
	if strings.TrimSpace(content) == "" {
		return nil
	}
	c.seen[path] = true
	c.files++
	c.result.Parts = append(c.result.Parts, proto.ContextPart{
		Type: proto.ContextFile, Path: path, Content: content, Truncated: more, Cleaned: cleaned,
	})
	return nil
}

// isText reports whether data is text. If it goes on elsewhere, its last character may
// be cut, and is taken off.
func isText(data *[]byte, more bool) bool {
	d := *data
	for i := len(d) - 1; more && i >= 0 && i >= len(d)-utf8.UTFMax; i-- {
		if utf8.RuneStart(d[i]) {
			if !utf8.FullRune(d[i:]) {
				d = d[:i]
			}
			break
		}
	}
	*data = d
	return utf8.Valid(d) && bytes.IndexByte(d, 0) < 0
}

// readFile reads at most limit bytes of a regular file, and tells whether it has more.
func readFile(root *os.Root, name string, limit int64) (data []byte, more bool, err error) {
	info, err := root.Stat(name) // before: a device may do something when it is opened
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, errNotRegular
	}
	f, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil { // again: it may be another one by now
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, errNotRegular
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, false, err
	}
	if int64(len(data)) > limit {
		return data[:limit], true, nil
	}
	return data, false, nil
}

// skills takes the skills of one directory, each a directory with a meta file.
func (c *collection) skills(root *os.Root, p place, meta string) error {
	names, err := c.candidates(root, p)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(p.path(), name)
		if c.late(path) {
			return nil
		}
		if c.tried == maxSkills {
			return fmt.Errorf("only the first %d skills were looked at", maxSkills)
		}
		c.tried++
		if err := c.skill(root, filepath.Join(p.sub, name), path, meta); err != nil {
			c.skip(path, err)
		}
	}
	return nil
}

// candidates returns the names of what may be skills, in order.
func (c *collection) candidates(root *os.Root, p place) ([]string, error) {
	f, err := root.OpenFile(p.sub, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.IsDir() {
		return nil, errors.Join(err, errors.New("not a directory"))
	}
	var names []string
	for read := 0; !c.late(p.path()); {
		entries, err := f.ReadDir(512)
		for _, e := range entries {
			if kind := e.Type(); (kind.IsDir() || kind&fs.ModeSymlink != 0) && !strings.HasPrefix(e.Name(), ".") {
				names = append(names, e.Name())
			}
		}
		read += len(entries)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if read >= maxNames {
			c.skip(p.path(), fmt.Errorf("of its entries only the first %d were looked at", maxNames))
			break
		}
	}
	slices.Sort(names)
	return names, nil
}

// skill takes one skill. A directory without a meta file is none.
func (c *collection) skill(root *os.Root, dir, path, metaFile string) error {
	data, _, err := readFile(root, filepath.Join(dir, metaFile), maxFrontMatter)
	if err != nil {
		return err
	}
	found, err := parseSkill(data)
	if err != nil {
		return err
	}
	if found.name != filepath.Base(path) {
		return fmt.Errorf("its name is %q, but the name of a skill is that of its directory", found.name)
	}
	if c.seen[found.name] {
		return errors.New("a skill of an earlier directory has this name")
	}
	c.seen[found.name] = true
	c.result.Parts = append(c.result.Parts, proto.ContextPart{
		Type: proto.ContextSkill, SkillName: found.name, SkillDescription: found.description, SkillDirectory: path,
	})
	return nil
}
