package agent

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// maxReports bounds what waits for the server. Beyond it the oldest is dropped and
// counted, and the count is logged when the server takes reports again.
const maxReports = 10_000

// reportConnection queues the CONNECT report of a connection and returns the
// function that queues its DISCONNECT, for a site that knows only an exit code and
// a text. An empty ip means that the address is not known.
func (a *agent) reportConnection(id uuid.UUID, kind proto.Connection_Type, ip string) (disconnected func(code int, reason string)) {
	ended := a.openConnection(&proto.Connection{Id: id[:], Type: kind, Ip: ip})
	return func(code int, reason string) {
		ended(&proto.Connection{StatusCode: int32(code), Reason: &reason})
	}
}

// trackConnection is reportConnection for a site that knows the whole attribution.
func (a *agent) trackConnection(id uuid.UUID, kind proto.Connection_Type, ip, principal string) (ended func(disconnect.Attribution, int)) {
	end := a.openConnection(&proto.Connection{Id: id[:], Type: kind, Ip: ip, Principal: principal})
	return func(attr disconnect.Attribution, exitCode int) {
		a.countEnding(attr.On(disconnect.AgentToClient))
		reason := disconnect.Scrub(attr.Detail)
		if reason == "" {
			reason = attr.Reason.String() // never recorded as empty
		}
		end(&proto.Connection{
			StatusCode:  int32(exitCode),
			Reason:      &reason,
			Attribution: wire.FromAttribution(attr),
		})
	}
}

// countEnding tells whoever counts how something ended.
func (a *agent) countEnding(attr disconnect.Attribution) {
	if a.opts.Ended != nil {
		a.opts.Ended(attr)
	}
}

// openConnection queues open as CONNECT. The function it returns completes an
// ending with what identifies the connection and queues it as DISCONNECT.
func (a *agent) openConnection(open *proto.Connection) (end func(*proto.Connection)) {
	open.Action = proto.Connection_CONNECT
	open.Timestamp = timestamppb.Now()
	a.queueReport(open)
	return func(ending *proto.Connection) {
		ending.Action = proto.Connection_DISCONNECT
		ending.Timestamp = timestamppb.Now()
		ending.Id, ending.Type, ending.Ip, ending.Principal = open.GetId(), open.GetType(), open.GetIp(), open.GetPrincipal()
		a.queueReport(ending)
	}
}

func (a *agent) queueReport(c *proto.Connection) {
	a.reportMu.Lock()
	if len(a.reportConnections) >= maxReports {
		a.reportConnections = a.reportConnections[1:]
		a.reportsDropped++
	}
	a.reportConnections = append(a.reportConnections, &proto.ReportConnectionRequest{Connection: c})
	a.reportMu.Unlock()
	tell(a.reportUpdate)
}

// runReporter sends what is queued, in order, until ctx ends or the link fails. A
// report that the server refuses as invalid is set aside and never stops the others.
func (a *agent) runReporter(ctx context.Context, api proto.AgentServiceClient) error {
	for {
		if err := a.sendReports(ctx, api); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.reportUpdate:
		}
	}
}

func (a *agent) sendReports(ctx context.Context, api proto.AgentServiceClient) error {
	for {
		report, dropped := a.nextReport()
		if dropped > 0 {
			a.logger.Warn("connection reports were dropped while the server was away", "count", dropped)
		}
		if report == nil {
			return nil
		}
		_, err := api.ReportConnection(ctx, report)
		if status.Code(err) == codes.InvalidArgument {
			a.logger.Error("connection report refused as invalid", "error", err)
			err = nil
		}
		if err != nil {
			return fmt.Errorf("report connection: %w", err)
		}
		a.reportDelivered(report)
	}
}

// nextReport returns the oldest report that waits, and how many were dropped since
// the last call.
func (a *agent) nextReport() (next *proto.ReportConnectionRequest, dropped int) {
	a.reportMu.Lock()
	defer a.reportMu.Unlock()
	dropped, a.reportsDropped = a.reportsDropped, 0
	if len(a.reportConnections) == 0 {
		return nil, dropped
	}
	return a.reportConnections[0], dropped
}

// reportDelivered removes report, unless overflow has removed it meanwhile.
func (a *agent) reportDelivered(report *proto.ReportConnectionRequest) {
	a.reportMu.Lock()
	defer a.reportMu.Unlock()
	if len(a.reportConnections) > 0 && a.reportConnections[0] == report {
		a.reportConnections = a.reportConnections[1:]
	}
	if len(a.reportConnections) == 0 {
		tell(a.reportIdle)
	}
}

// tell sets a flag that is a channel of one place.
func tell(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default: // it is set already
	}
}

// reportsPending tells how many reports the server has not acknowledged.
func (a *agent) reportsPending() int {
	a.reportMu.Lock()
	defer a.reportMu.Unlock()
	return len(a.reportConnections)
}
