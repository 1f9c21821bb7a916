package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/coordinator"
	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
)

// maxHostKey bounds the text of an SSH host key, in bytes; an RSA key of 16384 bits
// has less.
const maxHostKey = 4 << 10

// agentAPI is what agents ask of the server over their control link.
type agentAPI struct {
	ended func(disconnect.Attribution) // counts one

	proto.UnimplementedAgentServiceServer
	store    *store.Store
	presence *presence
	logger   *slog.Logger
	now      func() time.Time
}

// caller returns the agent that calls, and the link that its call came over.
func (*agentAPI) caller(ctx context.Context) (*control.Link, control.Identity, error) {
	link, ok := control.LinkFrom(ctx)
	if !ok {
		return nil, control.Identity{}, status.Error(codes.FailedPrecondition, "not called over a control link")
	}
	id := link.Peer()
	if id.Kind != control.AgentPeer {
		return nil, control.Identity{}, status.Error(codes.PermissionDenied, "only an agent may call this")
	}
	return link, id, nil
}

// errUnregistered refuses an agent that has not registered the pinned host key on its
// link, or has been replaced by one that has.
var errUnregistered = status.Error(codes.PermissionDenied, "this agent is not the one that is registered for its workspace")

// registeredOnly is the tailnet service for clients, and for agents that have
// registered: a stolen token alone does not take an agent's place.
type registeredOnly struct {
	*coordinator.Coordinator
	presence *presence
}

// Coordinate implements the service.
func (g registeredOnly) Coordinate(stream tailnetproto.TailnetService_CoordinateServer) error {
	link, ok := control.LinkFrom(stream.Context())
	if ok && link.Peer().Kind == control.AgentPeer && !g.presence.registered(link) {
		return errUnregistered
	}
	return g.Coordinator.Coordinate(stream)
}

// GetManifest implements the service. The first host key that an agent registers is
// pinned; a different one later is refused, since somebody may be taking its place,
// until the workspace's owner allows the change. Only then the agent counts as there.
func (a *agentAPI) GetManifest(ctx context.Context, req *proto.GetManifestRequest) (*proto.Manifest, error) {
	link, id, err := a.caller(ctx)
	if err != nil {
		return nil, err
	}
	key, err := checkHostKey(req.GetSshHostKey())
	if err != nil {
		return nil, err
	}
	pinned, err := a.store.PinSSHHostKey(ctx, id.ID, key, a.now())
	if err != nil {
		return nil, a.failed(ctx, id, err)
	}
	if pinned != key {
		a.logger.WarnContext(ctx, "agent refused: its ssh host key is not the pinned one", "workspace_id", id.ID)
		return nil, status.Error(codes.PermissionDenied,
			"this workspace is registered with another SSH host key: start the agent with its former state directory, or have its owner run: fairlead workspace rekey")
	}
	ws, err := a.store.WorkspaceByID(ctx, id.ID)
	if err != nil {
		return nil, a.failed(ctx, id, err)
	}
	if older := a.presence.rival(link); older != nil {
		a.displace(ctx, older)
	}
	a.presence.opened(ws.ID, link)
	return &proto.Manifest{WorkspaceId: ws.ID, WorkspaceName: ws.Name, OwnerName: ws.OwnerName}, nil
}

// rivalTimeout is how long the link of an older agent may take to show that it lives.
const rivalTimeout = 2 * time.Second

// displace ends the link of an older agent in favour of a newer one with the same
// token and host key. An agent that still lives is told, so that the two do not take
// turns; one that does not answer is gone.
func (a *agentAPI) displace(ctx context.Context, older *control.Link) {
	// Once begun it is done, even if the newer one leaves meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rivalTimeout)
	defer cancel()
	if older.Probe(ctx) {
		a.logger.WarnContext(ctx, "two agents with one token: the older one is told to stop",
			"workspace_id", older.Peer().ID, "instance", older.PeerInstance())
		_ = older.Close(disconnect.Goodbye{ // keeps the first cause
			Reason: disconnect.DuplicateAgent, Initiator: disconnect.Server,
			Detail: "another agent registered for the same workspace",
		})
		return
	}
	older.Abort(disconnect.Attribution{
		Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		Detail: "no answer within " + rivalTimeout.String() + ", and another agent registered",
	})
}

// failed turns a failure of the store into what the agent may know of it.
func (a *agentAPI) failed(ctx context.Context, id control.Identity, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return status.Error(codes.NotFound, "this workspace does not exist any more")
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	a.logger.ErrorContext(ctx, "agent request failed", "workspace_id", id.ID, "error", err)
	return status.Error(codes.Internal, "the server failed to answer; its log tells why")
}

// checkHostKey returns a host key in the one form that is stored and compared.
func checkHostKey(text string) (string, error) {
	bad := status.Error(codes.InvalidArgument, "the SSH host key is not one key in authorized_keys form")
	if len(text) > maxHostKey {
		return "", bad
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(rest) != 0 {
		return "", bad
	}
	line := ssh.MarshalAuthorizedKey(key)
	return string(line[:len(line)-1]), nil // without its newline
}

// ReportConnection implements the service: a connection at an agent opened or ended.
// For now it is written to the log only.
func (a *agentAPI) ReportConnection(ctx context.Context, req *proto.ReportConnectionRequest) (*proto.ReportConnectionResponse, error) {
	link, id, err := a.caller(ctx)
	if err != nil {
		return nil, err
	}
	if !a.presence.registered(link) {
		return nil, errUnregistered
	}
	c := req.GetConnection()
	connID, err := checkConnection(c)
	if err != nil {
		return nil, err
	}
	attrs := []slog.Attr{
		slog.String("connection_id", connID.String()),
		slog.String("workspace_id", id.ID),
		slog.String("type", typeNames[c.GetType()]),
		slog.String("user", disconnect.Scrub(c.GetPrincipal())),
		slog.String("ip", disconnect.Scrub(c.GetIp())),
	}
	if at := c.GetTimestamp(); at.IsValid() { // the agent's clock, for what it is worth
		attrs = append(attrs, slog.Time("at", at.AsTime()))
	}
	if c.GetAction() == proto.Connection_CONNECT {
		a.logger.LogAttrs(ctx, slog.LevelInfo, "connection opened", attrs...)
		return &proto.ReportConnectionResponse{}, nil
	}
	attrs = append(attrs, slog.Int("status_code", int(c.GetStatusCode())))
	ending := reportedEnding(c)
	a.ended(ending)
	ending.Log(ctx, a.logger, "connection ended", attrs...)
	return &proto.ReportConnectionResponse{}, nil
}

// typeNames are the words for connection types. An agent may not know one.
var typeNames = map[proto.Connection_Type]string{
	proto.Connection_TYPE_UNSPECIFIED: "unspecified",
	proto.Connection_SSH:              "ssh",
	proto.Connection_VSCODE:           "vscode",
	proto.Connection_JETBRAINS:        "jetbrains",
	proto.Connection_RECONNECTING_PTY: "reconnecting_pty",
	proto.Connection_PORT_FORWARD:     "port_forward",
}

// checkConnection is the border for connection reports.
func checkConnection(c *proto.Connection) (uuid.UUID, error) {
	connID, err := uuid.FromBytes(c.GetId())
	if err != nil || connID == uuid.Nil {
		return uuid.Nil, status.Error(codes.InvalidArgument, "a connection id is 16 bytes, not all zero")
	}
	if a := c.GetAction(); a != proto.Connection_CONNECT && a != proto.Connection_DISCONNECT {
		return uuid.Nil, status.Error(codes.InvalidArgument, "the action is neither CONNECT nor DISCONNECT")
	}
	if typeNames[c.GetType()] == "" {
		return uuid.Nil, status.Error(codes.InvalidArgument, "the connection type is not known")
	}
	return connID, nil
}

// reportedEnding is how the agent says that a connection ended. An agent that gives
// text only has told no reason that could be trusted to be one of the set.
func reportedEnding(c *proto.Connection) disconnect.Attribution {
	a := wire.ToAttribution(c.GetAttribution()).On(disconnect.AgentToClient)
	if a.Detail == "" {
		a.Detail = disconnect.Scrub(c.GetReason())
	}
	return a
}
