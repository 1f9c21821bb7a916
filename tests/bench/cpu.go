package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit in which the kernel tells processor time (USER_HZ).
const tick = 10 * time.Millisecond

// cpuOfTree returns the processor time that this process and all below it have used,
// those that were waited for included. It grows only, as long as nobody leaves the tree.
func cpuOfTree() (time.Duration, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	used, parent := map[int]time.Duration{}, map[int]int{}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err != nil && strings.Contains(err.Error(), "no such process") {
			continue // it ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		pid, ppid, cpu, err := parseStat(string(data))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		used[pid], parent[pid] = cpu, ppid
	}
	var sum time.Duration
	self := os.Getpid()
	for pid, cpu := range used {
		for at := pid; at > 0; at = parent[at] {
			if at == self {
				sum += cpu
				break
			}
		}
	}
	return sum, nil
}

// parseStat reads a line of /proc/PID/stat: whose it is, the parent, and the time used by
// the process and by its children that were waited for.
func parseStat(line string) (pid, ppid int, cpu time.Duration, err error) {
	end := strings.LastIndexByte(line, ')') // the name before it may hold anything
	if end < 0 {
		return 0, 0, 0, errors.New("no name in it")
	}
	number, _, _ := strings.Cut(line, " ")
	fields := strings.Fields(line[end+1:]) // from the third field on, the state
	const parentField, firstTime, times = 1, 11, 4
	if len(fields) < firstTime+times {
		return 0, 0, 0, errors.New("too few fields")
	}
	if pid, err = strconv.Atoi(number); err != nil {
		return 0, 0, 0, err
	}
	if ppid, err = strconv.Atoi(fields[parentField]); err != nil {
		return 0, 0, 0, err
	}
	for _, field := range fields[firstTime : firstTime+times] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, 0, err
		}
		cpu += time.Duration(n) * tick
	}
	return pid, ppid, cpu, nil
}

// costing measures what f, which moves the given number of bytes, costs: MB/s as f says,
// and the CPU seconds per GB of all processes of the bench, from when f calls began.
func costing(bytes int64, f func(began func()) (float64, error)) (speed, cost float64, err error) {
	var before time.Duration
	var failed error
	if speed, err = f(func() { before, failed = cpuOfTree() }); err != nil {
		return 0, 0, err
	}
	after, err := cpuOfTree()
	return speed, (after - before).Seconds() / (float64(bytes) / 1e9), errors.Join(failed, err)
}
