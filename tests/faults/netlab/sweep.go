package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namesDir is where ip(8) keeps the names of network namespaces.
const namesDir = "/run/netns"

// namespaceName says whose a namespace is: after that process has died it may be swept.
func namespaceName(pid int, lab, host string) string {
	return fmt.Sprintf("fl-%d-%s-%s", pid, lab, host)
}

// Sweep removes the labs of processes that have died, with all that still runs in them.
// Build calls it.
func Sweep() error {
	entries, err := os.ReadDir(namesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	var dead []uint64
	var names []string
	for _, entry := range entries {
		owner, _, _ := strings.Cut(strings.TrimPrefix(entry.Name(), "fl-"), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || !strings.HasPrefix(entry.Name(), "fl-") || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		var stat unix.Stat_t
		if unix.Stat(filepath.Join(namesDir, entry.Name()), &stat) == nil {
			dead = append(dead, stat.Ino)
		}
		names = append(names, entry.Name())
	}
	if len(names) == 0 {
		return nil
	}
	errs = append(errs, killInside(dead))
	for _, name := range names {
		errs = append(errs, removeName(name))
	}
	return errors.Join(errs...)
}

// removeName is "ip netns delete", which may have been done by another sweep already.
func removeName(name string) error {
	path := filepath.Join(namesDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inside returns the processes whose network namespace is one of those; never this one,
// though Do may have its first thread there just now.
func inside(namespaces []uint64) ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, link := range links {
		target, err := os.Readlink(link) // net:[4026532000]
		if err != nil {
			continue // it has ended
		}
		inode, err := strconv.ParseUint(strings.Trim(target, "net:[]"), 10, 64)
		if err == nil && slices.Contains(namespaces, inode) {
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			if err != nil {
				return nil, err
			}
			if pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// killInside kills all processes of those namespaces, and those that they fork
// meanwhile, and returns when they have gone.
func killInside(namespaces []uint64) error {
	if len(namespaces) == 0 {
		return nil
	}
	for range 500 {
		pids, err := inside(namespaces)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // that it has gone is seen in the next round
		}
		<-time.After(10 * time.Millisecond)
	}
	return errors.New("processes in the lab do not die; is one of them frozen?")
}
