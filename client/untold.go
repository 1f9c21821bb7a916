package client

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
)

const (
	// keepUntold is how long a testimony waits for a server that takes it, and for a final
	// verdict. After it a verdict does not change any more.
	keepUntold = 24 * time.Hour
	// maxUntold bounds one that is read, in bytes.
	maxUntold = 64 << 10
)

// untold is a testimony in its file: one that the server has not heard, or on which it has
// no final verdict.
type untold struct {
	Testimony verdict.Testimony `json:"testimony"` // its clock was read when it was written
	// Said is how the client last wrote down that the connection ended.
	Said disconnect.Attribution `json:"said"`
}

// untoldSuffix ends the names of their files, which begin with the connection's id.
const untoldSuffix = ".untold"

func untoldName(id string, t *verdict.Testimony) string { return id + "." + t.ID + untoldSuffix }

// deliver tells a testimony, or keeps it for the next command.
func (r *Records) deliver(ctx context.Context, id string, t *verdict.Testimony) {
	u := untold{Testimony: *t, Said: t.Account}
	r.note(id, &u) // before anything that takes time: this process may be ended meanwhile
	r.tellAndKeep(ctx, &u)
}

// tellAndKeep tells a testimony, and forgets it when that can change nothing any more.
func (r *Records) tellAndKeep(ctx context.Context, u *untold) {
	row, over := r.tell(ctx, &u.Testimony)
	corrected := r.heed(u, row)
	switch id := u.Testimony.ConnectionID; {
	case over && (row.Status == "" || u.settled(row)):
		_ = os.Remove(r.path(untoldName(id, &u.Testimony)))
	case corrected:
		r.note(id, u)
	}
}

// settled reports whether nothing else will be known of the end that u is about, in the
// words of the connection log. What this machine did itself it knows best.
func (u *untold) settled(row sdk.Connection) bool {
	t := &u.Testimony
	return t.Kind != verdict.Ending || t.Evidence == disconnect.EvidenceLocal || row.Status == "closed" && !row.Provisional
}

// heed writes down how a connection ended by all that was testified, where this machine
// has said something else. It reports whether it has.
func (r *Records) heed(u *untold, row sdk.Connection) (corrected bool) {
	if u.Testimony.Kind != verdict.Ending || row.Status != "closed" || row.Reason == nil || row.Initiator == nil || row.Detail == nil {
		return false
	}
	sure := row.Confidence != nil && (*row.Confidence == disconnect.ConfidenceCertain.String() || *row.Confidence == disconnect.ConfidenceHigh.String())
	if row.Provisional && !sure {
		return false
	}
	ending := disconnect.Attribution{ConnectType: u.Testimony.ConnectType, Detail: disconnect.Scrub(*row.Detail)}
	var err error
	if ending.Reason, err = disconnect.ParseReason(*row.Reason); err != nil || ending.Reason == disconnect.Unknown {
		return false
	}
	if ending.Initiator, err = disconnect.ParseInitiator(*row.Initiator); err != nil {
		return false
	}
	if ending.Reason == u.Said.Reason && ending.Initiator == u.Said.Initiator {
		return false
	}
	u.Said = ending
	ending.Log(context.Background(), r.log, "ending corrected by the server's verdict", slog.String("connection_id", u.Testimony.ConnectionID))
	return true
}

// note keeps a testimony until it is told, and reports whether the disk took it. Without
// that the server hears one witness less.
func (r *Records) note(id string, u *untold) (kept bool) {
	t := &u.Testimony
	t.ConnectionID, t.Clock = id, clockNow()
	body, err := json.Marshal(u)
	if err != nil {
		return true // only a time beyond the year 9999 does this: it will not be better
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return false
	}
	name := r.path(untoldName(id, t))
	tmp := name + "." + uuid.NewString()
	if err = os.WriteFile(tmp, body, 0o600); err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		_ = os.Remove(tmp)
		r.log.Debug("cannot keep a testimony", "error", err)
	}
	return err == nil
}

// tellAgain tells a testimony that was kept.
func (r *Records) tellAgain(ctx context.Context, name string) {
	var kept untold
	body, err := os.ReadFile(r.path(name))
	if err != nil || len(body) > maxUntold || json.Unmarshal(body, &kept) != nil || kept.Testimony.Validate() != nil {
		_ = os.Remove(r.path(name)) // nobody will understand it
		return
	}
	t := &kept.Testimony
	noted := t.Clock
	t.Clock = clockNow()
	if !sameBoot(noted, t.Clock) {
		t.Clock.Mono = 0 // its moments are of another zero
	}
	if old := t.Clock.Wall.Sub(noted.Wall).Abs() > keepUntold; old {
		defer os.Remove(r.path(name))
	}
	r.tellAndKeep(ctx, &kept)
}

// clockNow reads both clocks, to which the moments of a testimony relate.
func clockNow() verdict.Clock {
	return verdict.Clock{Wall: clock.Now().Round(0), Mono: max(clock.Boot().Microseconds(), 1)}
}

// sameBoot reports whether both clocks have run equally far between two readings, as they
// do unless the machine was started anew, or its wall clock set.
func sameBoot(a, b verdict.Clock) bool {
	return b.Mono >= a.Mono && (b.Wall.Sub(a.Wall)-time.Duration(b.Mono-a.Mono)*time.Microsecond).Abs() < 2*time.Second
}

// tell tells the server a testimony whose clock is now. It returns the row if the server
// has taken it, and whether there is no use in telling it again.
func (r *Records) tell(ctx context.Context, t *verdict.Testimony) (row sdk.Connection, over bool) {
	body, err := json.Marshal(t)
	if err != nil || r.api == nil {
		return row, true
	}
	if row, err = r.api.Testify(ctx, t.ConnectionID, body); err == nil {
		return row, true
	}
	var refused *sdk.Error
	if !errors.As(err, &refused) || refused.Code == sdk.CodeNotFairlead {
		return sdk.Connection{}, false
	}
	switch refused.Status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusGone, http.StatusRequestEntityTooLarge:
		return sdk.Connection{}, true
	}
	return sdk.Connection{}, false // also what is not found: an agent that is away has not reported it yet
}
