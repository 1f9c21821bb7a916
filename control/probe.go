package control

import (
	"context"
	"time"
)

// probeLook is how often Probe looks for the answer.
const probeLook = 5 * time.Millisecond

// Probe asks the other end's program whether it lives, and reports whether it answered
// before ctx, or the link, ended.
func (l *Link) Probe(ctx context.Context) bool {
	tick := time.NewTicker(probeLook)
	defer tick.Stop()
	for asked := uint64(0); ; {
		// A frame that is being sent may be stuck: never wait for it.
		if asked == 0 && l.sendMu.TryLock() {
			asked = l.beatLocked(true)
			l.sendMu.Unlock()
		}
		if asked > 0 && l.echoed.Load() >= asked {
			return true
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}
