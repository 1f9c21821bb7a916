package inject

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// roots are where the hierarchies may be: cgroup v2 alone, beside v1, and v1.
var roots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/freezer"}

var groups atomic.Int64 // how many were made, which names the next

// group is a cgroup of ours. Its name has the id of this process, so that another one
// can remove it after we died.
type group struct {
	dir  string
	home map[int]string // where each process came from
}

// newGroup makes a cgroup in the first hierarchy where a new group has that file.
func newGroup(with string) (*group, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("a cgroup %w", ErrNeedsRoot)
	}
	sweepGroups()
	name := fmt.Sprintf("fl-%d-%d", os.Getpid(), groups.Add(1))
	var refused error
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if !hierarchy(root) {
			continue
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			refused = err
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, with)); err == nil {
			return &group{dir: dir, home: map[int]string{}}, nil
		}
		if err := os.Remove(dir); err != nil {
			return nil, err
		}
	}
	if errors.Is(refused, fs.ErrPermission) || errors.Is(refused, syscall.EROFS) {
		return nil, fmt.Errorf("a cgroup %w", ErrNeedsRoot)
	}
	return nil, fmt.Errorf("no cgroup here has %s: %w", with, errors.ErrUnsupported)
}

func hierarchy(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.procs"))
	return err == nil
}

func (g *group) write(file, value string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0)
}

func (g *group) read(file string) string {
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return "" // the callers wait for words in it
	}
	return string(text)
}

// number returns the value of a line "key value" in a file of the group.
func (g *group) number(file, key string) int64 {
	for line := range strings.Lines(g.read(file)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == key {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// add moves a process in and notes where it came from.
func (g *group) add(pid int) error {
	if _, ok := g.home[pid]; ok {
		return nil
	}
	home, err := g.homeOf(pid)
	if err != nil {
		return err
	}
	if err := g.write("cgroup.procs", strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("move %d into a cgroup: %w", pid, err)
	}
	g.home[pid] = home
	return nil
}

// homeOf returns the directory of a process's group in this group's hierarchy.
func (g *group) homeOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	root := filepath.Dir(g.dir)
	for line := range strings.Lines(string(text)) { // 4:memory:/some/group, and 0::/ for v2
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if v1 := filepath.Base(root); fields[1] == v1 || (fields[1] == "" && v1 != "memory" && v1 != "freezer") {
			return filepath.Join(root, fields[2]), nil
		}
	}
	return "", fmt.Errorf("find the cgroup of %d: not in %q", pid, text)
}

// remove lets the processes that live go home, and removes the group.
func (g *group) remove() error {
	for pid, home := range g.home {
		// One that died, or whose home was removed, needs none.
		_ = os.WriteFile(filepath.Join(home, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	}
	for left := range strings.FieldsSeq(g.read("cgroup.procs")) { // children of those
		_ = os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.procs"), []byte(left), 0)
	}
	return os.Remove(g.dir)
}

// sweepGroups removes the groups of processes that have died; what was frozen in them
// lives again, and dies.
func sweepGroups() {
	for _, root := range roots {
		dirs, _ := filepath.Glob(filepath.Join(root, "fl-*-*")) // the pattern is right
		for _, dir := range dirs {
			owner, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
			if err != nil || !errors.Is(syscall.Kill(owner, 0), syscall.ESRCH) {
				continue
			}
			g := &group{dir: dir}
			for pid := range strings.FieldsSeq(g.read("cgroup.procs")) {
				if n, err := strconv.Atoi(pid); err == nil {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
			_, _ = g.write("cgroup.freeze", "0"), g.write("freezer.state", "THAWED")
			_ = os.Remove(dir) // if it is still busy, the next one does it
		}
	}
}
