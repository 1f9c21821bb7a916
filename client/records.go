package client

import (
	"context"
	"log/slog"
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
	// signEvery is how often the record of an open connection is touched.
	signEvery = 2 * time.Second
	// maxFormer bounds what one command reports of the lives before it.
	maxFormer = 20
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
	j, _, err := journal.Open(r.path(id), journal.Options{NoSync: true}) // the disk would hold up the end
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
	if t == nil {
		_ = os.RemoveAll(r.path(id))
		_ = j.Close() // it is removed
		return
	}
	u := untold{Testimony: *t, Said: formerAttribution(t)}
	kept := r.note(id, &u)
	r.logFormer(&u)
	if t.ConnectType == disconnect.AgentToClient {
		r.remember(Recent{ConnectionID: id, Workspace: workspaceOf(left.Records), Ended: t.FirstNoticed.Wall, Testimony: u.Testimony})
	}
	if kept { // else the next command may have a disk that takes it
		_ = os.RemoveAll(r.path(id))
	}
	_ = j.Close() // it is removed
	r.tellAndKeep(ctx, &u)
}

// formerAttribution is how a connection ended whose process is gone.
func formerAttribution(t *verdict.Testimony) disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: t.ConnectType, Reason: disconnect.PeerCrashed, Initiator: disconnect.Client, Detail: t.Facts[0].Text,
	}
}

// logFormer is the line of an ending that its own process could not log.
func (r *Records) logFormer(u *untold) {
	t, msg := &u.Testimony, "former session ended"
	if t.ConnectType == disconnect.ClientToServer {
		msg = "former control link ended"
	}
	u.Said.Log(context.Background(), r.log, msg, slog.String("connection_id", t.ConnectionID), slog.Time("last_sign", t.LastGood.Wall))
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
