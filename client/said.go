package client

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Said is what a person was told at once of a session that ended unexpectedly, while the
// server could still learn more.
type Said struct {
	ConnectionID string               `json:"connection_id"`
	Workspace    string               `json:"workspace"`
	Ended        time.Time            `json:"ended"`
	Reason       disconnect.Reason    `json:"reason"`
	Initiator    disconnect.Initiator `json:"initiator"`
}

func (r *Records) saidPath() string { return filepath.Join(r.dir, "said.json") }

// Say keeps what was said last, for the next command to correct if it turns out to be
// wrong. What cannot be kept is not corrected.
func (r *Records) Say(said Said) {
	if r == nil {
		return
	}
	body, err := json.Marshal(said)
	if err == nil {
		err = os.MkdirAll(r.dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(r.saidPath(), body, 0o600)
	}
	if err != nil {
		r.log.Debug("cannot keep what was said of a session", "error", err)
	}
}

// Said returns what was said last and is not settled, if it is not older than a verdict
// may change.
func (r *Records) Said(now time.Time) (said Said, ok bool) {
	if r == nil {
		return said, false
	}
	body, err := os.ReadFile(r.saidPath())
	if err != nil {
		return said, false
	}
	if len(body) > maxUntold || json.Unmarshal(body, &said) != nil || now.Sub(said.Ended).Abs() > keepUntold+time.Hour {
		r.Settled()
		return said, false
	}
	return said, true
}

// Settled forgets what was said last: nothing more will be known of it.
func (r *Records) Settled() {
	_ = os.Remove(r.saidPath())
}
