package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

const (
	// maxReportBatch bounds the reports of one call, maxAnnounced the ids of one
	// announcement.
	maxReportBatch = 1000
	maxAnnounced   = 20_000
	// Bounds of texts from an agent, in bytes.
	maxApp           = 32
	maxClientVersion = 128
	maxIP            = 64
	// What one workspace's agent may report at once, and how many of it come back in a
	// second. An announced id costs less than a report.
	reportBurst        = 20_000
	reportsPerSecond   = 200
	announcedPerReport = 10
)

// ReportConnections implements the service.
func (a *agentAPI) ReportConnections(ctx context.Context, req *proto.ReportConnectionsRequest) (*proto.ReportConnectionsResponse, error) {
	n := len(req.GetReports())
	if n > maxReportBatch {
		return nil, status.Errorf(codes.InvalidArgument, "%d reports in one batch, at most %d are taken", n, maxReportBatch)
	}
	agent, _, done, err := a.reporter(ctx, 1+n)
	if err != nil {
		return nil, err
	}
	defer done()
	var (
		answer  proto.ReportConnectionsResponse
		reports []connlog.Report
		indexes []int // of reports in the request
	)
	for i, r := range req.GetReports() {
		report, err := checkReport(r.GetConnection())
		if err != nil {
			answer.Refused = append(answer.Refused, refusedReport(i, err))
			continue
		}
		report.Testimony = a.testimonyIn(ctx, r.GetConnection(), agent.Workspace.ID)
		if report.Ended {
			at := connlog.ServerTime(a.now(), asTime(req.GetSentAt()), report.At)
			report.Ending = a.orders.judgeReport(agent.Workspace.ID, at, report.Ending)
		}
		reports, indexes = append(reports, report), append(indexes, i)
	}
	refused, err := a.connlog.Report(ctx, agent, asTime(req.GetSentAt()), reports)
	if err != nil {
		return nil, a.failed(ctx, control.Identity{ID: agent.Workspace.ID}, err)
	}
	for i, err := range refused {
		answer.Refused = append(answer.Refused, refusedReport(indexes[i], err))
	}
	return &answer, nil
}

// testimonyIn reads the agent's testimony of an end. One that makes no sense is left out:
// the report says how the connection ended in any case.
func (a *agentAPI) testimonyIn(ctx context.Context, c *proto.Connection, workspaceID string) *verdict.Testimony {
	if len(c.GetTestimony()) == 0 {
		return nil
	}
	t, err := connlog.ParseTestimony(c.GetTestimony(), disconnect.Agent, workspaceID)
	if err != nil {
		a.logger.DebugContext(ctx, "testimony of an agent left out", "workspace_id", workspaceID, "error", disconnect.Scrub(err.Error()))
		return nil
	}
	return &t
}

func refusedReport(i int, err error) *proto.ReportConnectionsResponse_Refusal {
	return &proto.ReportConnectionsResponse_Refusal{Index: uint32(i), Message: err.Error()}
}

// AnnounceConnections implements the service.
func (a *agentAPI) AnnounceConnections(ctx context.Context, req *proto.AnnounceConnectionsRequest) (*proto.AnnounceConnectionsResponse, error) {
	n := len(req.GetKnown())
	if n > maxAnnounced {
		return nil, status.Errorf(codes.InvalidArgument, "%d connections announced, at most %d are taken", n, maxAnnounced)
	}
	agent, former, done, err := a.reporter(ctx, 1+n/announcedPerReport)
	if err != nil {
		return nil, err
	}
	defer done()
	announced := connlog.Announcement{
		SentAt: asTime(req.GetSentAt()), GapFrom: asTime(req.GetGap().GetFrom()), GapTo: asTime(req.GetGap().GetTo()),
		GapDetail: req.GetGap().GetDetail(),
	}
	for _, raw := range req.GetKnown() {
		id, err := connectionID(raw)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		announced.Known = append(announced.Known, id.String())
	}
	unknown, err := a.connlog.Announce(ctx, agent, former, announced)
	if err != nil {
		return nil, a.failed(ctx, control.Identity{ID: agent.Workspace.ID}, err)
	}
	var answer proto.AnnounceConnectionsResponse
	for _, id := range unknown {
		raw := uuid.MustParse(id)
		answer.Unknown = append(answer.Unknown, raw[:])
	}
	return &answer, nil
}

// caller is what bounds the reports of one workspace's agent.
type caller struct {
	turn chan struct{} // has one place: an agent is heard once at a time
	rate *rate.Limiter

	// The link before the one that counts; guarded by presence.mu. older is nil when it
	// had ended before.
	former connlog.Former
	older  *control.Link
}

func newCaller(former connlog.Former) *caller {
	return &caller{turn: make(chan struct{}, 1), rate: rate.NewLimiter(reportsPerSecond, reportBurst), former: former}
}

// caller returns what bounds the agent behind a link, and what came before that link.
func (p *presence) caller(link *control.Link) (c *caller, former connlog.Former, registered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.online[link.Peer().ID].link != link {
		return nil, connlog.Former{}, false
	}
	c = p.callers[link.Peer().ID]
	if c.older != nil {
		select {
		case <-c.older.Done():
			c.former.Ending, c.older = c.older.Ending().On(disconnect.ServerToAgent), nil
		default:
		}
	}
	return c, c.former, true
}

// reporter returns the registered agent that calls, and how its former link ended, when
// it is its turn for as much as cost reports. done ends the turn.
func (a *agentAPI) reporter(ctx context.Context, cost int) (agent connlog.Agent, former connlog.Former, done func(), err error) {
	link, id, err := a.caller(ctx)
	if err != nil {
		return agent, former, nil, err
	}
	c, former, registered := a.presence.caller(link)
	if !registered {
		return agent, former, nil, errUnregistered
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return agent, former, nil, status.FromContextError(ctx.Err()).Err()
	}
	done = func() { <-c.turn }
	if err := c.rate.WaitN(ctx, cost); err != nil {
		done()
		return agent, former, nil, status.Error(codes.ResourceExhausted, "this agent reports more connections than the server takes: try again later")
	}
	ws, err := a.store.WorkspaceByID(ctx, id.ID)
	if err != nil {
		done()
		return agent, former, nil, a.failed(ctx, id, err)
	}
	return connlog.Agent{Workspace: loggedWorkspace(ws), Created: ws.CreatedAt, Instance: link.PeerInstance()}, former, done, nil
}

func loggedWorkspace(ws store.Workspace) store.LoggedWorkspace {
	return store.LoggedWorkspace{ID: ws.ID, Name: ws.Name, Owner: store.LoggedUser{ID: ws.OwnerID, Name: ws.OwnerName}}
}

var errBadConnectionID = errors.New("a connection id is 16 bytes, not all zero")

func connectionID(raw []byte) (uuid.UUID, error) {
	id, err := uuid.FromBytes(raw)
	if err != nil || id == uuid.Nil {
		return uuid.Nil, errBadConnectionID
	}
	return id, nil
}

// checkReport is the border for connection reports.
func checkReport(c *proto.Connection) (connlog.Report, error) {
	id, err := connectionID(c.GetId())
	if err != nil {
		return connlog.Report{}, err
	}
	if a := c.GetAction(); a < proto.Connection_CONNECT || a > proto.Connection_OF_LINK {
		return connlog.Report{}, errors.New("the action is none of CONNECT, DISCONNECT, INTERRUPTION and OF_LINK")
	}
	if _, known := proto.Connection_Type_name[int32(c.GetType())]; !known {
		return connlog.Report{}, errors.New("the connection type is not known")
	}
	if _, known := proto.Connection_Path_name[int32(c.GetPath())]; !known {
		return connlog.Report{}, errors.New("the path is not known")
	}
	if !c.GetTimestamp().IsValid() {
		return connlog.Report{}, errors.New("the report has no time")
	}
	r := connlog.Report{
		ID: id.String(), Ended: c.GetAction() == proto.Connection_DISCONNECT,
		At: asTime(c.GetTimestamp()), Opened: asTime(c.GetConnectedAt()),
		Type: store.ConnType(c.GetType()), App: disconnect.ScrubTo(c.GetApp(), maxApp),
		UserName: disconnect.Scrub(c.GetPrincipal()), IP: disconnect.ScrubTo(c.GetIp(), maxIP),
		ClientVersion: disconnect.ScrubTo(c.GetClientVersion(), maxClientVersion), Path: store.ConnPath(c.GetPath()),
		BytesSent: count(c.GetBytesSent()), BytesReceived: count(c.GetBytesReceived()),
		OfLink: c.GetAction() == proto.Connection_OF_LINK,
	}
	if client, ok := netip.AddrFromSlice(c.GetClient()); ok {
		r.Client = client.WithZone("").String()
	}
	if c.GetAction() == proto.Connection_INTERRUPTION {
		r.Interrupted, r.Ending = asTime(c.GetInterruptedAt()), reportedEnding(c)
		if r.Interrupted.IsZero() || r.Interrupted.After(r.At) || !r.Ending.Reason.MayInterrupt() {
			return connlog.Report{}, errors.New("the interruption has no beginning before its end, or no reason that an interruption may have")
		}
		return r, nil
	}
	if r.Ended {
		r.Ending = reportedEnding(c)
		if code := int(c.GetStatusCode()); code >= 0 {
			r.ExitCode = &code
		}
	}
	return r, nil
}

// count is a number of bytes as the database can store it.
func count(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// reportedEnding is how the agent says that a connection ended. An agent that gives
// text only has told no reason that could be trusted to be one of the set.
func reportedEnding(c *proto.Connection) disconnect.Attribution {
	a := wire.ToAttribution(c.GetAttribution()).On(disconnect.AgentToClient)
	if a.Detail == "" {
		a.Detail = disconnect.Scrub(c.GetReason())
	}
	return a
}

// asTime returns the zero time for a message that is missing or makes no sense.
func asTime(t *timestamppb.Timestamp) time.Time {
	if !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}

// startConnLog opens the connection log.
func (s *Server) startConnLog(ctx context.Context) (err error) {
	s.connlog, err = connlog.New(ctx, connlog.Config{
		Store: s.store, Logger: s.logger, Instance: s.instance, Now: s.opts.Now, Ended: s.connectionEnded,
		Changed:   s.connectionChanged,
		Retention: s.opts.ConnectionRetention, Lease: s.opts.OutageLimit + connlog.DefaultLease,
	})
	return err
}

// connectionChanged passes on what is new of a connection: to whoever takes events, and to
// its agent, if that said something else of how it ended. A better ending has a line in the
// server's log, which is no second ending.
func (s *Server) connectionChanged(c store.Connection) {
	s.events.changed(c)
	if s.rulings.changed(c) {
		s.nudge(c.Workspace.ID)
	}
	control := c.ConnectType != disconnect.AgentToClient
	if c.Status != store.StatusClosed || c.Revision == 0 && !(control && c.Ending != c.Word && c.Instance == s.instance) {
		return
	}
	s.logger.LogAttrs(s.background, slog.LevelInfo, "verdict changed", c.Ending.Attr(),
		slog.String("connection_id", c.ID), slog.String("workspace_id", c.Workspace.ID), slog.String("user", c.User.Name),
		slog.String("type", c.Type.String()), slog.Int("revision", c.Revision), slog.String("rule", c.Judgement.Rule.String()),
		slog.String("confidence", c.Judgement.Confidence.String()))
}

// connectionEnded writes down a connection's end: the one line of it in the server's
// own log. A control link of this life has been counted, and has a line, already.
func (s *Server) connectionEnded(c store.Connection) {
	s.orders.ended(c.Workspace.ID, c.ID)
	s.ends.ended(c.ID)
	lasted := c.DisconnectedAt.Sub(c.ConnectedAt)
	if c.ConnectType == disconnect.AgentToClient || c.Instance != s.instance {
		s.meters.set.Ended(c.Ending, c.Type.String(), lasted)
	}
	if c.ConnectType != disconnect.AgentToClient {
		if c.Instance != s.instance {
			s.formerLinkEnded(c)
		}
		return
	}
	c.Ending.Log(s.background, s.logger, "connection ended",
		slog.String("connection_id", c.ID), slog.String("workspace_id", c.Workspace.ID), slog.String("user", c.User.Name),
		slog.String("type", c.Type.String()), slog.String("ip", c.IP), slog.Duration("duration", lasted))
}

// formerLinkEnded is the line of a control link that a former life of the server left open,
// which could not write it.
func (s *Server) formerLinkEnded(c store.Connection) {
	attrs := []slog.Attr{slog.String("connection_id", c.ID), slog.String("user", c.User.Name)}
	msg := "former client control link ended"
	if c.ConnectType == disconnect.ServerToAgent {
		msg = "former agent control link ended"
		attrs = append(attrs, slog.String("workspace_id", c.Workspace.ID))
	}
	c.Ending.Log(s.background, s.logger, msg, attrs...)
}
