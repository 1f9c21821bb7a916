package client

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/journal"
	"fairlead.dev/fairlead/sdk"
)

const (
	// testifyWait bounds a testimony: nobody waits for long at the end of a session.
	testifyWait = 2 * time.Second
	// keepAfter is how long a session lasts of which there is a record: most are over
	// before, and the disk would hold up their end.
	keepAfter = time.Second
	// signEvery is how often the record of an open session is touched.
	signEvery = 2 * time.Second
	// maxFormer bounds what one command reports of the lives before it.
	maxFormer = 20
)

// Records are what the clients of this machine note of sessions with one server: those
// that are open, and the ends that the server has not heard of. Each session has a
// journal of its own, which belongs to the process that has it. nil keeps nothing.
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

func (r *Records) path(id string) string { return filepath.Join(r.dir, id) }

// openRecord begins the record of an open session; the name of its workspace follows.
const openRecord = "open "

// workspaceOf is the workspace of a record.
func workspaceOf(records []journal.Record) string {
	for _, rec := range records {
		if name, ok := strings.CutPrefix(string(rec.Data), openRecord); ok {
			return disconnect.Scrub(name)
		}
	}
	return ""
}

// keep notes that a session is open, until over; then it is forgotten. A record that
// cannot be kept is only missing after a crash.
func (r *Records) keep(id, workspace string, over <-chan struct{}) {
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
		r.log.Debug("cannot record an open session", "error", err)
		return
	}
	defer func() {
		_ = os.RemoveAll(r.path(id))
		_ = j.Close() // what it would be read for is over
	}()
	if _, err := j.Append([]byte(openRecord + workspace)); err != nil {
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

// Report tells the server how the sessions of former lives ended, and what it could not
// be told then. It takes two seconds at most; what fails is tried by the next command.
func (r *Records) Report(ctx context.Context) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return // there are none
	}
	ctx, cancel := context.WithTimeout(ctx, testifyWait)
	defer cancel()
	var work sync.WaitGroup
	defer work.Wait()
	for i, e := range entries {
		if i < maxFormer && uuid.Validate(e.Name()) == nil {
			work.Go(func() { r.reportFormer(ctx, e.Name()) })
		}
	}
}

// reportFormer tells of one session, unless it lives.
func (r *Records) reportFormer(ctx context.Context, id string) {
	j, left, err := journal.Open(r.path(id), journal.Options{})
	if err != nil {
		return // its process lives
	}
	t, noted := formerEnd(left, time.Now()), false
	for _, rec := range left.Records { // one that could not be told then
		var told verdict.Testimony
		if json.Unmarshal(rec.Data, &told) == nil && told.Validate() == nil {
			t, noted = &told, true
		}
	}
	if t != nil && !noted {
		r.remember(Recent{ConnectionID: id, Workspace: workspaceOf(left.Records), Ended: t.FirstNoticed.Wall, Testimony: *t})
	}
	if t != nil && !r.tell(ctx, id, t) {
		if !noted {
			r.note(j, t)
		}
		_ = j.Close() // what cannot be kept is one witness less
		return
	}
	_ = j.Close() // it is removed
	_ = os.RemoveAll(r.path(id))
}

// formerEnd is what the record of a session says whose process is gone; nil: nothing.
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
	t := newTestimony("obituary")
	t.LastGood, t.FirstNoticed = verdict.Moment{Wall: left.LastSign}, verdict.Moment{Wall: noticed}
	t.Facts = []verdict.Fact{fact}
	return t
}

func newTestimony(id string) *verdict.Testimony {
	return &verdict.Testimony{
		ID: id, Observer: disconnect.Client, ConnectType: disconnect.AgentToClient, Kind: verdict.Ending, Phase: verdict.PhaseOpen,
	}
}

// tell reports whether the server has taken the testimony, or will never take it.
func (r *Records) tell(ctx context.Context, id string, t *verdict.Testimony) bool {
	t.ConnectionID, t.Clock = id, verdict.Clock{Wall: time.Now()} // the server relates the two clocks
	body, err := json.Marshal(t)
	if err != nil {
		return true // only a time beyond the year 9999 does this
	}
	err = r.api.Testify(ctx, id, body)
	var refused *sdk.Error
	return err == nil || errors.As(err, &refused) && refused.Status >= 400 && refused.Status < 500 && refused.Status != 429
}

func (r *Records) note(j *journal.Journal, t *verdict.Testimony) {
	if body, err := json.Marshal(t); err == nil {
		_, _ = j.Append(body) // without it the server hears one witness less
	}
}

// testify tells the server what the client saw of a session's end. That its process
// ended the agent knows best, and tells.
func (r *Records) testify(ctx context.Context, end SessionEnd, silentSince time.Time) {
	if r == nil || end.Exited || end.Err != nil || end.Attribution.Reason == disconnect.Unknown || uuid.Validate(end.ConnectionID) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), testifyWait)
	defer cancel()
	t := sessionTestimony(end.Attribution, silentSince, time.Now())
	if r.tell(ctx, end.ConnectionID, t) {
		return
	}
	j, _, err := journal.Open(r.path(end.ConnectionID), journal.Options{})
	if err != nil {
		return
	}
	r.note(j, t)
	_ = j.Close() // as note
}

// sessionTestimony is what the client saw of a session's end.
func sessionTestimony(a disconnect.Attribution, silentSince, now time.Time) *verdict.Testimony {
	t := newTestimony("ended")
	t.Account, t.FirstNoticed = a, verdict.Moment{Wall: now}
	switch {
	case a.Initiator == disconnect.Client:
		t.Evidence = disconnect.EvidenceLocal
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.OwnCause, Cause: a, At: verdict.Moment{Wall: now}})
	case a.Initiator == disconnect.Network, a.Reason == disconnect.PeerCrashed, a.Reason == disconnect.PeerUnresponsive:
		t.Evidence = disconnect.EvidenceInferred
	default:
		t.Evidence = disconnect.EvidenceDeclared
	}
	if !silentSince.IsZero() {
		t.LastGood, t.FirstNoticed = verdict.Moment{Wall: silentSince}, verdict.Moment{Wall: silentSince}
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.HeartbeatSilence, About: disconnect.Agent, At: verdict.Moment{Wall: silentSince}})
	}
	return t
}
