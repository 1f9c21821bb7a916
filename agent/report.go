package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// maxReportBatch bounds the reports of one call; the server takes no more.
const maxReportBatch = 500

// reportConnection queues the CONNECT report of a connection and returns the
// function that queues its DISCONNECT, for a site that knows only an exit code and
// a text. An empty ip means that the address is not known.
func (a *agent) reportConnection(id uuid.UUID, kind proto.Connection_Type, ip string) (disconnected func(code int, reason string)) {
	ended := a.openConnection(&proto.Connection{Id: id[:], Type: kind, Ip: ip})
	return func(code int, reason string) { ended(endReport(fromStatus(code, reason), code)) }
}

// fromStatus is what an exit code alone says of an end: below zero, nothing exited.
func fromStatus(code int, text string) disconnect.Attribution {
	attr := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ProcessExited, Initiator: disconnect.Agent, Detail: text}
	switch {
	case code == 0:
		attr.Reason = disconnect.Graceful
	case code < 0:
		attr.Reason, attr.Initiator = disconnect.NetworkError, disconnect.Network
	}
	return attr
}

// trackConnection is reportConnection for a site that knows the whole attribution, and the
// client's address in the tailnet.
// More, if there is any, is added to the report by details.
func (a *agent) trackConnection(open *proto.Connection, client netip.Addr) (ended func(e agentssh.Ended, details func(*proto.Connection))) {
	end := a.openConnection(open)
	return func(e agentssh.Ended, details func(*proto.Connection)) {
		report := endReport(e.Attribution, e.ExitCode)
		report.Testimony = encode(testimonyOf(e, a.sightOf(client)))
		report.BytesSent, report.BytesReceived = e.BytesSent, e.BytesReceived
		if details != nil {
			details(report)
		}
		end(report)
	}
}

// countEnding tells whoever counts how something ended.
func (a *agent) countEnding(attr disconnect.Attribution, kind string, lasted time.Duration) {
	if a.opts.Ended != nil {
		a.opts.Ended(attr, kind, lasted)
	}
}

// countReported counts the ending of a session that its report tells of.
func (a *agent) countReported(ending *proto.Connection, kind proto.Connection_Type, lasted time.Duration) {
	a.countEnding(wire.ToAttribution(ending.GetAttribution()).On(disconnect.AgentToClient), typeName(kind), lasted)
}

// openConnection queues open as CONNECT. The function it returns queues an ending as
// DISCONNECT.
func (a *agent) openConnection(open *proto.Connection) (end func(*proto.Connection)) {
	ended, begin := a.gauges.opened(open.GetType()), time.Now()
	queued := a.queueConnect(open)
	return func(ending *proto.Connection) {
		ended()
		a.countReported(ending, open.GetType(), time.Since(begin))
		if queued {
			a.queueDisconnect(open, ending)
		}
	}
}

const msgNotDelivered = "connection reports not delivered yet"

// runReporter announces what is open and sends what is queued, in order, until ctx
// ends. A server that cannot take it now is asked again.
func (a *agent) runReporter(ctx context.Context, api proto.AgentServiceClient) error {
	r := retry{first: a.opts.retryFirst, last: a.opts.retryLast}
	deliver := func(do func(context.Context, proto.AgentServiceClient) error) bool {
		for {
			err := do(ctx, api)
			if err == nil {
				r.reset()
				return true
			}
			if ctx.Err() == nil && r.attempts == 0 { // told once, until it works again
				a.logger.Warn(msgNotDelivered, "pending", a.reportsPending(), "error", disconnect.Scrub(err.Error()))
			}
			if !sleep(ctx, r.next()) {
				return false
			}
		}
	}
	if !deliver(a.announce) {
		return ctx.Err()
	}
	for {
		if !deliver(a.sendReports) {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.reportQueued:
		}
	}
}

// announce tells the server what is open, before it hears anything else of it, and of
// each gap in the record. A gap whose answer is lost is told again; the server knows it
// by its times.
func (a *agent) announce(ctx context.Context, api proto.AgentServiceClient) error {
	for more := true; more; {
		req := &proto.AnnounceConnectionsRequest{Known: a.knownConnections(), SentAt: timestamppb.New(clock.Now()), Gap: a.firstGap()}
		answer, err := api.AnnounceConnections(ctx, req)
		if err != nil {
			return fmt.Errorf("announce connections: %w", err)
		}
		a.reportAgain(answer.GetUnknown())
		if more, err = a.gapTold(req.GetGap()); err != nil {
			return err
		}
	}
	return nil
}

// sendReports sends until nothing is queued. A batch that the server refuses whole, and
// would for ever, comes again in halves, until what it is refused for is alone.
func (a *agent) sendReports(ctx context.Context, api proto.AgentServiceClient) error {
	for size := maxReportBatch; ; {
		a.tellLosses()
		batch := a.nextReports(size)
		if len(batch) == 0 {
			return nil
		}
		answer, err := api.ReportConnections(ctx, &proto.ReportConnectionsRequest{Reports: batch, SentAt: timestamppb.New(clock.Now())})
		switch {
		case err == nil:
		case status.Code(err) != codes.InvalidArgument:
			return fmt.Errorf("report connections: %w", err)
		case len(batch) > 1:
			size = len(batch) / 2
			continue
		default:
			size = maxReportBatch
			answer = &proto.ReportConnectionsResponse{Refused: []*proto.ReportConnectionsResponse_Refusal{{Message: err.Error()}}}
		}
		a.logRefused(batch, answer.GetRefused())
		if err := a.reportsDelivered(len(batch), len(answer.GetRefused())); err != nil {
			return err
		}
	}
}

// logRefused tells of reports that the server will never take. The rest of the batch is
// stored.
func (a *agent) logRefused(batch []*proto.ReportConnectionRequest, refused []*proto.ReportConnectionsResponse_Refusal) {
	for _, r := range refused {
		var c *proto.Connection
		if i := int(r.GetIndex()); i < len(batch) {
			c = batch[i].GetConnection()
		}
		id, _ := uuid.FromBytes(c.GetId())
		a.logger.Error("connection report refused as invalid", "connection_id", id.String(),
			"action", c.GetAction().String(), "error", disconnect.Scrub(r.GetMessage()))
	}
}

func (a *agent) tellLosses() {
	if dropped, refused := a.reportLosses(); dropped+refused > 0 {
		a.logger.Warn("connections are missing from the server's log", "not_reported", dropped, "refused", refused)
	}
}

// sleep waits, and reports whether ctx was still alive then.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
