package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/coordinator"
	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
)

// maxHostKey bounds the text of an SSH host key, in bytes; an RSA key of 16384 bits
// has less.
const maxHostKey = 4 << 10

// maxTerminalUsers bounds the users that one agent may ask about; no machine has terminals
// of more.
const maxTerminalUsers = 1024

// agentAPI is what agents ask of the server over their control link.
type agentAPI struct {
	proto.UnimplementedAgentServiceServer
	store    *store.Store
	connlog  *connlog.Log
	orders   *orders
	rulings  *rulings
	presence *presence
	logger   *slog.Logger
	now      func() time.Time
	// outageLimit is how long clients may be silent.
	outageLimit time.Duration
	canReach    func(context.Context, auth.Principal, store.Workspace) (bool, error)
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
	switch {
	case ok && link.Peer().Kind == control.RelayPeer:
		return status.Error(codes.PermissionDenied, "a relay is no node")
	case ok && link.Peer().Kind == control.AgentPeer && !g.presence.registered(link):
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
	ws, err := a.store.WorkspaceByID(ctx, id.ID)
	if err == nil && ws.SSHHostKey != key { // a thousand agents that come back write nothing
		ws.SSHHostKey, err = a.store.PinSSHHostKey(ctx, id.ID, key, a.now())
	}
	if err != nil {
		return nil, a.failed(ctx, id, err)
	}
	if ws.SSHHostKey != key {
		a.logger.WarnContext(ctx, "agent refused: its ssh host key is not the pinned one", "workspace_id", id.ID)
		return nil, status.Error(codes.PermissionDenied,
			"this workspace is registered with another SSH host key: start the agent with its former state directory, or have its owner run: fairlead workspace rekey")
	}
	if older := a.presence.opened(ws, link); older != nil {
		displace(ctx, a.logger, older, "agent")
		a.buryDisplaced(ctx, ws.ID, older)
	}
	a.connlog.LinkOf(link.ConnectionID(), link.PeerInstance())
	a.welcomeBack(ws.ID, link)
	// Orders that change from here on nudge this link.
	orders, err := a.orders.current(ctx, ws.ID)
	if err == nil {
		ws, err = a.store.WorkspaceByID(ctx, ws.ID) // so do settings
	}
	if err != nil {
		return nil, a.failed(ctx, id, err)
	}
	if orders.Withdrawn, err = a.withdrawn(ctx, ws, req.GetTerminalUsers()); err != nil {
		return nil, a.failed(ctx, id, err)
	}
	orders.Verdicts = a.rulings.of(ws.ID)
	return &proto.Manifest{
		WorkspaceId: ws.ID, WorkspaceName: ws.Name, OwnerName: ws.OwnerName, Orders: orders,
		Directory: ws.Settings.Directory, Environment: ws.Settings.Environment, MotdFile: ws.Settings.MOTDFile,
		OutageLimit: durationpb.New(a.outageLimit),
	}, nil
}

// withdrawn returns those of the users who may not be in a workspace any more.
func (a *agentAPI) withdrawn(ctx context.Context, ws store.Workspace, users []string) (gone []*proto.Orders_Withdrawn, err error) {
	for _, name := range users[:min(len(users), maxTerminalUsers)] {
		detail, err := a.whyWithdrawn(ctx, ws, name)
		if err != nil {
			return nil, err
		}
		if detail != "" {
			gone = append(gone, &proto.Orders_Withdrawn{User: name, Goodbye: wire.FromGoodbye(revoked(detail))})
		}
	}
	return gone, nil
}

// whyWithdrawn says why a user may not be in a workspace; "" is who may.
func (a *agentAPI) whyWithdrawn(ctx context.Context, ws store.Workspace, name string) (detail string, err error) {
	const noRight = "the right to reach this workspace was withdrawn"
	u, err := a.store.UserByName(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return noRight, nil
	case err != nil:
		return "", err
	case u.Disabled:
		return auth.ErrDisabled.Error(), nil
	}
	p := auth.Principal{Kind: auth.KindUser, UserID: u.ID, UserName: u.Name, Role: u.Role}
	if ok, err := a.canReach(ctx, p, ws); err != nil || ok {
		return "", err
	}
	return noRight, nil
}

// welcomeBack corrects what was believed of an agent that lost its link during a
// platform's notice, and lives. Its connections follow when it announces them.
func (a *agentAPI) welcomeBack(workspaceID string, link *control.Link) {
	if lost, lives := a.orders.returned(workspaceID, link.PeerInstance()); lives {
		lost.row.Revise(lost.ending)
	}
}

// buryDisplaced closes the connections of an agent that was told to stop: it tells of
// them no more, and a newer one that is its copy would call it crashed.
func (a *agentAPI) buryDisplaced(ctx context.Context, workspaceID string, older *control.Link) {
	ending := older.Ending().Attribution
	if ending.Reason != disconnect.DuplicateAgent {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := a.connlog.EndConnections(ctx, workspaceID, older.PeerInstance(), ending, false); err != nil {
		a.logger.ErrorContext(ctx, "cannot record the ends of an agent's connections", "workspace_id", workspaceID, "error", err)
	}
}

// rivalTimeout is how long the link of an older agent may take to show that it lives.
const rivalTimeout = 2 * time.Second

// displace ends the link of an older agent, or relay, in favour of a newer one with the
// same token. One that still lives is told, so that the two do not take turns; one that
// does not answer is gone.
func displace(ctx context.Context, logger *slog.Logger, older *control.Link, what string) {
	// Once begun it is done, even if the newer one leaves meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rivalTimeout)
	defer cancel()
	if older.Probe(ctx) {
		logger.WarnContext(ctx, "two with one token: the older one is told to stop",
			"kind", what, "peer_id", older.Peer().ID, "instance", older.PeerInstance())
		_ = older.Close(disconnect.Goodbye{ // keeps the first cause
			Reason: disconnect.DuplicateAgent, Initiator: disconnect.Server,
			Detail: "another " + what + " registered with the same token",
		})
		return
	}
	older.Abort(disconnect.Attribution{
		Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		Detail: "no answer within " + rivalTimeout.String() + ", and another " + what + " registered",
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
