package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"fairlead.dev/fairlead/hostwatch"
)

// memoryFile holds the kernel's counts of processes that it killed for want of memory, as
// this life last saw them. If they are higher when the next life begins, and this one said
// nothing, it was one of them.
const memoryFile = "memory"

// watchMemory reads what the former life saw, and begins to observe. Without the file
// nothing is known of how a life ended, and that is all.
func (a *agent) watchMemory() {
	path := filepath.Join(a.opts.StateDir, memoryFile)
	former, now := hostwatch.Kills{Group: -1, Machine: -1}, hostwatch.ReadKills()
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &former) != nil {
		former = hostwatch.Kills{Group: -1, Machine: -1}
	}
	a.starved = func(ago time.Duration) bool { return former.Since(now, ago) }
	a.memory = hostwatch.WatchMemory(func(k hostwatch.Kills) {
		if data, err := json.Marshal(k); err == nil {
			_ = os.WriteFile(path, data, 0o600)
		}
	})
}
