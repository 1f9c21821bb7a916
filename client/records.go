package client

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/journal"
	"fairlead.dev/fairlead/sdk"
)

const (
	// testifyWait bounds a testimony: nobody waits for long at the end of a session.
	testifyWait = 2 * time.Second
	// keepAfter is how long a connection lasts of which there is a record: most are over
	// before, and the disk would hold up their end.
	keepAfter = time.Second
	// signEvery is how often the record of an open connection is touched.
	signEvery = 2 * time.Second
	// maxFormer bounds what one command reports of the lives before it.
	maxFormer = 20
	// keepUntold is how long a testimony waits for a server that takes it. After it a
	// verdict does not change any more.
	keepUntold = 24 * time.Hour
	// maxUntold bounds one that is read, in bytes.
	maxUntold = 64 << 10
)

// Records are what the clients of this machine note of connections with one server: those
// that are open, and the testimonies that the server has not heard. An open connection has
// a journal of its own, which belongs to the process that has it; a testimony that waits
// has a file. nil keeps nothing.
type Records struct {
	dir string
	api *sdk.Client
	log *slog.Logger
}

// NewRecords returns the records in dir, which is of one server and user; api is where
// they are told. logger nil discards.
func NewRecords(dir string, api *sdk.Client, logger *slog.Logger) *Records {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Records{dir: dir, api: api, log: logger}
}

func (r *Records) path(name string) string { return filepath.Join(r.dir, name) }

// What a record of an open connection begins with: a session's goes on with the name of
// its workspace, a control link's is all there is.
const (
	openRecord = "open "
	linkRecord = "link"
)

// workspaceOf is the workspace of a session's record.
func workspaceOf(records []journal.Record) string {
	for _, rec := range records {
		if name, ok := strings.CutPrefix(string(rec.Data), openRecord); ok {
			return disconnect.Scrub(name)
		}
	}
	return ""
}

// keep notes that a connection is open, until over; then it is forgotten. A record that
// cannot be kept is only missing after a crash.
func (r *Records) keep(id, record string, over <-chan struct{}) {
	if r == nil || uuid.Validate(id) != nil {
		return
	}
	begin := time.NewTimer(keepAfter)
	defer begin.Stop()
	select {
	case <-over:
		return
	case <-begin.C:
	}
	j, _, err := journal.Open(r.path(id), journal.Options{})
	if err != nil {
		r.log.Debug("cannot record an open connection", "error", err)
		return
	}
	defer func() {
		_ = os.RemoveAll(r.path(id))
		_ = j.Close() // what it would be read for is over
	}()
	if _, err := j.Append([]byte(record)); err != nil {
		return
	}
	tick := time.NewTicker(signEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			j.Touch()
		}
	}
}

// Report tells the server how the connections of former lives ended, and what it could not
// be told then. It takes two seconds at most; what fails is tried by the next command.
func (r *Records) Report(ctx context.Context) {
	if r == nil {
		return
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return // there are none
	}
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int { return changed(b).Compare(changed(a)) })
	ctx, cancel := context.WithTimeout(ctx, testifyWait)
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	for i, e := range entries {
		switch name := e.Name(); {
		case i >= maxFormer:
			if strings.HasSuffix(name, untoldSuffix) && time.Since(changed(e)) > keepUntold {
				_ = os.Remove(r.path(name))
			}
		case uuid.Validate(name) == nil:
			work.Go(func() { r.reportFormer(ctx, name) })
		case strings.HasSuffix(name, untoldSuffix):
			work.Go(func() { r.tellAgain(ctx, name) })
		}
	}
}

func changed(e os.DirEntry) time.Time {
	if info, err := e.Info(); err == nil {
		return info.ModTime()
	}
	return time.Time{}
}

// reportFormer tells of one connection, unless its process lives.
func (r *Records) reportFormer(ctx context.Context, id string) {
	j, left, err := journal.Open(r.path(id), journal.Options{})
	if err != nil {
		return
	}
	t := formerEnd(left, clock.Now())
	kept := true
	if t != nil {
		kept = r.note(id, t)
		r.logFormer(t)
		if t.ConnectType == disconnect.AgentToClient {
			r.remember(Recent{ConnectionID: id, Workspace: workspaceOf(left.Records), Ended: t.FirstNoticed.Wall, Testimony: *t})
		}
	}
	if kept { // else the next command may have a disk that takes it
		_ = os.RemoveAll(r.path(id))
	}
	_ = j.Close() // it is removed
	if t != nil {
		r.deliver(ctx, id, t)
	}
}

// logFormer is the line of an ending that its own process could not log.
func (r *Records) logFormer(t *verdict.Testimony) {
	a := disconnect.Attribution{
		ConnectType: t.ConnectType, Reason: disconnect.PeerCrashed, Initiator: disconnect.Client, Detail: t.Facts[0].Text,
	}
	msg := "former session ended"
	if t.ConnectType == disconnect.ClientToServer {
		msg = "former control link ended"
	}
	a.Log(context.Background(), r.log, msg, slog.String("connection_id", t.ConnectionID), slog.Time("last_sign", t.LastGood.Wall))
}

// formerEnd is what the record of a connection says whose process is gone; nil: nothing.
func formerEnd(left journal.Recovered, now time.Time) *verdict.Testimony {
	if left.Clean || len(left.Records) == 0 {
		return nil
	}
	fact := verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, Text: "the client died without a goodbye",
		At: verdict.Moment{Wall: left.LastSign}, Until: verdict.Moment{Wall: now}}
	if !left.SameBoot {
		fact.Outcome, fact.Text = verdict.Rebooted, "the client's machine went down without a goodbye"
	}
	noticed := left.LastSign.Add(journal.SignInterval + signEvery)
	if now.Before(noticed) {
		noticed = now
	}
	leg := disconnect.AgentToClient
	if string(left.Records[0].Data) == linkRecord {
		leg = disconnect.ClientToServer
	}
	t := newTestimony("obituary", leg)
	t.LastGood, t.FirstNoticed = verdict.Moment{Wall: left.LastSign}, verdict.Moment{Wall: noticed}
	t.Facts = []verdict.Fact{fact}
	return t
}

// untold is a testimony in its file.
type untold struct {
	Testimony verdict.Testimony `json:"testimony"` // its clock was read when it was written
}

// untoldSuffix ends the names of their files, which begin with the connection's id.
const untoldSuffix = ".untold"

func untoldName(id string, t *verdict.Testimony) string { return id + "." + t.ID + untoldSuffix }

// deliver tells a testimony, or keeps it for the next command. It reports whether the
// server has taken it.
func (r *Records) deliver(ctx context.Context, id string, t *verdict.Testimony) (told bool) {
	r.note(id, t) // before anything that takes time: this process may be ended meanwhile
	told, over := r.tell(ctx, t)
	if over {
		_ = os.Remove(r.path(untoldName(id, t)))
	}
	return told
}

// note keeps a testimony until it is told, and reports whether the disk took it. Without
// that the server hears one witness less.
func (r *Records) note(id string, t *verdict.Testimony) (kept bool) {
	t.ConnectionID, t.Clock = id, clockNow()
	body, err := json.Marshal(untold{*t})
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
	_, over := r.tell(ctx, t)
	if over || t.Clock.Wall.Sub(noted.Wall).Abs() > keepUntold {
		_ = os.Remove(r.path(name))
	}
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

// tell tells the server a testimony whose clock is now. It reports whether the server has
// taken it, and whether there is no use in telling it again.
func (r *Records) tell(ctx context.Context, t *verdict.Testimony) (told, over bool) {
	body, err := json.Marshal(t)
	if err != nil || r.api == nil {
		return false, true
	}
	if err = r.api.Testify(ctx, t.ConnectionID, body); err == nil {
		return true, true
	}
	var refused *sdk.Error
	if !errors.As(err, &refused) || refused.Code == sdk.CodeNotFairlead {
		return false, false
	}
	switch refused.Status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusGone, http.StatusRequestEntityTooLarge:
		return false, true
	}
	return false, false // also what is not found: an agent that is away has not reported it yet
}
