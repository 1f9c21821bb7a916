package control

import (
	"time"

	"fairlead.dev/fairlead/disconnect"
)

const (
	// earlyCut is how old a link is at most when it counts as cut early: not much
	// older than the first heartbeat, which comes after 4 s of possible silence.
	earlyCut = 8 * time.Second
	// cutsToTell is how many early cuts in a row are no chance.
	cutsToTell = 3
)

// MsgCuts is what the log says of links that [Cuts] finds.
const MsgCuts = "the control link is cut again and again before its first heartbeat: a proxy's idle time-out may be too short, fairlead server check tells"

// Cuts counts control links that are cut soon after their beginning without a word:
// the mark of a proxy that bears less silence than there is between two heartbeats.
// The zero value is ready. It is for one goroutine.
type Cuts struct {
	inARow int
	told   bool
}

// Note counts a link that has lived so long and ended so, and reports whether it is
// time to tell: once for each series.
func (c *Cuts) Note(lived time.Duration, a disconnect.Attribution) bool {
	wordless := a.Reason == disconnect.NetworkError || a.Reason == disconnect.ConnectionReset
	if !wordless || lived > earlyCut {
		*c = Cuts{}
		return false
	}
	c.inARow++
	if c.told || c.inARow < cutsToTell {
		return false
	}
	c.told = true
	return true
}

// InARow returns how many there were in the present series.
func (c *Cuts) InARow() int { return c.inARow }
