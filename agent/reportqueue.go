package agent

import (
	"cmp"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/journal"
)

// maxReports bounds what waits for the server, with a place kept for the end of each
// connection whose beginning was taken. A connection that does not fit is not reported
// at all, and counted.
const maxReports = 10_000

// reportQueue holds the connection reports that the server has not acknowledged. What
// is in it is in the journal too, and the beginning of a connection stays there until
// its end is acknowledged: so the next life of the process knows what was open. The
// zero value is an empty queue in memory only. All methods are safe for concurrent use.
type reportQueue struct {
	journal *journal.Journal // nil: memory only
	// starved tells whether a former life that died so long ago was killed for want of
	// memory; nil: nobody knows.
	starved func(ago time.Duration) bool

	reportMu          sync.Mutex                       // guards all below
	reportConnections []*proto.ReportConnectionRequest // in order
	reportRecords     map[*proto.ReportConnectionRequest]uint64
	begun             map[uuid.UUID]beginning // those whose end is not acknowledged
	openReports       int                     // of begun, those whose end is not queued
	openLink          uint64                  // the record of the control link that is open; 0: there is none
	dropped, refused  int                     // since they were last told
	lost              ReportStatus            // Dropped and Refused: since the process began
	gaps              []gap                   // in the record, that the server has not been told of

	// Each has one place.
	reportQueued chan struct{} // something was queued
	reportIdle   chan struct{} // everything was acknowledged
}

// beginning is what is remembered of a connection until its end is acknowledged.
type beginning struct {
	report *proto.ReportConnectionRequest
	record uint64
	ended  bool
	// interruptions counts those that were reported.
	interruptions int
}

// queueConnect queues the beginning of a connection and keeps a place for its end. It reports
// whether there was room.
func (q *reportQueue) queueConnect(open *proto.Connection) bool {
	open.Action, open.Timestamp = proto.Connection_CONNECT, timestamppb.New(clock.Now())
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if len(q.reportConnections)+q.openReports+2 > maxReports {
		q.dropped++
		q.lost.Dropped++
		return false
	}
	q.addLocked(&proto.ReportConnectionRequest{Connection: open})
	return true
}

// maxInterruptions bounds those that are reported of one connection. All are in the log.
const maxInterruptions = 100

// queueInterruption queues a time in which an open connection's client was silent, if
// there is room for it beside what begins and ends.
func (q *reportQueue) queueInterruption(id uuid.UUID, attr disconnect.Attribution, from time.Time, lasted time.Duration) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	b := q.begun[id]
	if b.report == nil || b.interruptions == maxInterruptions || len(q.reportConnections)+q.openReports+1 > maxReports {
		return
	}
	b.interruptions++
	q.begun[id] = b
	open := b.report.GetConnection()
	q.addLocked(&proto.ReportConnectionRequest{Connection: &proto.Connection{
		Id: open.GetId(), Type: open.GetType(), Action: proto.Connection_INTERRUPTION,
		InterruptedAt: timestamppb.New(from), Timestamp: timestamppb.New(from.Add(lasted)), Attribution: wire.FromAttribution(attr),
	}})
}

// queueOfLink queues what the agent testifies of the end of a control link, if there is
// room for it beside what begins and ends.
func (q *reportQueue) queueOfLink(id uuid.UUID, testimony []byte) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	if len(testimony) > 0 && len(q.reportConnections)+q.openReports+1 <= maxReports {
		q.ofLinkLocked(id, testimony)
	}
}

func (q *reportQueue) ofLinkLocked(id uuid.UUID, testimony []byte) {
	q.addLocked(&proto.ReportConnectionRequest{Connection: &proto.Connection{
		Id: id[:], Action: proto.Connection_OF_LINK, Timestamp: timestamppb.New(clock.Now()), Testimony: testimony,
	}})
}

// queueDisconnect queues the end of a connection that has begun.
func (q *reportQueue) queueDisconnect(open, ending *proto.Connection) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	q.endLocked(open, ending, clock.Now())
}

// endReport is an end in the words of the wire.
func endReport(attr disconnect.Attribution, exitCode int) *proto.Connection {
	reason := disconnect.Scrub(attr.Detail)
	if reason == "" {
		reason = attr.Reason.String() // never recorded as empty
	}
	return &proto.Connection{StatusCode: int32(exitCode), Reason: &reason, Attribution: wire.FromAttribution(attr)}
}

// endLocked completes an end with what identifies the connection, so that it stands for
// itself, and queues it.
func (q *reportQueue) endLocked(open, ending *proto.Connection, at time.Time) {
	ending.Action = proto.Connection_DISCONNECT
	ending.Timestamp, ending.ConnectedAt = timestamppb.New(at), open.GetTimestamp()
	ending.Id, ending.Type, ending.Principal = open.GetId(), open.GetType(), open.GetPrincipal()
	ending.App, ending.ClientVersion = cmp.Or(ending.GetApp(), open.GetApp()), open.GetClientVersion()
	ending.Client = open.GetClient()
	if ending.GetIp() == "" {
		ending.Ip = open.GetIp()
	}
	q.addLocked(&proto.ReportConnectionRequest{Connection: ending})
}

// addLocked writes a report to the journal and queues it. Whether the journal could
// take it is the journal's to tell (Degraded); the report is in memory in any case.
func (q *reportQueue) addLocked(report *proto.ReportConnectionRequest) {
	c := report.GetConnection()
	// One text that is not valid would stop every report behind it.
	c.Ip, c.Principal = disconnect.Scrub(c.GetIp()), disconnect.Scrub(c.GetPrincipal())
	c.App, c.ClientVersion = disconnect.Scrub(c.GetApp()), disconnect.Scrub(c.GetClientVersion())
	q.takeLocked(report, q.record(recordReport, report))
}

func (q *reportQueue) takeLocked(report *proto.ReportConnectionRequest, record uint64) {
	c := report.GetConnection()
	id := uuid.UUID(c.GetId())
	if q.begun == nil {
		q.begun, q.reportRecords = make(map[uuid.UUID]beginning), make(map[*proto.ReportConnectionRequest]uint64)
	}
	switch c.GetAction() {
	case proto.Connection_CONNECT:
		q.begun[id] = beginning{report: report, record: record}
		q.openReports++
	case proto.Connection_INTERRUPTION, proto.Connection_OF_LINK:
		q.reportRecords[report] = record
	default:
		if b := q.begun[id]; b.report != nil && !b.ended {
			b.ended = true
			q.begun[id] = b
			q.openReports--
		}
		q.reportRecords[report] = record
	}
	q.reportConnections = append(q.reportConnections, report)
	tell(q.reportQueued)
}

// nextReports returns the oldest reports, n at most.
func (q *reportQueue) nextReports(n int) []*proto.ReportConnectionRequest {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	return append([]*proto.ReportConnectionRequest(nil), q.reportConnections[:min(n, len(q.reportConnections))]...)
}

// reportsDelivered removes the n oldest reports: the server has them, or has refused them for
// good.
func (q *reportQueue) reportsDelivered(n, refused int) error {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	q.refused += refused
	q.lost.Refused += uint64(refused)
	var release []uint64
	for _, report := range q.reportConnections[:n] {
		c := report.GetConnection()
		if c.GetAction() == proto.Connection_CONNECT {
			continue
		}
		id := uuid.UUID(c.GetId())
		release = append(release, q.reportRecords[report])
		if c.GetAction() == proto.Connection_INTERRUPTION || c.GetAction() == proto.Connection_OF_LINK {
			delete(q.reportRecords, report)
			continue
		}
		if b := q.begun[id]; b.report != nil {
			release = append(release, b.record)
		}
		delete(q.begun, id)
		delete(q.reportRecords, report)
	}
	q.reportConnections = q.reportConnections[n:]
	if len(q.reportConnections) == 0 {
		q.reportConnections = nil // lets go of the array
		tell(q.reportIdle)
	}
	return q.journal.Release(release...)
}

// knownConnections returns the ids of the connections that are open or whose end the server does
// not have yet.
func (q *reportQueue) knownConnections() [][]byte {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	ids := make([][]byte, 0, len(q.begun))
	for id := range q.begun {
		ids = append(ids, id[:])
	}
	return ids
}

// reportAgain queues the beginnings of connections that the server has lost.
func (q *reportQueue) reportAgain(ids [][]byte) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	waiting := make(map[*proto.ReportConnectionRequest]bool, len(q.reportConnections))
	for _, report := range q.reportConnections {
		waiting[report] = true
	}
	for _, raw := range ids {
		id, err := uuid.FromBytes(raw)
		if b := q.begun[id]; err == nil && b.report != nil && !b.ended && !waiting[b.report] {
			q.reportConnections = append(q.reportConnections, b.report)
		}
	}
	tell(q.reportQueued)
}

// reportsPending tells how many reports the server has not acknowledged.
func (q *reportQueue) reportsPending() int {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	return len(q.reportConnections)
}

// reportStatus tells how the reports are doing.
func (q *reportQueue) reportStatus() ReportStatus {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	s := q.lost
	s.Pending = len(q.reportConnections)
	s.Volatile = q.journal == nil || q.journal.Degraded() != nil
	return s
}

// reportLosses returns, once, how many connections were not reported for lack of room, and
// how many reports the server has refused.
func (q *reportQueue) reportLosses() (dropped, refused int) {
	q.reportMu.Lock()
	defer q.reportMu.Unlock()
	dropped, refused = q.dropped, q.refused
	q.dropped, q.refused = 0, 0
	return dropped, refused
}

// tell sets a flag that is a channel of one place.
func tell(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default: // it is set already
	}
}
