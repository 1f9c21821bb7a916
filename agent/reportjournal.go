package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	pb "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/journal"
)

const (
	// maxRecords bounds the journal. Each of maxReports connections may have a record of
	// its beginning and one of its end, with a testimony that says the same in more words,
	// and no text in them is longer than Scrub allows.
	maxRecords = 64 << 20
	// signEvery is how often the journal is touched while connections are open. It writes
	// a sign of life when the last is 5 s old: by up to 7 s the next life may believe that
	// this one died too early.
	signEvery = 2 * time.Second
)

const msgNoRecord = "the record of connections cannot be used: what the server has not heard when this agent dies is lost"

// recordKind is the first byte of a record in the journal; the message follows.
type recordKind byte

const (
	recordReport recordKind = 'r' // ReportConnectionRequest
	recordGap    recordKind = 'g' // Gap
	recordLink   recordKind = 'l' // the 16 bytes of the id of a control link that is open
)

// linkOpened notes that a control link is open, as the server calls it, for the next life.
func (q *reportQueue) linkOpened(id uuid.UUID) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if q.journal != nil {
		q.openLink, _ = q.journal.Append(append([]byte{byte(recordLink)}, id[:]...))
	}
}

// linkForgotten forgets the control link that was open.
func (q *reportQueue) linkForgotten() {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if q.openLink != 0 {
		_ = q.journal.Release(q.openLink) // one that was closed before says that it was open
		q.openLink = 0
	}
}

// gap is a time of which the server is to be told that the record has a hole in it.
type gap struct {
	*proto.Gap
	record uint64
}

// openReports opens the journal and takes over what is in it. One that cannot be read
// or written costs reports, never the workspace: without it the agent goes on in memory,
// says so in its log, and tells the server of the gap.
func (a *agent) openReports() {
	a.reportQueued, a.reportIdle = make(chan struct{}, 1), make(chan struct{}, 1)
	dir := filepath.Join(a.opts.StateDir, "reports")
	j, left, err := journal.Open(dir, journal.Options{Logger: a.logger, MaxBytes: maxRecords})
	if err != nil {
		a.logger.Error(msgNoRecord, "path", dir, "error", err)
		a.addGap(journal.Gap{To: clock.Now()}, "the agent cannot read its record of connections")
		return
	}
	a.journal = j
	// What the journal says of the former life it says once: it is on record before
	// anything else happens.
	if left.Gap != nil {
		a.addGap(*left.Gap, whyGap(left))
	}
	ended, unread := a.recoverReports(left)
	if len(ended) > 0 {
		obituary(left, a.starved).Log(context.Background(), a.logger, "connections of a former life ended", slog.Int("connections", len(ended)))
	}
	for _, c := range ended {
		if id, err := uuid.FromBytes(c.GetId()); err == nil {
			a.ownEndings.add(id.String(), obituary(left, a.starved)) // of which the server may know better
		}
		a.countReported(c, c.GetType(), c.GetTimestamp().AsTime().Sub(c.GetConnectedAt().AsTime()))
	}
	if unread > 0 {
		a.logger.Error("the record of connections holds what this version of Fairlead cannot read", "path", dir, "records", unread)
		a.addGap(journal.Gap{To: left.LastSign}, "the agent's record of connections holds what its version cannot read")
	}
}

func whyGap(left journal.Recovered) string {
	switch {
	case left.Damaged > 0:
		return "the agent's record of connections was damaged"
	case left.SameBoot:
		return "the agent died while its disk did not take its record of connections"
	}
	return "the agent's machine went down before its record of connections was on the disk"
}

// recoverReports takes what the former life of the process left: reports that were not
// acknowledged, gaps that were not told, and connections that were open when it died,
// which end now: it returns these endings. It sets aside what it cannot read, and returns
// how much that is.
func (q *reportQueue) recoverReports(left journal.Recovered) (ended []*proto.Connection, unread int) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	var links []journal.Record
	for _, rec := range left.Records {
		if len(rec.Data) == 1+len(uuid.UUID{}) && recordKind(rec.Data[0]) == recordLink {
			links = append(links, rec)
			continue
		}
		switch report, g := parseRecord(rec.Data); {
		case report != nil:
			q.takeLocked(report, rec.Seq)
		case g != nil:
			q.gaps = append(q.gaps, gap{Gap: g, record: rec.Seq})
		default:
			unread++
			_ = q.journal.Release(rec.Seq) // it was opened a moment ago
		}
	}
	died := obituary(left, q.starved)
	for _, rec := range links { // one at most, but for a journal that was cut off
		if len(q.reportConnections)+q.openReports < maxReports {
			t := obituaryOf(disconnect.ServerToAgent, left, died.On(disconnect.ServerToAgent), clock.Now())
			q.ofLinkLocked(uuid.UUID(rec.Data[1:]), encode(t))
		}
		_ = q.journal.Release(rec.Seq) // it was opened a moment ago
	}
	for _, b := range q.begun {
		if !b.ended {
			open := b.report.GetConnection()
			end := endReport(died, -1)
			end.Testimony = encode(obituaryOf(disconnect.AgentToClient, left, died, clock.Now()))
			q.endLocked(open, end, later(left.LastSign, open.GetTimestamp().AsTime()))
			ended = append(ended, end)
		}
	}
	return ended, unread
}

// obituary is how the connections ended that were open at the end of the former life.
func obituary(left journal.Recovered, starved func(ago time.Duration) bool) disconnect.Attribution {
	died := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent,
		Detail: "the agent died without a goodbye",
	}
	switch {
	case left.Clean:
		died.Reason, died.Detail = disconnect.ServerShutdown, "the agent stopped, and its time was over before the session had ended"
	case !left.SameBoot:
		died.Detail = "the agent's machine went down without a goodbye"
	case starved != nil && starved(clock.Now().Sub(left.LastSign)):
		died.Reason, died.Detail = disconnect.OOMKilled, "the kernel killed the agent for want of memory"
	}
	return died
}

// parseRecord returns what a record of the journal holds, or nothing if that cannot be
// made sense of.
func parseRecord(data []byte) (*proto.ReportConnectionRequest, *proto.Gap) {
	if len(data) == 0 {
		return nil, nil
	}
	switch recordKind(data[0]) {
	case recordReport:
		report := new(proto.ReportConnectionRequest)
		if pb.Unmarshal(data[1:], report) != nil || len(report.GetConnection().GetId()) != len(uuid.UUID{}) {
			return nil, nil
		}
		return report, nil
	case recordGap:
		g := new(proto.Gap)
		if pb.Unmarshal(data[1:], g) != nil {
			return nil, nil
		}
		return nil, g
	}
	return nil, nil
}

// record writes to the journal, if there is one.
func (q *reportQueue) record(kind recordKind, m pb.Message) (seq uint64) {
	if q.journal == nil {
		return 0
	}
	data, err := pb.MarshalOptions{}.MarshalAppend([]byte{byte(kind)}, m)
	if err != nil {
		return 0 // only text that is not UTF-8 does this, and all text was scrubbed
	}
	seq, _ = q.journal.Append(data) // maxRecords suffices, and it is not closed
	return seq
}

func (q *reportQueue) addGap(g journal.Gap, detail string) {
	message := &proto.Gap{To: timestamppb.New(g.To), Detail: detail}
	if !g.From.IsZero() {
		message.From = timestamppb.New(g.From)
	}
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	q.gaps = append(q.gaps, gap{Gap: message, record: q.record(recordGap, message)})
}

// firstGap returns a gap that the server is to be told of; nil: there is none.
func (q *reportQueue) firstGap() *proto.Gap {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if len(q.gaps) == 0 {
		return nil
	}
	return q.gaps[0].Gap
}

// gapTold forgets the first gap, if told is that, and reports whether there are more.
func (q *reportQueue) gapTold(told *proto.Gap) (more bool, err error) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if told != nil {
		if err = q.journal.Release(q.gaps[0].record); err != nil {
			err = fmt.Errorf("forget a gap: %w", err)
		}
		q.gaps = q.gaps[1:]
	}
	return len(q.gaps) > 0, err
}

// signLife tells the next life, now and then while connections or a control link are open,
// that this one lives, until ctx ends.
func (q *reportQueue) signLife(ctx context.Context) {
	tick := time.NewTicker(signEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if q.anyOpen() {
			q.journal.Touch()
		}
	}
}

func (q *reportQueue) anyOpen() bool {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	return q.openReports > 0 || q.openLink != 0
}

// closeReports closes the journal. That it could not write is no failure when there was
// nothing left to keep.
func (q *reportQueue) closeReports() error {
	err := q.journal.Close()
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if len(q.reportConnections)+q.openReports+len(q.gaps) == 0 {
		return nil
	}
	return err
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
