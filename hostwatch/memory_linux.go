package hostwatch

import (
	"os"
	"path"
	"strconv"
	"strings"
)

// readKills reads the counts of cgroup v2, or of v1, and of the machine. Nothing is kept
// open: this process may be moved to another cgroup.
func readKills() Kills {
	k := Kills{Group: -1, Machine: count("/proc/vmstat", "oom_kill")}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return k
	}
	for line := range strings.Lines(string(groups)) { // 4:memory:/some/group, and 0::/ for v2
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		var file string
		switch {
		case fields[0] == "0":
			file = path.Join("/sys/fs/cgroup", fields[2], "memory.events")
		case strings.Contains(","+fields[1]+",", ",memory,"):
			file = path.Join("/sys/fs/cgroup/memory", fields[2], "memory.oom_control")
		default:
			continue
		}
		if n := count(file, "oom_kill"); n >= 0 {
			k.Group, k.In = n, fields[2]
		}
	}
	return k
}

// count returns the value of a line "key value" of a file, or -1.
func count(file, key string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				return n
			}
		}
	}
	return -1
}
