package coordinator

import (
	"golang.org/x/time/rate"

	"fairlead.dev/fairlead/control"
)

// asker is a user or a workspace's agent.
type asker struct {
	kind control.Kind
	id   string
}

// allowance bounds the questions to the database that one asker causes.
type allowance struct {
	limiter *rate.Limiter
	streams int // that share it; guarded by Coordinator.mu
}

// askingLocked returns what bounds a new stream's questions; doneAsking must follow
// when the stream has ended.
func (c *Coordinator) askingLocked(id control.Identity) *rate.Limiter {
	who := asker{id.Kind, id.ID}
	a := c.asking[who]
	if a == nil {
		a = &allowance{limiter: rate.NewLimiter(askPerSecond, askBurst)}
		c.asking[who] = a
	}
	a.streams++
	return a.limiter
}

func (c *Coordinator) doneAsking(id control.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	who := asker{id.Kind, id.ID}
	if a := c.asking[who]; a.streams > 1 {
		a.streams--
		return
	}
	delete(c.asking, who)
}
