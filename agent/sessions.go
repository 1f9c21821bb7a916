package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
)

// serveSSH serves SSH inside the tailnet until the node or the server closes.
func (a *agent) serveSSH() {
	listener, err := a.node.Listen(proto.SSHPort)
	if err == nil {
		err = a.ssh.Serve(listener)
	}
	if err != nil && a.hardCtx.Err() == nil {
		a.logger.Error("ssh server stopped", "error", err)
	}
}

// serveCompanion serves the companion stream inside the tailnet.
func (a *agent) serveCompanion() {
	listener, err := a.node.Listen(proto.CompanionPort)
	if err == nil {
		err = a.companion.Serve(listener)
	}
	if err != nil && a.hardCtx.Err() == nil {
		a.logger.Error("companion stopped", "error", err)
	}
}

// sessionSettings is asked at the start of each session, so that a manifest that
// changed is followed.
func (a *agent) sessionSettings() agentssh.Settings {
	m := a.manifest.Load()
	if m == nil {
		return agentssh.Settings{}
	}
	return agentssh.Settings{Directory: m.Directory, Environment: m.Environment, MOTDFile: m.MOTDFile}
}

// trackSession mints the session's connection id, tells the client and the server,
// and does the same at its end. A client is not told how its forwards end: what it asks
// for by the port of its SSH connection is the session there.
func (a *agent) trackSession(s agentssh.Session) (id string, ended func(agentssh.Ended)) {
	connection := uuid.New()
	client := addrPort(s.RemoteAddr)
	open := &proto.Connection{
		Id: connection[:], Type: typeOf(s), App: s.App.Name, ClientVersion: s.ClientVersion,
		Client: client.Addr().AsSlice(),
	}
	open.Ip, open.Path = a.pathOf(client.Addr())
	open.Principal = a.principalOf(client.Addr())
	a.live.add(connection.String(), open.GetPrincipal(), s.Name, s.End)
	report := a.trackConnection(open, client.Addr())
	forward := s.Kind == agentssh.KindForward
	if forward {
		a.companion.Hold(client, connection.String())
	} else {
		a.companion.Flow(client, connection.String())
	}
	return connection.String(), func(e agentssh.Ended) {
		a.live.remove(connection.String())
		// On record before anybody is told: what the client was told is never missing.
		report(e, func(end *proto.Connection) {
			end.Ip, end.Path = a.pathOf(client.Addr())
			end.App = e.App.Name
		})
		if forward {
			a.companion.Release(client, connection.String())
		} else {
			a.tombstones.add(client, connection.String(), e.Attribution, e.ExitCode)
			a.companion.Ended(client, connection.String(), e.Attribution, e.ExitCode)
		}
	}
}

// typeOf says what is at the agent's end of a connection: for a forward the program
// behind the port, if it is one that is known.
func typeOf(s agentssh.Session) proto.Connection_Type {
	switch {
	case s.Kind == agentssh.KindAttach:
		return proto.Connection_RECONNECTING_PTY
	case s.Kind != agentssh.KindForward:
		return proto.Connection_SSH
	case s.Behind == "jetbrains":
		return proto.Connection_JETBRAINS
	case s.Behind == "vscode":
		return proto.Connection_VSCODE
	}
	return proto.Connection_PORT_FORWARD
}

// principalOf returns the user behind a peer; "" when there is none.
func (a *agent) principalOf(peer netip.Addr) string {
	key, ok := a.node.PeerByAddr(peer)
	if !ok {
		return ""
	}
	principal, _ := a.peers.Principal(key)
	return principal
}

// pathOf returns how a peer's packets go now, and its public IP ("" while relayed).
func (a *agent) pathOf(peer netip.Addr) (ip string, path proto.Connection_Path) {
	key, ok := a.node.PeerByAddr(peer)
	if !ok {
		return "", proto.Connection_PATH_UNSPECIFIED
	}
	now := a.node.Path(key)
	switch now.Kind {
	case tailnet.PathDirect:
		if endpoint, err := netip.ParseAddrPort(now.Endpoint); err == nil {
			ip = endpoint.Addr().String()
		}
		return ip, proto.Connection_DIRECT
	case tailnet.PathRelay:
		return "", proto.Connection_RELAY
	}
	return "", proto.Connection_PATH_UNSPECIFIED
}

// peerEnding is what is known about the end of a client beside its SSH connection.
func (a *agent) peerEnding(remote net.Addr) (disconnect.Attribution, bool) {
	return a.companion.Ending(addrPort(remote).Addr())
}

// clientSaidGoodbye ends what the client has left open.
func (a *agent) clientSaidGoodbye(peer netip.Addr, g disconnect.Goodbye) {
	a.ssh.EndPeer(peer, g.On(disconnect.AgentToClient))
}

// peerRemoved ends the sessions of a client whose right the server has withdrawn. One
// that left by itself, or has changed, ends its own.
func (a *agent) peerRemoved(key tailnetproto.NodeKey, why disconnect.Goodbye) {
	if why.Reason == disconnect.Unknown {
		return
	}
	addr, attr := key.Address(), why.On(disconnect.AgentToClient)
	a.companion.EndPeer(addr, attr)
	a.ssh.EndPeer(addr, attr)
	// Its user's terminals may be withdrawn too, one begun a moment ago included.
	select {
	case a.askAgain <- struct{}{}:
	default:
	}
}

// clientIsSilent ends the sessions of a client that was away for too long.
func (a *agent) clientIsSilent(peer netip.Addr, attr disconnect.Attribution) {
	a.ssh.EndPeer(peer, attr)
}

// clientInterrupted writes down that a client was silent for a while.
func (a *agent) clientInterrupted(peer netip.Addr, i companion.Interruption) {
	i.Attribution.Log(context.Background(), a.logger, "connection interrupted", slog.String("peer", peer.String()),
		slog.Any("connection_ids", i.Connections), slog.Time("began", i.Began), slog.Duration("duration", i.Duration))
	for _, text := range i.Connections {
		if id, err := uuid.Parse(text); err == nil {
			a.queueInterruption(id, i.Attribution, i.Began, i.Duration)
		}
	}
}

// pathChanged passes on how packets reach a client now.
func (a *agent) pathChanged(e tailnet.PathEvent) {
	a.companion.PathChanged(e.Peer.Address(), companion.Path{Relayed: e.New.Kind == tailnet.PathRelay, Via: e.New.Endpoint + e.New.Relay})
}

// kickPeer tries to reach a client that is silent.
func (a *agent) kickPeer(peer netip.Addr) {
	if key, ok := a.node.PeerByAddr(peer); ok {
		a.node.Kick(key)
	}
}

func addrPort(addr net.Addr) netip.AddrPort {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return ap
}
